"""What is kept of a teacher: D over its k likeliest tokens and one for all others; the file."""
import contextlib
import dataclasses
import math
import os
import pathlib
import random
import signal
import threading
import time
import types

import numpy as np
import pytest
import torch
from test_losses import NAMES, V, heads, inputs, value_and_gradients

import data
import distill
import losses
from losses import TopK, distillation_loss, head, plain_loss, teacher_log_probs, top_k
from model import LM, ModelConfig
from onecoach import stored
from onecoach.config import UserError, read_config
from runs import TINY, lines, refusal, same, trained, weights, without_speed

pytestmark = pytest.mark.usefixtures("evaluated")

SETTINGS = [(1.0, 0.0, 1.0), (2.0, 0.5, 1.0), (0.7, 0.3, 0.4)]  # tau, alpha, mix


def kept(h_ps, W_ps, k, tau=1.0, ensemble="logits"):
    """The TopK of teachers' states and heads."""
    z_ps = [h_p @ W_p.T for h_p, W_p in zip(h_ps, W_ps)]
    return top_k(teacher_log_probs(z_ps, tau, ensemble), k)


# ---------------------------------------------------------------- the loss

@pytest.mark.parametrize("divergence", NAMES)
@pytest.mark.parametrize("tau, alpha, mix", SETTINGS)
@pytest.mark.parametrize("k", [3, V - 1])
def test_what_trains_is_the_definition_by_autograd(divergence, tau, alpha, mix, k):
    """Value and gradients in fp64; at k = V - 1 they are those of all logits, too."""
    if divergence == "fkl" and mix < 1:
        return
    h, W, h_ps, W_ps, labels = inputs()
    settings = dict(divergence=divergence, tau=tau, alpha=alpha, mix=mix)
    stored = kept(h_ps, W_ps, k, tau)
    plain = value_and_gradients(
        lambda h, W: plain_loss(h @ W.T, [stored], labels, **settings), h, W)
    if k == V - 1:
        exact = value_and_gradients(
            lambda h, W: distillation_loss(h, W, heads(h_ps, W_ps), labels, **settings), h, W)
        assert all((a - b).abs().max() < 1e-10 for a, b in zip(plain, exact))
    ours = value_and_gradients(
        lambda h, W: distillation_loss(h, W, [stored], labels, chunk=7, **settings), h, W)
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(ours, plain))


@pytest.mark.parametrize("divergence", [name for name in NAMES if not name.startswith("akl")])
@pytest.mark.parametrize("mix", [1.0, 0.6])
def test_it_is_a_lower_bound_that_rises_with_k(divergence, mix):
    if divergence == "fkl" and mix < 1:
        return
    h, W, h_ps, W_ps, labels = inputs(n=40)
    settings = dict(divergence=divergence, tau=1.5, mix=mix)
    bounds = [distillation_loss(h, W, [kept(h_ps, W_ps, k, 1.5)], labels, **settings)
              for k in range(1, V)]
    exact = distillation_loss(h, W, heads(h_ps, W_ps), labels, **settings)
    assert all(a <= b + 1e-12 for a, b in zip(bounds, [*bounds[1:], exact]))
    assert bounds[0] < exact * 0.99  # of something


def test_the_tail_of_a_sharp_teacher_is_kept_exactly_and_16_bits_keep_it():
    """1 - sum of 16-bit p's would be nothing but their rounding; the tail is stored by itself."""
    z = torch.zeros(4, 1000, dtype=torch.float64)
    z[:, 7] = 20.0
    log_p = z.log_softmax(-1)
    stored = top_k(log_p, 8)
    tail = math.log(992) - math.log(999 + math.exp(20))
    assert (stored.log_p[:, -1] - tail).abs().max() < 1e-9
    half = TopK(stored.ids, stored.log_p.half()).log_probs(torch.float32)
    assert half.exp().sum(-1) == pytest.approx(torch.ones(4), abs=1e-6)
    assert (half[:, -1] - tail).abs().max() < 0.01


@pytest.mark.parametrize("ensemble", ["logits", "probs"])
def test_an_ensemble_is_stored_as_its_mixture(ensemble):
    h, W, h_ps, W_ps, labels = inputs(teachers=2)
    exact = distillation_loss(h, W, heads(h_ps, W_ps), labels, tau=2.0, ensemble=ensemble)
    stored = kept(h_ps, W_ps, V - 1, 2.0, ensemble)
    assert (distillation_loss(h, W, [stored], labels, tau=2.0) - exact).abs() < 1e-12
    with pytest.raises(ValueError, match="the only teacher"):
        distillation_loss(h, W, [stored, head(h_ps[0], W_ps[0])], labels)


