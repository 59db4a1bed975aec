"""Make the paper's run and the tables on one GPU, in calls of a few minutes.

    python -m tools.gpu OUT [--minutes=9] [--dry]

Each call does the next of STEPS until the minutes are over, and the next call on the same machine
goes on in out/gpu: a run from the last checkpoint, a table from the beginning. A step that ended
well is not done again, one that failed is tried again after all others. Rows, curves, eval.json and
logs are packed into OUT/gpu.tar.gz, a few MB; weights stay. Text and BLiMP are read under
$BABYLM_DIR (../shared). docs/gpu.md says how long each step takes.

--dry walks the same steps with models of one layer and a thousandth of the text, on any machine.
"""
import contextlib
import itertools
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tarfile
import time

from onecoach.config import Arguments, command_line, read_assignments, run_main

ROOT = pathlib.Path(__file__).parents[1]
WORK = ROOT / "out/gpu"  # runs, logs and state.json, on the machine

# a run and the step that trains it have one name
SUITE = "--tasks=blimp,supplement"
STEPS = {
    "test_cuda": "-m pytest -q -n 0 tests/test_cuda.py",
    "loss_nano": "-m tools.bench loss --peers",
    "loss_paper": "-m tools.bench loss --peers --size={size}",
    "step_paper": "-m tools.bench step --batch={batch} --size={size}",

    # the chain of rkl_10m: teacher, the student without one, student
    "llama_360m": "teacher.py configs/llama_360m.py {keys}",
    "base_10m": "teacher.py configs/base_10m.py {keys}",
    "rkl_10m": "distill.py configs/rkl_10m.py {keys}",
    "suite_llama": f"eval.py out/llama_360m {SUITE}",
    "suite_base": f"eval.py out/base_10m {SUITE}",
    "suite_rkl": f"eval.py out/rkl_10m {SUITE}",

    # forward KL from the same teacher; a table of smaller runs; Baby Llama's two teachers; the rest
    "fkl_one_10m": "distill.py configs/fkl_10m.py --name=fkl_one_10m --teachers=llama_360m {keys}",
    "suite_fkl_one": f"eval.py out/fkl_one_10m {SUITE}",
    "ablate_ten": "-m tools.ablate {plans}/ablate_ten.py --jobs=3",
    "gpt2_705m": "teacher.py configs/gpt2_705m.py {keys}",
    "suite_gpt2": f"eval.py out/gpt2_705m {SUITE}",
    "fkl_10m": "distill.py configs/fkl_10m.py {keys}",
    "suite_fkl": f"eval.py out/fkl_10m {SUITE}",
    "ablate_10m": "-m tools.ablate {plans}/ablate_10m.py",
}
NEEDS = {"test_cuda": 3, "step_paper": 4}  # minutes below which a step is not begun; others: 1

# a thousandth: keys of all runs, and the lines to take of each file under BABYLM_DIR
DRY_KEYS = dict(n_layer=1, n_head=2, d_model=16, d_ff=32, vocab_size=300, block_size=128,
                batch_size=4, log_every=10, val_every=50, val_tokens=200, eval_tokens=200,
                checkpoints=[1e-4])
DRY_LINES = {"data/babylm_10m": 100, "eval/blimp_filtered": 2, "eval/supplement_filtered": 2}

GRACE = 40  # seconds to save and stop, before the minutes are over
KEPT = {".json", ".jsonl", ".log", ".md", ".svg", ".txt"}


def read_args(argv):
    parser = Arguments("-m tools.gpu", __doc__)
    parser.add_argument("out", metavar="OUT", type=pathlib.Path, help="folder for gpu.tar.gz")
    parser.add_argument("--minutes", type=float, default=9, help="of this call, in all")
    parser.add_argument("--dry", action="store_true", help="a thousandth of all sizes")
    return parser.parse_args(argv)


