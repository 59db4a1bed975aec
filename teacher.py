"""Pretrain a teacher, or the student's size without a teacher (the baseline): distill.py's loop with no teachers.

    python teacher.py configs/llama_demo.py
    python teacher.py configs/base_nano.py --corpus=DIR

distill.py trains the teachers that are missing by itself; this is for training one alone.
"""
import config as config_module
from config import UserError
from distill import train


def main(argv):
    config = config_module.parse_args(argv, __doc__)
    if config.teachers:
        raise UserError(f"{config.name} has teachers ({', '.join(config.teachers)}); run it with distill.py")
    train(config)


if __name__ == "__main__":
    config_module.run_main(main)