def test_the_masses_are_of_the_k_and_positions_that_do_not_count_have_no_part():
    h, W, h_ps, W_ps, labels = inputs()
    stored = kept(h_ps, W_ps, 3)
    loss, stats = distillation_loss(h, W, [stored], labels, return_stats=True)
    valid = labels != -100
    q = (h @ W.T).softmax(-1).gather(1, stored.ids).sum(-1)[valid].mean()
    p = stored.log_p[:, :-1].exp().sum(-1)[valid].mean()
    assert (stats["mass_q"].item(), stats["mass_p"].item()) == pytest.approx((q.item(), p.item()))

    h[~valid] = math.nan
    again, _ = distillation_loss(h, W, [stored], labels, return_stats=True)
    assert again == loss
    _, exact = distillation_loss(h, W, heads(h_ps, W_ps), labels, return_stats=True)
    assert "mass_q" not in exact


@pytest.mark.parametrize("where", [30.0, -30.0])
def test_a_student_far_off_has_a_finite_loss_and_gradient(where):
    """All of its mass in the tail, or none of it: in fp32, also under a mixed target."""
    z_q = torch.full((2, V), 0.0)
    z_q[:, :2] = where * 4
    stored = top_k(torch.arange(V).flip(0).float().expand(2, V).log_softmax(-1), 2)
    labels = torch.tensor([0, V - 1])
    for divergence in NAMES:
        for mix in (1.0, 0.5):
            if divergence == "fkl" and mix < 1:
                continue
            loss, grad, _ = value_and_gradients(
                lambda h, W: distillation_loss(h, W, [stored], labels, divergence=divergence,
                                               mix=mix, alpha=0.5), z_q, torch.eye(V))
            assert loss.isfinite() and grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [dict(tau=2.0, alpha=0.5), dict(divergence="jsd", mix=0.7)])
def test_compiled_equals_eager(settings, monkeypatch):
    if not losses.can_compile("cpu"):
        pytest.skip("torch.compile needs a C++ compiler, and there is none")
    h, W, h_ps, W_ps, labels = inputs(torch.float32, n=40)
    stored = kept(h_ps, W_ps, 3, settings.get("tau", 1.0))
    both = []
    for mode in ("eager", "compiled"):
        monkeypatch.setattr(losses, "mode", mode)
        before = stored.log_p.clone()
        both.append(value_and_gradients(
            lambda h, W: distillation_loss(h, W, [stored], labels, **settings), h, W))
        assert stored.log_p.equal(before)  # it is read again and again
    for a, b in zip(*both):
        assert (a - b).abs().max() < 1e-5


# ---------------------------------------------------------------- runs

@pytest.fixture
def coached(tiny):
    """The Config of a tiny run of one teacher; a cache of `k` where it is given."""
    tiny("coach", max_steps=4)

    def coached(name="kid", **keys):
        return tiny(name, teachers=["coach"], random_offset=False, **keys)
    return coached


def cache_files(config):
    return sorted(pathlib.Path(config.data_dir).glob("*/teacher-*"))


def vocabulary(config):
    return data.prepare(config).tokenizer.vocab_size


def test_a_run_at_k_of_all_but_one_is_the_exact_one(coached):
    exact = lines(trained(coached("exact", tau=2.0)))
    k = vocabulary(coached()) - 1
    stored = lines(trained(coached("stored", tau=2.0, teacher_cache=k)))
    assert stored[-1]["val_ce"] == pytest.approx(exact[-1]["val_ce"], abs=1e-4)
    for a, b in zip(stored, exact):
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)
            assert a["mass_p"] > 0.99


def test_the_first_run_writes_and_others_read_without_a_teachers_forward(coached, monkeypatch):
    """Another divergence, order, batch and lr read too. The same run again has the same bits."""
    keys = dict(teacher_cache=8, tau=2.25, max_steps=0, epochs=2)  # a tau that no other test has
    config = coached(**keys)
    of_others = {*cache_files(config)}
    first = trained(config)
    file, = {*cache_files(config)} - of_others
    before = file.read_bytes()
    asked = []  # chunks of which the teachers were asked
    compute = stored.StoredTeacher.compute

    def counted(self, x):
        asked.append(len(x))
        return compute(self, x)
    monkeypatch.setattr(stored.StoredTeacher, "compute", counted)
    again = trained(coached("again", **keys))
    assert same(weights(first), weights(again))
    assert without_speed(lines(first)) == without_speed(lines(again))
    assert not asked and file.read_bytes() == before
    other = dict(keys, divergence="jsd", lr=1e-3, order="length", batch_size=8, grad_accum=2)
    trained(coached("other", **other))
    assert sum(asked) <= 8  # those left over where an epoch ends within a batch
    assert {*cache_files(config)} - of_others == {file}
    trained(coached("hotter", **dict(keys, tau=3.25, max_steps=1)))
    assert len({*cache_files(config)} - of_others) == 2


