"""Helpers for tests that train tiny runs; the fixtures are in conftest.py."""
import collections
import contextlib
import json
import math

import pytest
import torch
import torch.nn.functional as F

import distill
from bpe import Tokenizer, pre_tokens, train_bpe
from model import LM, ModelConfig
from onecoach import files, run
from onecoach.config import UserError

FILES = {"config.json", "ckpt.pt", "ckpt.prev.pt", "best.pt", "tokenizer.json", "metrics.jsonl",
         "eval.json", "samples.txt", ".lock"}


TINY = dict(device="cpu", dtype="float32", corpus="babytalk", sentences=300, mark="line",
            n_layer=1, n_head=2, d_model=16, d_ff=32, block_size=16, batch_size=4, max_steps=5,
            lr=1e-2, val_tokens=64, log_every=1)


# a learning rate that undoes in the run's second half what was learned
SPOILED_LATE = "linear(0: 0.03, 0.4: 0.03, 0.5: 9)"


def trained(config, name=None):
    """Train, and the run's folder."""
    distill.train(config)
    return config.folder.with_name(name or config.name)


def small_lm(tokenizer, arch="llama", block_size=16, seed=0):
    """Random weights large enough that the logits differ by several nats."""
    torch.manual_seed(seed)
    lm = LM(ModelConfig(arch=arch, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, d_model=16,
                        d_ff=32, block_size=block_size)).eval()
    with torch.no_grad():
        for p in lm.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return lm


def random_run(config, tokenizer, seed=0, checkpoints=("best.pt",)):
    """The folder of a run as the loop leaves it, with random weights, and without its text."""
    config.folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(config.folder / "tokenizer.json")
    run.write_config(config, "float32", tokenizer)
    torch.manual_seed(seed)
    lm = run.make_model(config, tokenizer.vocab_size)
    for name in checkpoints:
        state = {"model": lm.state_dict(), "step": 1, "steps": 1}
        files.save_checkpoint(config.folder / name, state)
    return config.folder


def lines(folder, key="step"):
    """The lines of metrics.jsonl that have `key`."""
    text = (folder / "metrics.jsonl").read_text()
    return [m for m in map(json.loads, text.splitlines()) if key in m]


def without_speed(found):
    return [{k: v for k, v in m.items() if k != "tokens_per_s"} for m in found]


def weights(folder, file="ckpt.pt"):
    return torch.load(folder / file, weights_only=True)["model"]


def same(a, b):
    """True if two nested states hold the same bits."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@contextlib.contextmanager
def refusal(*words, error=UserError):
    """The block is refused in one line that has all the words."""
    with pytest.raises(error) as e:
        yield
    assert "\n" not in str(e.value) and all(word in str(e.value) for word in words), str(e.value)


def refused(config, *words):
    with refusal(*words):
        distill.train(config)


def tokenizer_of(text, vocab_size=0):
    return Tokenizer(train_bpe(collections.Counter(pre_tokens(text)), vocab_size))


@torch.no_grad()
def log_probs(lm, x, tau=1.0):
    return F.log_softmax(lm.logits(lm(x)) / tau, -1)


def spoiled(steps, what):
    """A change of the loss at `steps`: the loss is not finite, its gradient is not, neither is."""
    def change(call, W, loss):
        if call not in steps:
            return loss
        zero = W.sum()
        zero = zero - zero.detach()
        return loss + {"loss": math.inf, "gradient": zero.sqrt(), "both": zero / 0}[what]
    return change


ROLLOUTS = dict(teachers=["coach"], on_policy=0.5, prompt_len=4, init="first", alpha=0.3,
                rollout_mix=0.2, max_steps=8)


STEPS = dict(max_steps=9, log_every=4, dropout=0.1, val_every=10**6)


def broken_at(monkeypatch, settings, step):
    """Train until the checkpoint of `step` is written; the run's folder."""
    save = files.save_checkpoint

    def interrupt(path, state):
        save(path, state)
        if path.name == "ckpt.pt" and state["step"] == step:
            raise RuntimeError("the power went off")
    with monkeypatch.context() as m, pytest.raises(RuntimeError, match="power"):
        m.setattr(files, "save_checkpoint", interrupt)
        distill.train(settings)
    return settings.folder
