"""Step time and memory by size are measured at each size, and drawn."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import devices, limits, scaling

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def slow_machine(monkeypatch):
    monkeypatch.setattr(limits, "machine", lambda: {"flops": 1e9, "bytes": 1e9})


def test_a_step_is_timed_at_each_size_beside_its_floor(monkeypatch):
    monkeypatch.setattr(limits, "machine", lambda: {"flops": 1e9, "bytes": 1e9})
    figures = [
        scaling.against_batch((2, 4), seconds=0),
        scaling.against_width((4,), batch_size=2, seconds=0),
        scaling.against_resolution((16, 32), batch_size=2, seconds=0),
        scaling.against_parameters((1, 2), batch_size=2, seconds=0),
    ]
    # A unit has 4,096 weights from the pixels and a bias, 200 to the code's means and
    # log-variances, 100 from the code and a bias, 8,192 to the pixels' parameters.
    millions = [(12_590 * units + 200 + 8_192) / 1e6 for units in (1, 2)]
    grown = ([2, 4], [4], [16, 32], millions)
    for figure, sizes in zip(figures, grown, strict=True):
        measured, floor = figure["curves"].values()
        assert [point["at"] for point in measured] == sizes
        for point in measured:
            assert 0 < point["lowest"] <= point["median"] <= point["highest"]
        floors = [point["median"] for point in floor]
        assert 0 < floors[0] and floors == sorted(set(floors))


def test_remat_keeps_less_and_both_grow_with_the_pictures():
    figure = scaling.against_remat((16, 32), batch_size=4, channels=1)
    kept = {
        told: [p["median"] for p in figure["curves"][f"kept for backward, {told}"]]
        for told in ("remat", "no remat")
    }
    for again, plain in zip(*kept.values(), strict=True):
        assert 0 < again < plain
    # Parameters, of which there are as many at each size, are the rest.
    assert kept["no remat"][1] > kept["no remat"][0]
    assert all(point["median"] > 0 for point in figure["curves"]["XLA, no remat"])


def test_a_step_is_timed_by_images_in_the_data_set_from_both_feeds(monkeypatch):
    seen, trainer = [], scaling.training.trainer

    def noticed(config, split, feed):
        seen.append((len(split.images), bool(split.images[-1].any()), feed))
        return trainer(config, split, feed)

    monkeypatch.setattr(scaling.training, "trainer", noticed)
    figure = scaling.against_data_set((30, 50), batch_size=4, seconds=0)
    assert seen == [(n, True, feed) for n in (30, 50) for feed in ("device", "stream")]
    assert len(figure["curves"]) == 2
    for curve in figure["curves"].values():
        assert [point["at"] for point in curve] == [0.03, 0.05]
        assert all(0 < point["lowest"] <= point["median"] for point in curve)


def test_a_step_is_timed_on_several_devices():
    figure = devices.against_devices((2,), batch_size=4, repeats=2)
    for kind in ("data_parallel", "fsdp"):
        [point] = figure["curves"][kind]
        # Which the process itself has counted.
        assert point["at"] == 2 and 0 < point["lowest"] <= point["median"]


def test_memory_grows_with_the_batch_by_what_a_batch_needs():
    curves = scaling.memory_against_batch((4, 8))["curves"]
    fewer, more = (2**30 * point["median"] for point in curves["VAE"])
    # Four images of each of ten updates.
    assert more - fewer > 10 * 4 * 64 * 64
    # Parameters, their average and Adam's two moments.
    assert fewer > 4 * 4 * 6_454_472


def test_the_drawing_shows_every_curve(tmp_path):
    points = [
        {"at": at, "median": 2.0 * at, "lowest": at, "highest": 3 * at}
        for at in (16, 32)
    ]
    figure = {"name": "n", "x": "batch", "unit": "ms", "note": "told"}
    sheets = []
    for curves in ({"one": points}, {"one": points, "floor": points[:1]}):
        scaling.draw([{**figure, "curves": curves}] * 2, tmp_path / "drawn.png")
        with Image.open(tmp_path / "drawn.png") as image:
            sheets.append(np.asarray(image))
    assert sheets[0].shape == sheets[1].shape
    assert (sheets[0] != sheets[1]).any()