def test_a_run_that_broke_off_in_its_first_epoch_goes_on_to_the_same_bits(coached, monkeypatch):
    keys = dict(teacher_cache=8, max_steps=6, mix=0.9, on_policy="stages(0: 0, 0.5: 0.5)",
                prompt_len=4)
    whole = trained(coached("whole", **keys))
    for file in cache_files(coached(**keys)):
        file.unlink()

    read = stored.StoredTeacher.read
    calls = []

    def broken(self, chunks):
        calls.append(chunks)
        if len(calls) == 3:  # its chunks are written by then, and the step is not done
            raise KeyboardInterrupt
        return read(self, chunks)
    monkeypatch.setattr(stored.StoredTeacher, "read", broken)
    with pytest.raises(KeyboardInterrupt):
        trained(coached("whole_too", **keys))
    assert same(weights(whole), weights(trained(coached("whole_too", **keys))))


def test_rollouts_and_validations_ask_the_teachers_themselves(coached):
    keys = dict(init="coach", on_policy=1.0, prompt_len=4, max_steps=2, alpha=0.3)
    a, b = (lines(trained(coached(name, teacher_cache=k, **keys)))
            for name, k in (("exact", 0), ("stored", 2)))
    assert without_speed(a) == without_speed(b)


@pytest.mark.parametrize("keys, words", [
    (dict(tau="linear(0: 2, 1: 1)"), ["tau", "schedule"]),
    (dict(random_offset=True), ["random_offset = False"]),
    (dict(block_size="stages(0: 8, 0.5: 16)"), ["block_size", "schedule"]),
    (dict(teachers=["truth"]), ["teachers", "runs"]),
    (dict(teachers=[]), ["teachers"]),
    (dict(teacher_cache=10**5), ["vocabulary", "allowed are 0 to"])])
def test_what_does_not_go_with_it_is_refused_by_name(tiny, coached, keys, words, tmp_path):
    keys = {"teachers": ["coach"], "random_offset": False, "teacher_cache": 4, **keys}
    with refusal(*words):
        distill.train(tiny("some", **keys))
    assert not (tmp_path / "out").exists()  # nor has the coach been trained


# ---------------------------------------------------------------- the file

SMALL = dict(teacher_cache=5, teachers=["coach", "other"], ensemble="probs", tau=2.0,
             random_offset=False, tokenizer="")


@pytest.fixture(scope="module")
def small(data_dir, tmp_path_factory):
    """A function that opens a store of two random teachers, in a folder of its own."""
    path = tmp_path_factory.mktemp("small") / "small.py"
    path.write_text("")
    keys = {**TINY, **SMALL, "data_dir": str(data_dir)}
    config = read_config(path, keys.items())
    prepared = data.prepare(config)
    torch.manual_seed(1)
    size = dict(n_layer=1, n_head=2, d_model=16, d_ff=32)
    lms = [LM(ModelConfig(vocab_size=prepared.tokenizer.vocab_size, block_size=16, **size)).eval()
           for _ in SMALL["teachers"]]

    def open_in(folder, digests=("a", "b"), **keys):
        settings = dataclasses.replace(config, **keys)
        digests = dict(zip(SMALL["teachers"], digests))
        teachers = [distill.Teacher(lm) for lm in lms]
        return stored.open_store(teachers, digests, prepared._replace(folder=folder), settings,
                                 "float32")
    return open_in


def batches(store, size=4):
    """The chunks of a store's text, ids (size, T) at a time."""
    return torch.from_numpy(store.tokens.astype(np.int64)).split(size)


