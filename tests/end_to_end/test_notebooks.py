"""The notebooks in examples/, run as a reader would, with fewer updates and faces."""

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

from vae_jax import run as run_lib
from vae_jax.errors import UserError
from vae_jax.report.writer import read_lines

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATHS = sorted((ROOT / "examples").glob("*.ipynb"))


@dataclass(frozen=True)
class Done:
    """A notebook that has run: its cells by name, the folder, and what kernels sent."""

    cells: dict[str, nbformat.NotebookNode]
    folder: Path
    sent: Counter

    def text(self, cell):
        outputs = self.cells[cell].outputs
        return "".join(output.get("text", "") for output in outputs)


def nothing_more(done):
    pass


def check_own_likelihood(done):
    sums = [float(each) for each in done.text("check").split(":")[1].split()]
    assert sums == pytest.approx([1] * 9, abs=1e-4)
    told = re.findall(r"(\S+): (\S+) ± (\S+)", done.text("compare"))
    assert [name for name, *_ in told] == ["gaussian", "student_t", "difference"]
    means, errors = np.array([each[1:] for each in told], float).T
    assert np.isfinite(errors).all() and (errors >= 0).all()
    assert 0 < means[0] < 20 and means[2] != 0
    assert means[1] - means[0] == pytest.approx(means[2], abs=2e-3)
    # A program without the cells says what it lacks.
    runs = done.folder / "runs" / "own_likelihood"
    with pytest.raises(UserError, match="is 'student_t', .*option of your own"):
        run_lib.load(runs / "student_t")
    assert run_lib.load(runs / "gaussian").step > 0


def check_live_curves(done):
    lines = read_lines(done.folder / "runs" / "live" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [10, 20, 20]
    assert done.sent["update_display_data"] == len(lines)
    assert repr(lines[-1]["elbo"]) in done.cells["last"].outputs[0].data["text/plain"]


def check_own_photo(done):
    made = {path.name for path in (done.folder / "runs" / "own_photo").iterdir()}
    known = {"me.png", "friend.png", "reconstructions.png", "edits.png", "way.png"}
    assert made == known | {"changed.png"}
    edits = np.asarray(Image.open(done.folder / "runs" / "own_photo" / "edits.png"))
    # Of 128 pixels each, two white ones between: attributes by strengths, 0 the second.
    cells = edits[-3 * 130 :, -6 * 130 :].reshape(3, 130, 6, 130, 3).swapaxes(1, 2)
    cells = cells[:, :, :128, :128].astype(float)
    np.testing.assert_array_equal(cells[:, 1], cells[[0, 0, 0], 1])
    changes = np.abs(cells - cells[:, 1:2]).mean(axis=(2, 3, 4))
    assert (np.diff(changes[:, 1:]) > 0).all() and (changes[:, 0] > 0).all()
    assert np.abs(cells[0, -1] - cells[1, -1]).mean() > 1


def check_paper_figure(done):
    table = done.text("table").splitlines()
    assert [row.split()[0] for row in table[2:]] == ["bits_per_dim,", "psnr,", "ssim"]
    told = [re.findall(r"(\S+) ± (\S+)", row) for row in table[2:]]
    assert np.array(told, float).shape == (3, 3, 2)
    svg = (done.folder / "runs" / "paper" / "figure.svg").read_text()
    pdf = (done.folder / "runs" / "paper" / "figure.pdf").read_bytes()
    # 3.25 inches in points, and letters that are no outlines.
    assert 'width="234pt"' in svg and b"/MediaBox [ 0 0 234 216 ]" in pdf
    for words in ("validation elbo", "nats an image", "D = 8", "D = 64"):
        assert re.search(rf"<text [^>]*>{words}</text>", svg), words
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf


@dataclass(frozen=True)
class Notebook:
    """What a notebook is to show, and how it becomes small."""

    # By the name of a cell.
    pictures: dict[str, int]
    # In runs/.
    folders: list[str]
    # What is written instead of what, anywhere.
    smaller: dict[str, str] = field(default_factory=dict)
    check: Callable[[Done], None] = nothing_more


ALL_STEPS = "config.train.num_steps = NUM_STEPS"
FEW_PIXELS = {
    ALL_STEPS: f"{ALL_STEPS}; config.dataset.size = 16; config.eval.batch_size = 6"
}
NOTEBOOKS = {
    "tour": Notebook(
        pictures={
            "data": 1,
            "reconstruct": 1,
            "prior": 1,
            "gaussian": 1,
            "edit": 1,
            "interpolate": 1,
        },
        folders=["tour"],
        smaller={"NUM_STEPS = 2000": "NUM_STEPS = 20"},
    ),
    "own_likelihood": Notebook(
        pictures={"check": 1, "look": 1},
        folders=["own_likelihood"],
        smaller={"NUM_STEPS = 1000": "NUM_STEPS = 20"} | FEW_PIXELS,
        check=check_own_likelihood,
    ),
    "live_curves": Notebook(
        pictures={"train": 1},
        folders=["live"],
        smaller={
            "NUM_STEPS = 1500": "NUM_STEPS = 20",
            "log.every_steps = 50": "log.every_steps = 10",
        }
        | FEW_PIXELS,
        check=check_live_curves,
    ),
    "own_photo": Notebook(
        pictures={"photo": 1, "encode": 1, "edit": 1, "interpolate": 1, "save": 1},
        folders=["own_photo"],
        check=check_own_photo,
    ),
    "paper_figure": Notebook(
        pictures={"figure": 1},
        folders=["paper"],
        smaller={"NUM_STEPS = 1000": "NUM_STEPS = 20"} | FEW_PIXELS,
        check=check_paper_figure,
    ),
}


class Client(nbclient.NotebookClient):
    """Counts the messages of the kernel."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sent = Counter()

    def process_message(self, msg, *args):
        self.sent[msg["msg_type"]] += 1
        return super().process_message(msg, *args)


def code_cells(notebook):
    return {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}


def test_every_notebook_is_tested():
    assert {path.stem for path in PATHS} == NOTEBOOKS.keys()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path):
    for cell in code_cells(nbformat.read(path, as_version=4)).values():
        assert not cell.outputs and cell.execution_count is None


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_shows_its_pictures(name, data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for folder in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{folder}_DIR", str(tmp_path / folder.lower()))
    expected = NOTEBOOKS[name]
    notebook = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    cells = code_cells(notebook)
    for words, instead in expected.smaller.items():
        (cell,) = (each for each in cells.values() if words in each.source)
        assert cell.source.count(words) == 1
        cell.source = cell.source.replace(words, instead)

    resources = {"metadata": {"path": str(tmp_path)}}
    client = Client(notebook, timeout=600, kernel_name="python3", resources=resources)
    client.execute()

    pictures = {
        cell_name: [
            output.data["image/png"]
            for output in cell.outputs
            if "image/png" in output.get("data", {})
        ]
        for cell_name, cell in cells.items()
    }
    counts = {name: len(shown) for name, shown in pictures.items() if shown}
    assert counts == expected.pictures
    every = [picture for shown in pictures.values() for picture in shown]
    assert len({*every}) == len(every)
    assert os.listdir(tmp_path / "runs") == expected.folders
    expected.check(Done(cells, tmp_path, client.sent))
