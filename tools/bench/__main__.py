"""Measure speed and memory, ours and the peers' in turn, in one run.

    python -m tools.bench bpe|loss|step|score [--size=nano|paper] [--peers]

    bpe      train a tokenizer of V 16000 and encode a cleaned corpus. The peer is Hugging Face
             tokenizers on the same pre-tokens; their ids are compared.
    loss     forward and backward of the distillation loss: 4096 positions, V 16000, alpha 0.5, tau
             2, reverse KL; nano d 128 from 256, paper d 512 from 1024. The peers are the
             materialised loss, liger-kernel, TRL and orda-kernel; all are compared with fp64.
    step     one optimizer step of distillation on 32 x 128 tokens, the step of distill.py. nano: 4
             layers of d 128 from 6 of 256, paper: 16 of 512 from 24 of 1024. The peers are Baby
             Llama's step in transformers and the same step with Liger's loss, each also compiled.
    score    log-probabilities of BLiMP's first 15 pairs per paradigm (eval/blimp_filtered under
             $BABYLM_DIR; without it babytalk's pairs) under a random model of the student's size.
             The peer is minicons with the same weights.

bpe reads data/babylm_10m under $BABYLM_DIR (../shared), or babytalk if there is none.
Machines drift, so compare ratios. Memory is measured in a fresh process: the peak (step, score),
or the part above the inputs (bpe, loss). On a GPU it is the allocator's, and `step` also shows
MFU. A peer that is not installed or fails is left out, and a line says why.

The last line is one JSON object: what, size, unit (seconds, tokens/s or sentences/s), ours, peer
(the fastest, peer_is), ours_gb, peer_gb (the leanest, peer_gb_is), rows (the whole table), and
more; null if no peer was measured.
"""
import json

from onecoach.config import Arguments, Config, run_main


def read_args(argv):
    parser = Arguments("-m tools.bench", __doc__)
    parser.add_argument("what", choices=("bpe", "loss", "step", "score"))
    parser.add_argument("--size", choices=("nano", "paper"), default="nano")
    parser.add_argument("--peers", action="store_true",
                        help="measure the installed peers too")
    parser.add_argument("--data", default="",
                        help="bpe: the corpus, in the form of the key `corpus`")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="auto: cuda if it is there")
    parser.add_argument("--batch", type=int, default=32,
                        help="step: sequences per step, a multiple of 4")
    return parser.parse_args(argv)


def main(argv):
    args = read_args(argv)
    # here, so that --help does not wait for torch
    from onecoach import files
    from onecoach.run import choose_device
    from tools.bench import loss, measure, score, step, text
    commands = {"bpe": text.bench_bpe, "loss": loss.bench_loss, "step": step.bench_step,
                "score": score.bench_score}

    measure.device = choose_device(Config(device=args.device))
    result = {"what": args.what, "size": args.size, **commands[args.what](args)}
    print(json.dumps(files.rounded(result, digits=5)))


if __name__ == "__main__":
    run_main(main)