def main(argv):
    started = time.monotonic()
    args = read_args(argv)
    folder = WORK.with_name("gpu_dry") if args.dry else WORK
    for place in (folder / "logs", args.out):
        place.mkdir(parents=True, exist_ok=True)
    words = prepare(folder, args.dry)

    path = folder / "state.json"
    state = json.loads(path.read_text()) if path.exists() else {}  # step: [how it ended, seconds]
    failed = [name for name, (how, _) in state.items() if how == "failed"]
    for name in sorted(STEPS, key=failed.__contains__):
        begun = time.monotonic()
        left = 60 * args.minutes - GRACE - (begun - started)
        how, seconds = state.get(name, ["", 0.0])
        if how == "done" or left < 60 * NEEDS.get(name, 1):
            continue
        command = STEPS[name].format(**words)
        print(f"{name}: {command}", flush=True)
        how = run(command, folder, name, left)
        state[name] = [how, seconds + time.monotonic() - begun]
        path.write_text(json.dumps(state))
        if how == "done":  # 9 GB of the largest run; later steps read best.pt alone
            for checkpoint in folder.glob(f"out/{name}/ckpt*.pt"):
                checkpoint.unlink()
        pack(folder, args.out)

    print(f"\n{'step':16}{'ended':12}{'seconds':>8}")
    for name in STEPS:
        how, seconds = state.get(name, ["not begun", 0.0])
        print(f"{name:16}{how:12}{seconds:8.0f}  {speed(folder / 'out' / name / 'metrics.jsonl')}")
    print(f"all that was printed is in {folder / 'logs'}; the same command goes on")


def prepare(folder, dry):
    """Write the plans, set the environment, and return the values for the braces in STEPS."""
    babylm = pathlib.Path(os.environ.get("BABYLM_DIR", ROOT / "../shared")).absolute()
    if dry:
        copy_first_lines(babylm, folder / "babylm")
        babylm = folder / "babylm"
    os.environ |= {"BABYLM_DIR": str(babylm), "PYTHONPATH": str(ROOT)}
    keys = {"corpus": str(babylm / "data/babylm_10m/train"),
            "dev": str(babylm / "data/babylm_10m/dev"), **(DRY_KEYS if dry else {})}
    for name in ("ablate_ten", "ablate_10m"):
        plan = read_assignments(ROOT / f"configs/{name}.py")
        plan |= {"common": plan["common"] | keys, "seeds": [0]}
        lines = [f"{key} = {value!r}\n" for key, value in plan.items()]
        (folder / f"{name}.py").write_text("".join(lines), encoding="utf-8")
    return dict(keys=command_line(keys), plans=folder, size="nano" if dry else "paper",
                batch=4 if dry else 32)


def copy_first_lines(source, target):
    """Copy the first lines of each file of text and of minimal pairs."""
    for folder, lines in DRY_LINES.items():
        for path in (source / folder).rglob("*.*"):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            with open(path, encoding="utf-8") as f:
                copy.write_text("".join(itertools.islice(f, lines)), encoding="utf-8")


def run(command, folder, name, seconds):
    """Run a command of Python for so many seconds at most; return how it ended."""
    words = [ROOT / word if word.endswith(".py") else word for word in shlex.split(command)]
    with open(folder / f"logs/{name}.log", "a", encoding="utf-8") as log:
        # a process group, so that all workers end with it
        process = subprocess.Popen([sys.executable, *words], cwd=folder, stdout=log,
                                   stderr=subprocess.STDOUT, process_group=0)
        try:
            return "failed" if process.wait(seconds) else "done"
        except subprocess.TimeoutExpired:
            return "stopped"
        finally:
            process.terminate()  # it may still run: training then saves, to go on in the next call
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE - 5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def pack(folder, out):
    """Pack the small files, and no weights, into out/gpu.tar.gz."""
    def kept(info):
        is_kept = pathlib.Path(info.name).suffix in KEPT and "tokenizer" not in info.name
        return info if info.isdir() or is_kept else None
    with tarfile.open(out / "gpu.tar.gz", "w:gz") as tar:
        for name in ("state.json", "logs", "out", "results"):
            if (folder / name).exists():
                tar.add(folder / name, name, filter=kept)


def speed(path):
    """Return step, tokens per second, peak memory and MFU on the last line of a run's log."""
    lines = path.read_text().splitlines() if path.exists() else []
    last = next((line for line in map(json.loads, lines[::-1]) if "tokens_per_s" in line), {})
    names = "step", "tokens_per_s", "peak_gb", "mfu"
    return ", ".join(f"{name} {last[name]:.4g}" for name in names if name in last)


if __name__ == "__main__":
    run_main(main)
