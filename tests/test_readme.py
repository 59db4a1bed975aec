"""What README says of the files is so, and its four patches work for whoever pastes them."""
import json
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PATCHES = re.findall(r"^```diff\n(.*?)^```$", README, re.M | re.S)
# two steps of a tiny student whose teacher is the truth, so that no other run is trained
TRAIN = ("distill.py", "configs/rkl_demo.py", "--teachers=truth", "--baseline=", "--sentences=300",
         "--max_steps=2", "--n_layer=1", "--d_model=8", "--d_ff=16", "--batch_size=4",
         "--block_size=32", "--val_tokens=500", "--eval_tokens=0", "--device=cpu")


def test_every_document_that_readme_names_is_there():
    paths = re.findall(r"\]\(([\w/.-]+)(?:#[^)]*)?\)", README)
    assert paths and all((ROOT / path).exists() for path in paths)
    configs = re.findall(r"configs/\w+\.py", README)
    assert configs and all((ROOT / path).exists() for path in configs)


def test_documents_of_the_front_are_short_and_name_what_is_there():
    assert README.count("\n") <= 150
    for name, lines in (("CONTRIBUTING.md", 60), ("CHANGELOG.md", 80)):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert text.count("\n") <= lines
        paths = re.findall(r"`((?:results|configs|tests|onecoach)/[\w/]+\.\w+)`", text)
        paths += re.findall(r"\]\(([\w/.-]+)\)", text) + re.findall(r"`(\w+\.py)`", text)
        assert all((ROOT / path).exists() for path in paths if "TABLE" not in path), name


# ---------------------------------------------------------------- the patches of "Change it"

@pytest.fixture
def checkout(tmp_path):
    """A copy of the tracked files, without results, in a git repository of its own."""
    def git(*words, folder=tmp_path, **keys):
        return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True,
                              text=True, **keys).stdout
    for name in git("ls-files", folder=ROOT).splitlines():
        if not name.startswith("results/") and (ROOT / name).exists():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    git("init")
    return lambda patch: git("apply", input=patch)


def run(folder, *words):
    """The output of python WORDS in `folder`; the test fails with its errors."""
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_four_patches_apply_together(checkout):
    assert len(PATCHES) == 4
    for patch in PATCHES:
        checkout(patch)


def test_patch_of_a_divergence(checkout, tmp_path):
    checkout(PATCHES[0])
    hand = """
import torch
import losses
torch.manual_seed(0)
h, W, z_p = torch.randn(4, 3), torch.randn(5, 3), torch.randn(4, 5)
loss = losses.distillation_loss(h, W, [lambda rows: z_p[rows]], torch.zeros(4, dtype=torch.long),
                                divergence="hellinger")
q, p = (h @ W.T).softmax(-1), z_p.softmax(-1)
assert torch.allclose(loss, (q.sqrt() - p.sqrt()).square().sum(-1).mean() / 2)
"""
    run(tmp_path, "-c", hand)


def test_patch_of_a_corpus(checkout, tmp_path):
    checkout(PATCHES[1])
    known = "from onecoach.corpora import CORPORA; print(CORPORA['mine'])"
    assert "https://example.org/mine.txt" in run(tmp_path, "-c", known)


def test_patch_of_a_metric(checkout, tmp_path):
    checkout(PATCHES[2])
    run(tmp_path, *TRAIN)
    lines = (tmp_path / "out/rkl_demo/metrics.jsonl").read_text().splitlines()
    accuracies = [line["val_accuracy"] for line in map(json.loads, lines) if "val_ce" in line]
    assert len(accuracies) >= 2 and all(0 <= accuracy <= 1 for accuracy in accuracies)


def test_patch_of_a_block(checkout, tmp_path):
    logits = """
import torch
from model import LM, ModelConfig
torch.manual_seed(0)
lm = LM(ModelConfig(vocab_size=9, n_layer=1, n_head=2, d_model=8, d_ff=16, block_size=8)).eval()
for p in lm.parameters():
    torch.nn.init.normal_(p)
with torch.no_grad():
    print(lm.logits(lm(torch.arange(6)[None]))[0, -1].tolist())
"""
    before = run(tmp_path, "-c", logits)
    checkout(PATCHES[3])
    after = run(tmp_path, "-c", logits)
    assert before != after
