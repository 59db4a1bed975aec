"""Pretrain a teacher, or the student's size without a teacher (the baseline).

    python teacher.py configs/llama_demo.py
    python teacher.py configs/base_nano.py --corpus=DIR

It is distill.py's loop with no teachers. distill.py trains the teachers that are missing by itself;
this is for training one alone.
"""
from onecoach.config import UserError, parse_args, run_main


def main(argv):
    config = parse_args(argv, __doc__)
    if config.teachers:
        raise UserError(f"{config.name} has teachers ({', '.join(config.teachers)}); run it with "
                        "distill.py")
    from distill import train  # here, so that --help does not wait for torch
    train(config)


if __name__ == "__main__":
    run_main(main)
