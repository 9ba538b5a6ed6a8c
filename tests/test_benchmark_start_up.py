"""Start-up is timed in processes of their own, to the first update and no further."""

import importlib.util

import pytest

from benchmarks import start_up
from benchmarks.timing import durations


def test_durations_are_seconds_and_ratios_are_of_the_same_round():
    found = durations({"a": [1.0, 2.0, 4.0], "b": [2.0, 4.0, 12.0]})
    names = ("median", "lowest", "highest", "ratio", "ratio_lowest", "ratio_highest")
    assert [found["a"][name] for name in names] == [2.0, 1.0, 4.0, 1.0, 1.0, 1.0]
    assert [found["b"][name] for name in names] == [4.0, 2.0, 12.0, 2.0, 2.0, 3.0]


@pytest.mark.slow
def test_vae_jax_trains_until_its_first_line_and_leaves_its_programs(
    data_dir, tmp_path
):
    workdir = tmp_path / "run"
    for _ in range(2):
        start_up._train(data_dir, workdir, tmp_path / "caches")
        assert '"step": 1,' in (workdir / "metrics.jsonl").read_text()
        assert not list((workdir / "checkpoints").glob("[0-9]*"))
    names = [p.name for p in (tmp_path / "caches" / "vae_jax").rglob("*-cache")]
    assert sum(name.startswith("jit_dispatch") for name in names) == 1


@pytest.mark.slow
def test_a_process_that_ends_too_early_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="ended without an update"):
        # Nothing is prepared in a file.
        (tmp_path / "file").write_text("")
        start_up._train(tmp_path / "file", tmp_path / "run", tmp_path / "caches")


def test_each_rival_has_its_seconds(monkeypatch):
    calls = []
    monkeypatch.setattr(start_up, "PICTURES", {"train": 8, "validation": 2, "test": 2})
    monkeypatch.setattr(start_up, "_train", lambda *paths: calls.append(paths[2]))
    monkeypatch.setattr(start_up, "_import", lambda module: None)
    monkeypatch.setattr(start_up, "_train_torch", lambda settings, caches: None)
    imports, updates = start_up.measure(2)
    assert next(iter(imports["rivals"])) == next(iter(updates["rivals"])) == "vae_jax"
    assert all(line["unit"] == "s" for line in (imports, updates))
    # Of six processes three start with a cache that nothing has used before.
    assert len(calls) == 6 and len(set(calls)) == 4
    if importlib.util.find_spec("torch"):
        assert "PyTorch, compiled, cold cache" in updates["rivals"]


def test_pytorch_says_when_it_has_updated(tmp_path, data_dir):
    pytest.importorskip("torch")
    import numpy as np

    np.save(tmp_path / "pictures.npy", np.zeros((8, 8, 8, 1), np.uint8))
    settings = {
        "pictures": str(tmp_path / "pictures.npy"),
        "batch_size": 4,
        "hidden_dim": 8,
        "latent_dim": 2,
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "compiled": False,
    }
    start_up._train_torch(settings, tmp_path)
    with pytest.raises(RuntimeError, match="without an update"):
        start_up._train_torch(settings | {"pictures": "nowhere.npy"}, tmp_path)
