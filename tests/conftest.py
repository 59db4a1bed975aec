import os
import pathlib

import pytest
import torch

import config

torch.set_num_threads(1)  # in models as small as these a second thread only waits


@pytest.fixture
def babylm():
    """Folder with real BabyLM text and benchmarks.

    It is $BABYLM_DIR, by default ../shared beside the checkout.
    """
    root = pathlib.Path(__file__).parent.parent
    folder = pathlib.Path(os.environ.get("BABYLM_DIR", root / "../shared"))
    if not (folder / "data/babylm_10m").is_dir():
        pytest.skip(f"no BabyLM text in {folder}; set BABYLM_DIR")
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
