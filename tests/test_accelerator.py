"""The accelerator's programme, rehearsed: each kind of line on tiny models."""

import dataclasses
import json
import sys

import pytest

from benchmarks import accelerator, limits, training

pytestmark = [
    pytest.mark.slow,
    # torch.compile, where there is one, brings warnings about torch's own code.
    pytest.mark.filterwarnings("ignore"),
]

TINY = accelerator.Sizes(
    num_steps=20,
    num_images=64,
    batch_sizes=(4,),
    pixels=(16,),
    seconds=0.0,
    repeats=1,
    repeated_steps=100,
    drawn_faces={"train": 24, "validation": 4, "test": 4},
)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """No measurement of this machine, no PyTorch, no tests in a test, small models."""
    monkeypatch.setattr(limits, "machine", lambda **_: {"flops": 1e9, "bytes": 1e9})
    monkeypatch.setattr(training, "peers", lambda *_, **__: {})
    monkeypatch.setattr(accelerator, "marked_tests", lambda: {"name": "tests"})
    two = {name: accelerator.PRECISIONS[name] for name in ("bf16", "tf32")}
    monkeypatch.setattr(accelerator, "PRECISIONS", two)

    def small(name, recipe):
        config = recipe()
        config.model.latent_dim = 2
        if name == "conv VAE":
            config.model.width, config.model.depth = 4, 0
        else:
            config.model.hidden_dim = 4
        return config

    for name, recipe in training.RECIPES.items():
        config = small(name, recipe)
        copy = config.copy_and_resolve_references
        monkeypatch.setitem(training.RECIPES, name, copy)


def test_every_line_of_the_programme_is_measured_and_written(tmp_path, monkeypatch):
    out = tmp_path / "found.json"
    written = []
    write = type(out).write_text

    def write_text(path, text):
        if path == out:
            written.append(len(json.loads(text)["lines"]))
        return write(path, text)

    monkeypatch.setattr(type(out), "write_text", write_text)
    found = accelerator.measure(TINY, out, budget=1e9)
    assert json.loads(out.read_text()) == found
    assert not found["failed"] and not found["left_out"]
    names = [line["name"] for line in found["lines"]]
    assert len(set(names)) == len(names)
    # Each as soon as it is there, and once more in the end.
    assert written == [*range(1, len(names) + 1), len(names)]
    # 3 models of 2 precisions; the notebook, both repeated, the tests.
    assert len(names) == 3 * 2 + 4
    by_name = dict(zip(names, found["lines"], strict=True))
    for deterministic in (False, True):
        line = by_name[f"VAE, 100 steps, deterministic={deterministic}"]
        assert line["same_again"] and line["same_resumed"]
    assert by_name["VAE, bf16, 20 steps of 64"]["time_over_floor"] > 0
    # FLOPs of a step are nearly those of any precision.
    rates = [by_name[f"conv VAE, {p}, 16 pixels, batch 4"] for p in ("bf16", "tf32")]
    work = [
        line["share_of_flops"] / line["rivals"]["vae_jax"]["median"] for line in rates
    ]
    assert work[0] == pytest.approx(work[1], rel=0.3)


def test_what_would_end_after_the_budget_is_left_out_and_a_failure_is_told(
    tmp_path, monkeypatch
):
    clock = [0.0]
    monkeypatch.setattr(accelerator.time, "perf_counter", lambda: clock[0])

    def rate(name, pixels, precision, batch_size, sizes):
        clock[0] += 10
        if precision == "tf32":
            raise RuntimeError("out of memory")
        return {"name": f"{name} {pixels} {precision} {batch_size}"}

    monkeypatch.setattr(accelerator, "rate", rate)
    out = tmp_path / "found.json"
    found = accelerator.measure(TINY, out, budget=49, kinds=["rate"])
    # The fifth would end at 50.
    assert len(found["lines"]) + len(found["failed"]) == 4
    assert found["left_out"] == 2
    assert "out of memory" in found["failed"][0]["error"]


def test_the_command_measures_the_kinds_that_are_asked_for(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(accelerator, "Sizes", lambda: dataclasses.replace(TINY))
    arguments = ["accelerator", f"--out={tmp_path}/deep"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", "notebook", "tests"])
    accelerator.main()
    assert "2 lines, 0 left out" in capsys.readouterr().out
    found = json.loads((tmp_path / "deep" / "accelerator.json").read_text())
    assert [line["name"] for line in found["lines"]][1] == "tests"
    for wrong in (
        [],
        ["--all", "--budget=nan"],
        ["--all", f"--out={tmp_path}/deep/accelerator.json"],
    ):
        monkeypatch.setattr(sys, "argv", [*arguments, *wrong])
        with pytest.raises(SystemExit):
            accelerator.main()
