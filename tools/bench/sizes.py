"""The sizes that are measured: small ones for a CPU, and the paper's."""
import os
import pathlib

V = 16000         # tokens in the vocabulary
POSITIONS = 4096  # of `loss`
T = 128           # tokens in a sequence of `step`
PAIRS = 15        # per paradigm, in `score`
ROUNDS = {"nano": 7, "paper": 3}

# student and teacher
MODELS = {"nano": (dict(d_model=128, n_layer=4, d_ff=256, n_head=4),
                   dict(d_model=256, n_layer=6, d_ff=768, n_head=8)),
          "paper": (dict(d_model=512, n_layer=16, d_ff=1024, n_head=8),
                    dict(d_model=1024, n_layer=24, d_ff=3072, n_head=8))}
PIECES = {"nano": 2, "paper": 4}  # grad_accum, in the rows that cut the batch

BABYLM = pathlib.Path(os.environ.get("BABYLM_DIR", "../shared"))
