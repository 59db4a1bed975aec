"""Speed and memory, beside what a user would run instead: ours and the peers in turn, in one run.

    python -m tools.bench prepare|bpe|loss|step|score [--size=nano|paper] [--peers]

    prepare `python data.py` in a process of its own: from raw files to token files, V 16000, all of
            it, the imports too. --peers: the training and encoding alone of Hugging Face
            tokenizers, as for bpe. --data, --words: as for bpe, with data/babylm_10m/dev beside it.
    bpe     a tokenizer of V 16000 trained on a corpus, cleaned beforehand, and the corpus encoded
            into a token file. --peers: Hugging Face tokenizers with the same pre-tokens; are merges
            and ids the same? --data: the corpus, by default data/babylm_10m/train under $BABYLM_DIR
            (../shared), else generated babytalk; --words: about so many of its words.
    loss    forward and backward of the distillation loss alone: 4096 positions, V 16000, alpha 0.5,
            tau 2, reverse KL; nano d 128 from 256, paper d 512 from 1024. --peers: the materialised
            loss, liger-kernel's chunked JSD, TRL's chunked kernels and orda-kernel, each compared
            with ours in fp64 before it is timed.
    step    one optimizer step of distillation on 32 x 128 tokens, as in distill.py's loop. nano: 4
            layers of d 128 from 6 of 256, paper: 16 of 512 from 24 of 1024; also with the teacher
            read from the disk (teacher_cache = 64), written before, and with Muon for AdamW. Its
            flops beside those of its matrix products run alone, and what its parts take. --peers:
            Baby Llama's step in transformers, as it comes and compiled, and the same two with
            Liger's loss: all in ours' dtype, the first in fp32 too.
    score   log-probabilities of minimal pairs under a random model of the size of step's student:
            BLiMP's first 15 pairs a paradigm (eval/blimp_filtered under $BABYLM_DIR), else
            babytalk's; in fp32 and, where the processor has it, bf16. --peers: minicons, with the
            same weights.

Figures drift on shared machines, so quote the ratios. Memory is of a fresh process: its peak
(prepare, step, score), or what it adds to its inputs (bpe, loss); on a GPU of its allocations, and
`step` shows MFU and the teacher's own training too. The last line is one JSON object: what, size,
ours and peer (prepare, bpe and loss: seconds; step: tokens a second; score: sentences a second),
ours_gb, peer_gb, and more; null where no peer was measured. `peer` is of the fastest peer,
`peer_gb` of the one of least memory: peer_is and peer_gb_is name them. A peer that is not installed
or fails is said, and left out.
"""
from onecoach.config import Arguments, Config, read_early, run_main


def read_args(argv):
    parser = Arguments("-m tools.bench", __doc__)
    parser.add_argument("what", choices=("prepare", "bpe", "loss", "step", "score"))
    parser.add_argument("--size", choices=("nano", "paper"), default="nano")
    parser.add_argument("--peers", action="store_true",
                        help="measure the peers too, where they are installed")
    parser.add_argument("--data", default="",
                        help="prepare, bpe: the corpus, as the key `corpus` names it")
    parser.add_argument("--words", type=int, default=0,
                        help="prepare, bpe: take about so many words of it; 0: all")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="auto: cuda if it is there")
    parser.add_argument("--batch", type=int, default=32,
                        help="step: sequences a step, a multiple of 4")
    return parser.parse_args(argv)


if __name__ == "__main__":
    read_early(read_args)

import contextlib
import json
import math

from onecoach.run import device_of
from tools.bench import measure
from tools.bench.contests import bench_bpe, bench_loss, bench_prepare, bench_score, bench_step

COMMANDS = {"prepare": bench_prepare, "bpe": bench_bpe, "loss": bench_loss, "step": bench_step,
            "score": bench_score}


def plain(value):
    """value for JSON: floats with five digits, null for nan."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None


def main(argv):
    args = read_args(argv)
    measure.device = device_of(Config(device=args.device))
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(plain(COMMANDS[args.what](args))))


if __name__ == "__main__":
    run_main(main)
