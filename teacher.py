"""Pretrain a teacher, or the student's size without a teacher (the baseline).

    python teacher.py configs/llama_demo.py
    python teacher.py configs/base_nano.py --corpus=DIR

It is distill.py's loop with no teachers. distill.py trains the teachers that are missing by itself;
this is for training one alone.
"""
from onecoach.config import UserError, answer_early, parse_args, run_main

if __name__ == "__main__":
    answer_early(lambda argv: parse_args(argv, __doc__))

from distill import train


def main(argv):
    config = parse_args(argv, __doc__)
    if config.teachers:
        raise UserError(f"{config.name} has teachers ({', '.join(config.teachers)}); run it with "
                        "distill.py")
    train(config)


if __name__ == "__main__":
    run_main(main)