def test_what_is_read_is_the_mixture_at_tau(small, tmp_path):
    store = small(tmp_path)
    x = batches(store)[3]
    out = store(x)
    z_ps = [teacher.lm.logits(teacher.lm(x)).flatten(0, 1) for teacher in store.teachers]
    exact = losses.top_k(teacher_log_probs(z_ps, 2.0, "probs"), 5)
    assert torch.equal(out.ids, exact.ids)
    assert (out.log_p.float() - exact.log_p).abs().max() < 4e-3  # of up to 8 nats, in 11 bits
    again = small(tmp_path)(x.flip(0))  # any order, any batch: by the chunk
    T = x.shape[1]
    assert torch.equal(again.ids.view(4, T, -1).flip(0).flatten(0, 1), out.ids)
    assert torch.equal(again.log_p.view(4, T, -1).flip(0).flatten(0, 1), out.log_p)
    wrong = x.clone()
    wrong[0, 0] += 1
    with pytest.raises(KeyError):
        store(wrong)


def test_a_run_in_bf16_writes_what_it_reads(small, tmp_path):
    """On a CPU autocast knows no half precision: what is written is none of its business."""
    store = small(tmp_path)
    x = batches(store)[0]
    with torch.autocast("cpu", torch.bfloat16):
        written = store(x)
        read = small(tmp_path)(x)
    assert written.log_p.dtype == torch.float16
    assert torch.equal(read.ids, written.ids) and torch.equal(read.log_p, written.log_p)


def fill(small, folder):
    store = small(folder)
    for x in batches(store):
        store(x)
    return store


def only_file(folder):
    return next(folder.glob("teacher-*"))


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    """The folder of a store with every chunk in it."""
    folder = tmp_path_factory.mktemp("whole")
    store = fill(small, folder)
    there, chunks = store.written()
    assert there == chunks > 50
    return folder


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(small, whole, tmp_path):
    """20 kills while it is written. Digests that are there stand over what belongs there."""
    rng = random.Random(0)
    reference = only_file(whole).read_bytes()
    for _ in range(20):
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException):
                store = small(tmp_path)
                while True:  # all over again, for there is always something to be killed in
                    fill(small, tmp_path)
                    store.records["digest"] = 0
            os._exit(0)
        time.sleep(rng.uniform(0.02, 0.3))
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        if list(tmp_path.glob("teacher-*")):
            left = small(tmp_path)
            due = np.frombuffer(reference, left.record)
            there = left.records["digest"] != 0
            assert np.array_equal(left.records["digest"][there], due["digest"][there])
            assert np.array_equal(left.records[there], due[there])
    fill(small, tmp_path)
    assert only_file(tmp_path).read_bytes() == reference


def damaged(kind, content, size):
    """The bytes of a store, its records, each of `size` bytes, damaged."""
    content = bytearray(content)
    one, two = (slice(i * size, (i + 1) * size) for i in (2, 7))
    if kind == "truncated":
        return content[:-1]
    if kind == "too long":
        return content + b"\n"
    if kind == "flipped":
        content[2 * size + 20] ^= 4
    if kind == "flipped digest":
        content[2 * size] ^= 1
    if kind == "swapped":
        content[one], content[two] = content[two], content[one]
    return content


@pytest.mark.parametrize("kind", ["truncated", "too long", "flipped", "flipped digest", "swapped"])
def test_a_damaged_file_is_refused_with_one_line(small, whole, tmp_path, kind):
    store = small(whole)
    path = tmp_path / only_file(whole).name
    content = only_file(whole).read_bytes()
    path.write_bytes(damaged(kind, content, store.record.itemsize))
    with refusal("remove it", str(path)):
        fill(small, tmp_path)


def test_another_teachers_file_under_this_name_is_refused(small, whole, tmp_path):
    other = only_file(whole)
    store = small(tmp_path, digests=("a", "c"))
    store.path.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="of other teachers.*remove it"):
        store(batches(store)[0])


def test_two_that_make_the_same_file_at_once_share_it(small, tmp_path, monkeypatch):
    """The second comes while the first one's file is still aside, and waits for it."""
    stores = []
    fallocate = os.posix_fallocate
    second = threading.Thread(target=lambda: stores.append(fill(small, tmp_path)))

    def slow(*args):
        if not second.ident:
            second.start()
            second.join(0.5)
        fallocate(*args)
    monkeypatch.setattr(os, "posix_fallocate", slow)
    first = fill(small, tmp_path)
    second.join()
    there, chunks = stores[0].written()
    assert there == chunks == first.written()[0] and len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_is_too_small_is_refused_at_once(small, tmp_path, monkeypatch):
    monkeypatch.setattr(stored.shutil, "disk_usage", lambda _: types.SimpleNamespace(free=1000))
    with pytest.raises(UserError, match="GB are free there"):
        small(tmp_path)
    assert not list(tmp_path.iterdir())
