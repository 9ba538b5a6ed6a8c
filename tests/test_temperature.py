"""Samples at several temperatures beside the test images."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments import temperature
from vae_jax.commands import samples
from vae_jax.errors import UserError

pytestmark = pytest.mark.slow


def test_each_row_is_of_its_temperature(small_runs):
    run, judge = small_runs("vae"), small_runs("classifier")
    report, shown = temperature.look(run, judge, "prior", [1.0, 0.0, 1.0], 5)
    first, coldest, again = report["temperatures"]
    assert first == again and first["temperature"] == "1"
    assert coldest["judge_frechet"] != first["judge_frechet"]
    # Without noise all images are one.
    assert np.ptp(shown[1], axis=0).max() < 1e-5 < np.ptp(shown[0], axis=0).max()
    drawn = samples.sample(run, "prior", report["num_images"], 5)
    np.testing.assert_array_equal(shown[0], drawn[: len(shown[0])])


def test_it_writes_figures_and_a_picture(small_runs, tmp_path, capsys):
    run, judge = small_runs("vae"), small_runs("classifier")
    temperature.main(
        [
            f"--workdir={run.workdir}",
            f"--judge={judge.workdir}",
            f"--out={tmp_path}",
            "--temperature=0.5",
            "--temperature=2",
        ]
    )
    number = len(run.dataset.splits["test"].images)
    report = json.loads((tmp_path / "temperature.json").read_text())
    assert [row["temperature"] for row in report["temperatures"]] == ["0.5", "2"]
    assert report["sampler"] == "gaussian" and report["num_images"] == number
    with Image.open(tmp_path / "temperature.png") as picture:
        assert picture.width > picture.height
    assert "judge_frechet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "told"),
    [("warm", "--temperature is 'warm'"), ("16:0.7", "holds no hierarchical model")],
)
def test_a_temperature_that_cannot_be_is_refused(small_runs, given, told):
    run, judge = small_runs("vae"), small_runs("classifier")
    with pytest.raises(UserError, match=told):
        temperature.main(
            [
                f"--workdir={run.workdir}",
                f"--judge={judge.workdir}",
                f"--temperature={given}",
            ]
        )
