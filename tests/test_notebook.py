"""docs/first_steps.ipynb runs, from its first cell to its last.

    python tests/test_notebook.py    run it at full size, some minutes, and keep its outputs
"""
import pathlib

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")

PATH = pathlib.Path(__file__).resolve().parent.parent / "docs/first_steps.ipynb"
SETTINGS = 'out, settings = ROOT / "out", []'
TINY = ["--teachers=truth", "--baseline=", "--sentences=300", "--max_steps=4", "--n_layer=1",
        "--d_model=8", "--d_ff=16", "--batch_size=4", "--val_tokens=500", "--eval_tokens=0",
        "--val_every=2", "--log_every=2", "--device=cpu"]


def execute(notebook):
    """Run all cells as Jupyter does, in the notebook's folder; an error in one is raised."""
    client = nbclient.NotebookClient(notebook, timeout=3600, record_timing=False,
                                     resources={"metadata": {"path": str(PATH.parent)}})
    client.execute()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    notebook = nbformat.read(PATH, as_version=4)
    cells = [cell for cell in notebook.cells if SETTINGS in cell.source]
    assert len(cells) == 1
    tiny = f"out, settings = {str(tmp_path)!r}, {[*TINY, f'--data_dir={tmp_path}/data']!r}"
    cells[0].source = cells[0].source.replace(SETTINGS, tiny)
    execute(notebook)


def test_its_kept_outputs_are_small_and_without_errors():
    assert PATH.stat().st_size < 150_000
    notebook = nbformat.read(PATH, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert len(outputs) >= 6
    assert all(output.output_type != "error" for output in outputs)


if __name__ == "__main__":
    notebook = nbformat.read(PATH, as_version=4)
    execute(notebook)
    nbformat.write(notebook, PATH)
