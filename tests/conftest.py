import os
import pathlib

import pytest
import torch

from onecoach import config

torch.set_num_threads(1)  # in models as small as these a second thread only waits


def babylm_folder():
    """Where BabyLM text and benchmarks are: $BABYLM_DIR, by default ../shared beside the checkout.

    None where they are not.
    """
    root = pathlib.Path(__file__).parent.parent
    folder = pathlib.Path(os.environ.get("BABYLM_DIR", root / "../shared"))
    return folder if (folder / "data/babylm_10m").is_dir() else None


@pytest.fixture
def babylm():
    """Folder with real BabyLM text and benchmarks."""
    folder = babylm_folder()
    if not folder:
        pytest.skip("no BabyLM text; set BABYLM_DIR")
    return folder


@pytest.fixture
def make_config(tmp_path):
    """A Config of the given keys; everything it leaves lies under tmp_path."""
    def make(**keys):
        file = tmp_path / "some.py"
        file.write_text("")
        keys = {"out_dir": str(tmp_path / "out"), "data_dir": str(tmp_path / "out/data"),
                "device": "cpu", **keys}
        return config.read_config(file, list(keys.items()))
    return make


@pytest.fixture(scope="session")
def demo_runs(tmp_path_factory):
    """A folder with llama_demo, base_demo, fkl_demo and rkl_demo of a few steps each."""
    import distill
    folder = tmp_path_factory.mktemp("demo") / "runs"
    keys = dict(out_dir=str(folder), data_dir=str(folder / "data"), sentences=300, max_steps=8,
                n_layer=1, d_model=8, d_ff=16, batch_size=4, block_size=16, val_every=4,
                log_every=4, val_tokens=500, eval_tokens=0, device="cpu", dtype="float32")
    for name, more in (("llama_demo", dict(n_head=2)), ("base_demo", {}), ("fkl_demo", {}),
                       ("rkl_demo", dict(reduction="step"))):
        path = config.CONFIGS / f"{name}.py"
        distill.train(config.read_config(path, [*{**keys, **more}.items()]))
    return folder
