"""A run that was kept when its format was new still opens.

`python -m tests.test_formats` made tests/format_1, and a convolutional VAE of 32 pixels
in the same way tests/format_1_conv, whose names of parameters in sums.json are those of
today; a later format gets a folder of its own beside it.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from vae_jax import run as run_lib
from vae_jax.config import default_config, resumed_differences
from vae_jax.data import synthetic_faces
from vae_jax.record import read_config

pytestmark = pytest.mark.slow

KEPT = sorted(Path(__file__).parent.glob("format_*"))


def sums(run):
    return {
        f"{kind}/{jax.tree_util.keystr(path, simple=True, separator='/')}": float(
            np.sum(np.asarray(leaf), dtype=np.float64)
        )
        for kind in ("raw", "ema")
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            run.variables[kind].params
        )
    }


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name)
def test_a_run_of_an_earlier_format_opens_whole(kept, data_dir, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(kept, workdir)
    record = json.loads((workdir / "run.json").read_text())
    record["config"]["dataset"]["data_dir"] = str(data_dir)
    (workdir / "run.json").write_text(json.dumps(record))
    run = run_lib.load(workdir)
    assert run.step == 8
    assert "damaged" not in capsys.readouterr().out
    expected = json.loads((kept / "sums.json").read_text())
    assert sums(run) == pytest.approx(expected, rel=1e-12)
    assert len(expected) > 10 and len(set(expected.values())) > 10
    best = run_lib.load(workdir, "best")
    assert best.step == 8
    # The moments of the optimiser as well.
    run.config.train.num_steps = 12
    run.config.model.width_from = default_config().model.width_from
    assert run_lib.train(run.config, workdir).step == 12
    assert run_lib.load(workdir).step == 12


@pytest.mark.parametrize(
    ("size", "counted"), [(32, "finest"), (64, "auto"), (128, "finest")]
)
def test_widths_of_an_earlier_run_are_those_that_it_had(size, counted, tmp_path):
    kept = json.loads((KEPT[1] / "run.json").read_text())
    assert "width_from" not in kept["config"]["model"]
    kept["config"]["dataset"]["size"] = size
    (tmp_path / "run.json").write_text(json.dumps(kept))
    recorded = read_config(tmp_path)
    assert recorded.model.width_from == counted
    # The recipe that the run began with goes on with it.
    given = recorded.copy_and_resolve_references()
    given.model.width_from = default_config().model.width_from
    assert resumed_differences(recorded, given) == []


def make(workdir):
    """Trains what is to be kept."""
    config = default_config()
    config.precision = "fp32"
    config.dataset.name = "synthetic_faces"
    config.dataset.size = 8
    config.model.latent_dim, config.model.hidden_dim = 2, 4
    config.train.batch_size, config.train.num_steps = 8, 8
    config.train.steps_per_dispatch = config.log.every_steps = 4
    config.eval.every_steps = config.checkpoint.every_steps = 4
    with tempfile.TemporaryDirectory() as data_dir:
        config.dataset.data_dir = data_dir
        synthetic_faces.prepare(
            Path(data_dir), sizes={"train": 40, "validation": 10, "test": 6}
        )
        run = run_lib.train(config, workdir)
    (workdir / "sums.json").write_text(json.dumps(sums(run), indent=1) + "\n")
    record = json.loads((workdir / "run.json").read_text())
    record["config"]["dataset"]["data_dir"] = None
    (workdir / "run.json").write_text(json.dumps(record, indent=2) + "\n")
    (workdir / "checkpoints" / "lock").unlink()
    for name in ("metrics.jsonl", "timing.jsonl"):
        (workdir / name).unlink()


if __name__ == "__main__":
    make(Path(sys.argv[1]))
