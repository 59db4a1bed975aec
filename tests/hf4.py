"""The oldest transformers and tokenizers that our exports are promised for, beside the newest.

    python tests/hf4.py           install them into .venv-hf4-HASH, once; CI does that first
    python tests/hf4.py FOLDER    use an export by the transformers that is found; prints JSON

HASH is the digest of requirements-hf4.txt. They come before the environment's own packages by
PYTHONPATH, and torch and the rest stay those of the environment.
"""
import hashlib
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "tests/requirements-hf4.txt"
TEXTS = ["the dog sees", "the"]


def install():
    """Return the folder with the packages; RuntimeError says why they cannot be had."""
    from onecoach.corpora import building
    digest = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:10]
    folder = ROOT / f".venv-hf4-{digest}"
    if not folder.exists():
        with building(folder) as aside:
            done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps",
                                   "--target", aside, "-r", REQUIREMENTS],
                                  capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"transformers 4 cannot be installed: {done.stderr[-300:]}")
    return folder


def use(export, packages=None):
    """Return what a client of the folder `export` gets, in a process of its own."""
    path = os.pathsep.join(map(str, filter(None, [packages, os.environ.get("PYTHONPATH")])))
    done = subprocess.run([sys.executable, __file__, export], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def client(folder):
    """Do with an export what its users do: score, generate, pad on the left, classify."""
    import torch
    import transformers
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    greedy = dict(max_new_tokens=8, do_sample=False)
    with torch.no_grad():
        one = tokenizer(TEXTS[0], return_tensors="pt")
        logits = model(**one).logits[0]
        alone = model.generate(**one, **greedy)[0]

        left = AutoTokenizer.from_pretrained(folder, padding_side="left")
        both = left(TEXTS, padding=True, return_tensors="pt")
        padded = model.generate(**both, **greedy)

        head = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
        classes = head(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
        trunk = head.base_model.state_dict()
        same = all(torch.equal(weight, trunk[name])
                   for name, weight in model.base_model.state_dict().items())
    return dict(version=transformers.__version__, names=sorted(one), logits=logits.tolist(),
                alone=alone.tolist(), padded=padded.tolist(), classes=list(classes.shape),
                same_trunk=same)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    print(json.dumps(client(sys.argv[1])) if sys.argv[1:] else install())
