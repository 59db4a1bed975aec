"""Several processes through torchrun, gloo on the CPU.

The same run as one process, and what becomes of a killed one.
"""
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import runs

ROOT = pathlib.Path(__file__).parents[1]
TINY = {**runs.TINY, "batch_size": 12, "max_steps": 20, "lr": 1e-3, "val_tokens": 640,
        "log_every": 5}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A folder with configs coach, first, kid (the coach's student) and long.

    The data is prepared, coach and first are trained.
    """
    folder = tmp_path_factory.mktemp("ranks")
    # a student that is its teacher has gradients of zero: rounding alone, which AdamW enlarges
    configs = {"coach": dict(d_model=32), "first": {}, "kid": dict(teachers=["coach"], tau=1.5),
               "long": dict(max_steps=240, val_every=40, log_every=20)}
    for name, keys in configs.items():
        text = "".join(f"{k} = {v!r}\n" for k, v in {**TINY, **keys}.items())
        (folder / f"{name}.py").write_text(text)

    (folder / "quick.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport babytalk, distill, eval\n"
        "from onecoach import config\n"
        "eval.evaluate = lambda *_, **__: None  # seconds, and tested elsewhere\n"
        "babytalk.check_babytalk = lambda *_: None\n"
        "config.run_main(distill.main)\n")
    launch(folder, 1, "coach")
    launch(folder, 1, "first")
    return folder


def start(folder, ranks, name, *options, restarts=0, **environment):
    torchrun = [] if ranks == 1 else [
        "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}",
        f"--max-restarts={restarts}", "--monitor-interval=0.2"]
    return subprocess.Popen(
        [sys.executable, *torchrun, "quick.py", f"{name}.py", *options], cwd=folder, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)


def launch(*args, **options):
    """The output of a run that ends well."""
    process = start(*args, **options)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    return out


def found(folder, name):
    folder = folder / "out" / name
    return runs.weights(folder), runs.without_speed(runs.lines(folder))


@pytest.mark.parametrize("ranks, options, near", [
    (2, ["--grad_accum=3"], 1e-5), (3, ["--reduction=step"], 1e-5),
    # in bfloat16 what was rounding becomes up to 1/256 of a matrix's update, 2e-4 a step
    (2, ["--optimizer=muon"], 1e-4)])
def test_ranks_change_nothing(tiny, ranks, options, near):
    """Weights after 20 steps and every logged figure are those of one process with the same batch.

    In fp32, with sums in another order.
    """
    name = f"kid_{ranks}{options[0].replace('=', '-')}"
    launch(tiny, 1, "kid", f"--name={name}_alone", *options)
    out = launch(tiny, ranks, "kid", f"--name={name}", *options)
    assert out.count(f"{name}: llama") == 1  # one of them speaks

    (a, alone) = found(tiny, f"{name}_alone")
    (b, together) = found(tiny, name)
    for key in a:
        torch.testing.assert_close(b[key], a[key], rtol=0, atol=near, msg=lambda m: f"{key}: {m}")

    assert len(alone) == len(together)
    for one, other in zip(alone, together):
        assert one.keys() == other.keys()
        for key in one:
            assert other[key] == pytest.approx(one[key], rel=10 * near, abs=1e-6), key


def test_what_ranks_have_stored_another_process_reads(tiny):
    options = ["--teacher_cache=8", "--random_offset=False", "--max_steps=4"]
    out = launch(tiny, 2, "kid", "--name=writers", *options)
    assert out.count("bytes per token") == 1 and "; 0 of" in out
    out = launch(tiny, 1, "kid", "--name=reader", *options)
    assert "; 0 of" not in out
    a, b = (found(tiny, name)[0] for name in ("writers", "reader"))
    assert max((a[key] - b[key]).abs().max().item() for key in a) < 1e-5


@pytest.mark.parametrize("every", [1, 2])
def test_rollouts_of_ranks_are_those_of_one(tiny, every):
    """The draws, the baseline and the counts are of the whole batch, whoever computes its part."""
    options = [f"--rollout_every={every}", "--init=first", "--on_policy=1",
               "--rollout_loss=single_step", "--prompt_len=4", "--max_steps=4", "--log_every=1"]
    launch(tiny, 1, "kid", f"--name=rolled_alone_{every}", *options)
    launch(tiny, 2, "kid", f"--name=rolled_{every}", *options)
    (a, alone) = found(tiny, f"rolled_alone_{every}")
    (b, together) = found(tiny, f"rolled_{every}")
    assert max((a[key] - b[key]).abs().max().item() for key in a) < 1e-5
    assert [m["rollout_kl"] for m in together if "rollout_kl" in m] == pytest.approx(
        [m["rollout_kl"] for m in alone if "rollout_kl" in m], rel=1e-4)


def test_a_batch_that_does_not_split_is_refused(tiny):
    process = start(tiny, 2, "kid", "--name=odd", "--batch_size=9")
    out, _ = process.communicate(timeout=60)
    assert process.returncode
    assert "batch_size 9 does not split into 2 ranks" in out
    assert not (tiny / "out/odd").exists()


def test_a_mistake_is_said_once_and_nobody_is_called_gone(tiny):
    process = start(tiny, 2, "kid", "--name=wrong", "--corpus=nowhere/at/all")
    out, _ = process.communicate(timeout=120)
    assert process.returncode and out.count("error: ") == 1, out
    assert "nowhere/at/all" in out and "another rank is gone" not in out
    assert not (tiny / "out/wrong").exists()


def kill_one(process, folder, name):
    """SIGKILL the second rank once there is a checkpoint to go on from."""
    deadline = time.monotonic() + 60
    while not (folder / "out" / name / "ckpt.pt").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)

    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = children.read_text().split()
    environment = {pid: pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                   for pid in workers}
    os.kill(next(int(pid) for pid in workers if b"RANK=1" in environment[pid]), signal.SIGKILL)


@pytest.mark.skipif(not pathlib.Path("/proc/self/task").exists(),
                    reason="finds the workers in /proc")
def test_a_killed_rank_ends_the_job_and_a_restart_goes_on(tiny):
    launch(tiny, 2, "long", "--name=whole")
    process = start(tiny, 2, "long", "--name=broken")
    kill_one(process, tiny, "broken")
    killed = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert process.returncode, out
    # the survivor finds out by itself, or torchrun's SIGTERM is there before
    assert ("error: broken: another rank is gone; the same command goes on from the last "
            "checkpoint") in out or "interrupted by SIGTERM" in out, out
    assert time.monotonic() - killed < 30
    assert torch.load(tiny / "out/broken/ckpt.pt", weights_only=True)["step"] < 240

    process = start(tiny, 2, "long", "--name=again", "--resume=no", restarts=1)
    kill_one(process, tiny, "again")
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and ", from step " in out, out

    (a, whole), (b, again) = found(tiny, "whole"), found(tiny, "again")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert whole == again


def test_a_rank_that_a_scheduler_set_is_none(tiny):
    """Only torchrun's counts: a process alone writes and speaks, whatever RANK says."""
    shutil.rmtree(tiny / "out/first")
    launch(tiny, 1, "first", RANK="1", WORLD_SIZE="4", LOCAL_RANK="1")
    assert "val_ce" in (tiny / "out/first/metrics.jsonl").read_text()
    assert (tiny / "out/first/best.pt").exists()
