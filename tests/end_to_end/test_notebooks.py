"""examples/tour.ipynb, run as a reader would, with fewer updates and faces."""

import os
from pathlib import Path

import nbclient
import nbformat
import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TOUR = ROOT / "examples" / "tour.ipynb"
PICTURES = {
    "data": 1,
    "reconstruct": 1,
    "prior": 1,
    "gaussian": 1,
    "edit": 1,
    "interpolate": 1,
}


@pytest.fixture
def notebook():
    return nbformat.read(TOUR, as_version=4)


def code_cells(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def test_the_tour_is_kept_without_outputs(notebook):
    for cell in code_cells(notebook).values():
        assert not cell.outputs and cell.execution_count is None


def test_the_tour_runs_and_shows_its_pictures(
    notebook, data_dir, tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for folder in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{folder}_DIR", str(tmp_path / folder.lower()))
    cells = code_cells(notebook)
    setup = cells["setup"]
    assert setup.source.count("NUM_STEPS = 2000") == 1
    setup.source = setup.source.replace("NUM_STEPS = 2000", "NUM_STEPS = 20")

    nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()

    pictures = {
        name: sum("image/png" in output.get("data", {}) for output in cell.outputs)
        for name, cell in cells.items()
    }
    assert {name: count for name, count in pictures.items() if count} == PICTURES
    assert os.listdir(tmp_path / "runs") == ["tour"]
