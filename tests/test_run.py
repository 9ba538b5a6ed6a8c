import json
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import new_tiny_config

from vae_jax import phases
from vae_jax import run as run_lib
from vae_jax.data import synthetic_faces
from vae_jax.errors import UserError
from vae_jax.experiment import Experiment, assemble
from vae_jax.exploration.sampling import sample_prior
from vae_jax.report.writer import read_lines

pytestmark = pytest.mark.slow


def ae(config):
    config.model.name, config.objective.name = "ae", "mse"
    return config


def assert_same_bits(left, right):
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_workdir_holds_what_it_promises(tiny_config, tmp_path):
    run = run_lib.train(tiny_config, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["config"]["model"]["latent_dim"] == 4
    assert record["dataset"]["pictures"] == {"train": 40, "validation": 10, "test": 6}
    assert record["dataset"]["crop"] == "notebook"
    sizes = [256 * 16 + 16, 16 * 8 + 8, 4 * 16 + 16, 16 * 512 + 512]
    assert record["num_parameters"] == sum(sizes)
    assert record["seed"] == 0 and record["devices"]
    assert record["versions"]["jax"] == jax.__version__
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    fields = {"step", "epoch", "split", "elbo", "kl", "log_px", "loss", "mse"}
    for line in map(json.loads, lines):
        counted = {"skipped"} if line["split"] == "train" else set()
        assert line.keys() == fields | counted
    loaded = run_lib.load(tmp_path / "run")
    assert loaded.step == run.step == 12
    assert_same_bits(loaded.variables, run.variables)
    assert not np.array_equal(
        *(run.model(p).encoder.head.kernel[...] for p in ("ema", "raw"))
    )


@pytest.mark.optimised
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("feed", ["device", "stream"])
def test_stopping_and_resuming_changes_no_bit(tiny_config, tmp_path, precision, feed):
    tiny_config.precision = precision
    tiny_config.dataset.feed = feed
    whole = run_lib.train(tiny_config, tmp_path / "whole")
    tiny_config.train.num_steps, seen = 4, []
    run_lib.train(tiny_config, tmp_path / "parts", on_line=seen.append)
    tiny_config.train.num_steps = 12
    parts = run_lib.train(tiny_config, tmp_path / "parts", on_line=seen.append)
    assert_same_bits(whole.variables, parts.variables)
    # Being watched changes none either.
    assert seen == read_lines(tmp_path / "parts" / "metrics.jsonl")
    whole_log, parts_log = (
        (tmp_path / name / "metrics.jsonl").read_bytes() for name in ("whole", "parts")
    )
    assert whole_log == parts_log
    assert np.isfinite(jax.tree.leaves(parts.variables)[0]).all()


def test_a_run_may_go_on_with_the_other_feed(tiny_config, tmp_path):
    # Another program, whose sums may round differently, on the same pictures.
    runs = []
    for feeds in (("device", "device"), ("stream", "device"), ("stream", "stream")):
        for steps, tiny_config.dataset.feed in zip((4, 12), feeds, strict=True):
            tiny_config.train.num_steps = steps
            run = run_lib.train(tiny_config, tmp_path / "-".join(feeds))
        runs.append(jax.tree.leaves(run.variables))
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.optimised
def test_the_same_seed_gives_the_same_bits_and_another_does_not(tiny_config, tmp_path):
    tiny_config.train.num_steps = 4
    first = run_lib.train(tiny_config, tmp_path / "a")
    again = run_lib.train(tiny_config, tmp_path / "b")
    assert_same_bits(first.variables, again.variables)
    tiny_config.seed = 1
    other = run_lib.train(tiny_config, tmp_path / "c")
    assert not np.array_equal(
        *(jax.tree.leaves(r.variables["raw"])[1] for r in (first, other))
    )


@pytest.mark.parametrize("feed", ["device", "stream"])
def test_a_finished_run_is_not_trained_again(tiny_config, tmp_path, feed):
    tiny_config.dataset.feed = feed
    first = run_lib.train(tiny_config, tmp_path)
    log = (tmp_path / "metrics.jsonl").read_bytes()
    again = run_lib.train(tiny_config, tmp_path)
    assert again.step == 12
    assert_same_bits(first.variables, again.variables)
    assert (tmp_path / "metrics.jsonl").read_bytes() == log


def test_a_run_of_another_config_is_refused_with_the_keys(tiny_config, tmp_path):
    tiny_config.train.num_steps = 4
    run_lib.train(tiny_config, tmp_path)
    record = (tmp_path / "run.json").read_bytes()
    tiny_config.model.latent_dim = 5
    tiny_config.ema.decay = 0.5
    with pytest.raises(UserError) as error:
        run_lib.train(tiny_config, tmp_path)
    assert "model.latent_dim: 4 in the run, 5 given" in str(error.value)
    assert "ema.decay: 0.999 in the run, 0.5 given" in str(error.value)
    assert "seed" not in str(error.value)
    assert (tmp_path / "run.json").read_bytes() == record


def test_fewer_steps_than_were_asked_before_are_refused(tiny_config, tmp_path):
    run_lib.train(tiny_config, tmp_path)
    tiny_config.train.num_steps = 8
    with pytest.raises(UserError, match=r"num_steps is 8.*has 12"):
        run_lib.train(tiny_config, tmp_path)


def test_other_pictures_under_the_same_name_are_refused(tiny_config, tmp_path):
    run_lib.train(tiny_config, tmp_path / "run")
    other = tmp_path / "tfds"
    synthetic_faces.prepare(other, sizes={"train": 9, "validation": 10, "test": 6})
    tiny_config.dataset.data_dir = str(other)
    with pytest.raises(UserError, match=r"'train': 40.*'train': 9"):
        run_lib.train(tiny_config, tmp_path / "run")


def test_epochs_count_where_steps_are_not_set(tiny_config, tmp_path):
    tiny_config.train.num_steps = None
    tiny_config.train.num_epochs = 0.5
    # Half of 40 pictures in batches of 8, rounded up.
    assert run_lib.train(tiny_config, tmp_path).step == 3
    for number in (1e300, 1e308):
        tiny_config.train.num_epochs = number
        with pytest.raises(UserError, match=r"num_epochs is 1e\+30., .* 1 to 10000000"):
            run_lib.train(tiny_config, tmp_path / "other")
    assert not (tmp_path / "other" / "run.json").exists()


def test_auto_is_resolved_once(tiny_config, tmp_path, capsys):
    tiny_config.dataset.name = "auto"
    tiny_config.precision = "auto"
    tiny_config.train.num_steps = 4
    run = run_lib.train(tiny_config, tmp_path)
    assert run.config.dataset.name == "synthetic_faces"
    assert "training on synthetic_faces" in capsys.readouterr().out
    # A celeb_a that appears later does not switch the run.
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["config"]["dataset"]["name"] == "synthetic_faces"
    assert record["config"]["precision"] in ("fp32", "bf16")
    tiny_config.train.num_steps = 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_lib.cache, "resolve_name", lambda name, _: name)
        assert run_lib.train(tiny_config, tmp_path).step == 8


@pytest.mark.parametrize("at", [8, 12])
def test_a_run_is_stopped_in_its_last_step_as_in_any(tiny_config, tmp_path, at):
    def stop(line):
        if (line["step"], line["split"]) == (at, "validation"):
            signal.raise_signal(signal.SIGTERM)

    run = run_lib.train(tiny_config, tmp_path, on_line=stop)
    assert (run.step, run.was_stopped) == (at, True)
    run = run_lib.train(tiny_config, tmp_path)
    assert (run.step, run.was_stopped) == (12, False)


def test_a_run_says_where_another_was_not_trained_to_its_end(
    tiny_config, tmp_path, capsys
):
    def stop(line):
        if (line["step"], line["split"]) == (8, "validation"):
            signal.raise_signal(signal.SIGTERM)

    run_lib.train(tiny_config, tmp_path / "first", on_line=stop)
    tiny_config.init_from = str(tmp_path / "first")
    run_lib.train(tiny_config, tmp_path / "second")
    assert f"{tmp_path / 'first'} stands at step 8 of 12" in capsys.readouterr().out


def test_auto_is_taken_anew_where_a_setting_may_change(tiny_config, tmp_path):
    tiny_config.train.num_steps, tiny_config.dataset.feed = 4, "stream"
    run_lib.train(tiny_config, tmp_path)
    tiny_config.train.num_steps, tiny_config.dataset.feed = 8, "auto"
    assert run_lib.train(tiny_config, tmp_path).config.dataset.feed == "auto"


def test_init_from_starts_at_the_others_ema(tiny_config, tmp_path):
    first = run_lib.train(tiny_config, tmp_path / "first")
    tiny_config.init_from = str(tmp_path / "first")
    tiny_config.optimizer.learning_rate = 1e-12
    tiny_config.train.num_steps = 4
    second = run_lib.train(tiny_config, tmp_path / "second")
    for name in ("ema", "raw"):
        for a, b in zip(
            jax.tree.leaves(first.variables["ema"]),
            jax.tree.leaves(second.variables[name]),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, atol=1e-7)


def test_a_run_without_a_checkpoint_is_held_against_what_it_starts_from(
    tiny_config, tmp_path, monkeypatch
):
    """What another run was trained to again, before this one had saved anything."""
    run_lib.train(tiny_config, tmp_path / "first")
    tiny_config.init_from = str(tmp_path / "first")
    tiny_config.parts.frozen = tiny_config.parts.initialised = "encoder"
    with monkeypatch.context() as patch:
        patch.setattr(phases.loop, "train", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_lib.train(tiny_config, tmp_path / "second")
    assert (tmp_path / "second" / "run.json").exists()
    shutil.rmtree(tmp_path / "first")
    other = new_tiny_config(tiny_config.dataset.data_dir)
    other.model.latent_dim = 5
    run_lib.train(other, tmp_path / "first")
    with pytest.raises(UserError, match="parts.initialised has 'encoder'"):
        run_lib.train(tiny_config, tmp_path / "second")


def test_a_run_that_begins_anew_keeps_nothing_of_other_parameters(
    tiny_config, tmp_path
):
    tiny_config.train.num_steps = 4
    first = run_lib.train(tiny_config, tmp_path)
    names = ("codes.npz", "directions.npz", "attributes.json", "eval.json")
    left, own = [tmp_path / name for name in names], tmp_path / "own.npz"
    for path in (*left, own):
        path.write_bytes(b"of these parameters")
    # What goes on keeps them.
    run_lib.train(tiny_config, tmp_path)
    assert all(path.exists() for path in left)
    shutil.rmtree(first.workdir / "checkpoints")
    run_lib.train(tiny_config, tmp_path)
    assert own.exists() and not any(path.exists() for path in left)
    # A first training finds nothing that is its own.
    left[0].write_bytes(b"of a user")
    for name in ("checkpoints", "run.json", "metrics.jsonl"):
        path = tmp_path / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run_lib.train(tiny_config, tmp_path)
    assert left[0].read_bytes() == b"of a user"


def test_init_from_that_names_no_run_is_refused(tiny_config, tmp_path):
    tiny_config.init_from = str(tmp_path / "none")
    with pytest.raises(
        UserError, match="^config.init_from is '.*none': .*holds no run"
    ):
        run_lib.train(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_init_from_takes_what_fits_and_says_so(tiny_config, tmp_path, capsys):
    tiny_config.train.num_steps = 4
    first = run_lib.train(tiny_config, tmp_path / "first")
    tiny_config.init_from = str(tmp_path / "first")
    tiny_config.optimizer.learning_rate = 1e-12
    tiny_config.model.prior = "mixture"
    tiny_config.model.latent_dim = 5
    capsys.readouterr()
    second = run_lib.train(tiny_config, tmp_path / "second")
    said = capsys.readouterr().out
    fresh = assemble(tiny_config, 40).initial_state()
    for part, layer, taken in (
        ("encoder", "hidden", True),
        ("decoder", "head", True),
        ("encoder", "head", False),
        ("decoder", "hidden", False),
    ):
        other = first.variables["ema"].params if taken else fresh.params
        np.testing.assert_allclose(
            second.variables["raw"].params[part][layer]["kernel"],
            other[part][layer]["kernel"],
            atol=1e-7,
        )
    # Both layers whose shapes follow the code, their biases but one, and the prior.
    assert re.search(
        r"note: of the 11 arrays of the model 5 start as in \S+first;", said
    )
    assert "params/decoder/hidden/kernel ([5, 16], [4, 16])" in said
    assert "params/prior" in said or ", ..." in said
    # On going on nothing is taken again, nor told.
    tiny_config.train.num_steps = 8
    assert run_lib.train(tiny_config, tmp_path / "second").step == 8
    assert "start as in" not in capsys.readouterr().out
    tiny_config.parts.initialised = "decoder"
    with pytest.raises(UserError, match="^config.parts.initialised has 'decoder', wh"):
        run_lib.train(tiny_config, tmp_path / "third")
    tiny_config.parts.initialised = "decodr"
    with pytest.raises(UserError, match="decodr.*are decoder, encoder, prior$"):
        run_lib.train(tiny_config, tmp_path / "third")
    tiny_config.parts.initialised = ""
    tiny_config.dataset.size, tiny_config.model.hidden_dim = 8, 3
    with pytest.raises(UserError, match="^config.init_from is .*nothing there fits"):
        run_lib.train(tiny_config, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_a_network_of_larger_images_starts_from_that_of_smaller(tiny_config, tmp_path):
    """128 pixels from 64: all stages but the finest, which is new."""
    tiny_config.model.network, tiny_config.model.width = "conv", 2
    tiny_config.model.hidden_dim = 512
    tiny_config.train.num_steps, tiny_config.dataset.size = 4, 64
    first = run_lib.train(tiny_config, tmp_path / "first")
    tiny_config.init_from = str(tmp_path / "first")
    tiny_config.dataset.size = 128
    tiny_config.optimizer.learning_rate = 1e-12
    second = run_lib.train(tiny_config, tmp_path / "second")
    small, large = (run.variables["ema"].params for run in (first, second))
    taken = 0
    for part in ("encoder", "decoder"):
        stages = large[part]["stages"]
        assert set(stages) == {*small[part]["stages"], "r32"}
        for name, stage in small[part]["stages"].items():
            blocks = (
                jax.tree.leaves(stage["blocks"]),
                jax.tree.leaves(stages[name]["blocks"]),
            )
            for before, after in zip(*blocks, strict=True):
                np.testing.assert_allclose(before, after, atol=1e-7)
                taken += 1
    np.testing.assert_allclose(
        small["encoder"]["stages"]["r4"]["entry"]["kernel"],
        large["encoder"]["stages"]["r4"]["entry"]["kernel"],
        atol=1e-7,
    )
    assert taken == 36


def test_frozen_parts_stay_and_cost_no_optimiser(tiny_config, tmp_path):
    tiny_config.parts.frozen = "encoder"
    run = run_lib.train(tiny_config, tmp_path / "frozen")
    assembled = assemble(tiny_config, 40)
    before = assembled.initial_state()
    for kind in ("ema", "raw"):
        params = run.variables[kind].params
        assert_same_bits(params["encoder"], before.params["encoder"])
        assert not np.array_equal(
            params["decoder"]["head"]["kernel"],
            before.params["decoder"]["head"]["kernel"],
        )

    def sizes(tree):
        return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))

    tiny_config.parts.frozen = ""
    whole = assemble(tiny_config, 40).initial_state()
    saved = sizes(whole.opt_state) - sizes(before.opt_state)
    assert saved == 2 * sizes(before.params["encoder"])
    # Nor is its gradient computed: less than half of the encoder's products are left.
    batch = {"image": np.zeros((8, 16, 16, 1), np.uint8)}
    flops = {}
    for frozen in ("", "encoder"):
        tiny_config.parts.frozen = frozen
        one = assemble(tiny_config, 40)
        lowered = jax.jit(one.update()).lower(one.initial_state(), batch)
        flops[frozen] = lowered.compile().cost_analysis()["flops"]
    pixels, hidden, features = 256, 16, 8
    products = 2 * 8 * (pixels * hidden + 2 * hidden * features)
    assert flops[""] - flops["encoder"] > 0.95 * products
    tiny_config.parts.frozen = "encoder,decoder"
    with pytest.raises(UserError, match="whole model: nothing would be trained"):
        run_lib.train(tiny_config, tmp_path / "nothing")


def test_a_part_of_its_own_optimiser(tiny_config, tmp_path):
    tiny_config.parts.optimizer = "decoder.learning_rate=2e-6"
    tiny_config.optimizer.weight_decay = 0.0
    tiny_config.train.num_steps = 4
    run = run_lib.train(tiny_config, tmp_path / "run")
    before = run.experiment.initial_state().params
    after = run.variables["raw"].params
    for part, rate in (("encoder", 2e-4), ("decoder", 2e-6)):
        for old, new in zip(
            jax.tree.leaves(before[part]), jax.tree.leaves(after[part]), strict=True
        ):
            assert np.abs(new - old).max() == pytest.approx(4 * rate, rel=0.2)
    # And it goes on, bit for bit, as if it had never stopped.
    tiny_config.train.num_steps = 8
    gone_on = run_lib.train(tiny_config, tmp_path / "run")
    whole = run_lib.train(tiny_config, tmp_path / "whole")
    assert_same_bits(gone_on.variables, whole.variables)


def test_deterministic_reaches_the_programs_that_train_and_evaluate(
    tiny_config, tmp_path, monkeypatch
):
    assert assemble(tiny_config, 40).compiler_options is None
    tiny_config.deterministic = True
    options = assemble(tiny_config, 40).compiler_options
    assert options == {"xla_gpu_deterministic_ops": True}
    trained = run_lib.train(tiny_config, tmp_path)
    # XLA says which options it does not have.
    unknown = property(lambda self: {"no_such_option": True})
    monkeypatch.setattr(Experiment, "compiler_options", unknown)
    evaluator = trained.experiment.evaluator()
    with pytest.raises(Exception, match="no_such_option"):
        evaluator(trained.variables["ema"], trained.dataset.splits["test"])
    monkeypatch.setattr(Experiment, "evaluator", lambda *_, **__: None)
    with pytest.raises(Exception, match="no_such_option"):
        run_lib.train(tiny_config, tmp_path / "new")


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(UserError, match="no run"):
        run_lib.load(tmp_path)
    (tmp_path / "run.json").write_text('{"config": {"model": {"depths": 3}}}')
    with pytest.raises(UserError, match=r"run\.json cannot be read.*depths"):
        run_lib.load(tmp_path)


def test_checkpoints_without_a_run_json_are_not_gone_on_from(tiny_config, tmp_path):
    tiny_config.train.num_steps = 4
    run_lib.train(tiny_config, tmp_path)
    (tmp_path / "run.json").unlink()
    for open_it in (
        lambda: run_lib.train(tiny_config, tmp_path),
        lambda: run_lib.load(tmp_path),
    ):
        with pytest.raises(UserError, match="has checkpoints but no run.json"):
            open_it()
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("part", ["config", "dataset"])
def test_a_damaged_run_json_is_named(tiny_config, tmp_path, part):
    tiny_config.train.num_steps = 4
    run_lib.train(tiny_config, tmp_path)
    whole = (tmp_path / "run.json").read_text()
    number = whole.replace('"latent_dim": ', '"latent_dim": -')
    for damaged in (whole[:-9], whole.replace(part, "dasa"), number, "[]", ""):
        (tmp_path / "run.json").write_text(damaged)
        for open_it in (
            lambda: run_lib.train(tiny_config, tmp_path),
            lambda: run_lib.load(tmp_path),
        ):
            with pytest.raises(UserError, match=r"run\.json cannot be read") as told:
                open_it()
            assert str(told.value).count("cannot be read") == 1


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    tiny_config, tmp_path, capsys
):
    # The best is an earlier one: its loss falls only at first.
    tiny_config.optimizer.learning_rate = 0.1
    whole = run_lib.train(tiny_config, tmp_path / "whole")
    run_lib.train(tiny_config, tmp_path / "hurt")
    steps = {int(p.name) for p in (tmp_path / "hurt" / "checkpoints").glob("[0-9]*")}
    assert len(steps) == 2
    latest = tmp_path / "hurt" / "checkpoints" / "12"
    data = max(latest.rglob("d/*"), key=lambda path: path.stat().st_size)
    data.write_bytes(data.read_bytes()[:-1])
    capsys.readouterr()
    assert run_lib.load(tmp_path / "hurt").step == min(steps)
    again = run_lib.train(tiny_config, tmp_path / "hurt")
    out = capsys.readouterr().out
    assert out.count(f"note: {latest} is damaged") == 2
    assert f"going on from step {min(steps)} of" in out
    assert_same_bits(whole.variables, again.variables)
    logs = [(tmp_path / n / "metrics.jsonl").read_bytes() for n in ("whole", "hurt")]
    assert logs[0] == logs[1]


def test_a_quick_look_at_a_cosine_warms_up_over_half_of_it(
    tiny_config, tmp_path, capsys
):
    tiny_config.optimizer.schedule, tiny_config.optimizer.warmup_steps = "cosine", 500
    tiny_config.train.num_steps = 3
    assert run_lib.train(tiny_config, tmp_path / "short").step == 3
    said = capsys.readouterr().out
    assert "warmup_steps is 500, and the run has 3 step(s)" in said
    assert "rises over 1 of them" in said


def test_a_prolonged_cosine_says_what_becomes_of_the_learning_rate(
    tiny_config, tmp_path, capsys
):
    tiny_config.optimizer.schedule, tiny_config.optimizer.learning_rate = "cosine", 0.02
    tiny_config.train.num_steps = 4
    run_lib.train(tiny_config, tmp_path)
    assert "cosine" not in capsys.readouterr().out
    tiny_config.train.num_steps = 16
    run_lib.train(tiny_config, tmp_path)
    said = capsys.readouterr().out
    # A quarter of the way down a cosine.
    rate = 0.01 * (1 + np.cos(np.pi / 4))
    assert "was to end at step 4, at 0, and now ends at step 16" in said
    assert f"at step 4 it is {rate:.3g}" in said


def test_an_attribute_that_the_data_set_lacks_is_refused(tiny_config, tmp_path):
    tiny_config.model.attributes = "Smiling,Winking"
    with pytest.raises(
        UserError,
        match=r"config\.model\.attributes has 'Winking'; .*synthetic_faces are .*Bald",
    ):
        run_lib.train(tiny_config, tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_a_batch_that_devices_cannot_share_is_refused(
    tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    with pytest.raises(UserError, match="batch_size is 8.*multiple of the 3 devices"):
        run_lib.train(tiny_config, tmp_path)


@pytest.mark.parametrize("make", [lambda c: c, ae], ids=["vae", "ae"])
def test_eight_pictures_can_be_learnt_by_heart(tiny_config, tmp_path, make):
    config = make(tiny_config)
    config.model.hidden_dim, config.model.latent_dim = 64, 16
    config.optimizer.learning_rate = 3e-3
    # Without it the end is a matter of luck: the last bit of an early step decides.
    config.optimizer.schedule = "cosine"
    config.ema.decay = 0.9
    config.train.num_steps = 600
    config.train.steps_per_dispatch = 50
    for section in (config.log, config.eval, config.checkpoint):
        section.every_steps = 600
    with pytest.MonkeyPatch.context() as patch:
        load = run_lib.cache.load

        def eight(*args, **kwargs):
            dataset = load(*args, **kwargs)
            train = dataset.splits["train"]
            few = type(train)(train.images[:8], train.attributes[:8])
            return type(dataset)(
                {**dataset.splits, "train": few},
                dataset.attribute_names,
                dataset.recipe,
            )

        patch.setattr(run_lib.cache, "load", eight)
        run = run_lib.train(config, tmp_path)
    images = run.dataset.splits["train"].images.astype(np.float32) / 255
    model = run.model()
    reconstructions = model.decode(model.encode(jnp.asarray(images))).mean
    mse = np.mean((reconstructions - images) ** 2)
    # The mean picture alone leaves five times as much.
    assert mse < 0.2 * images.var(axis=0).mean()


def test_samples_come_from_the_prior_through_the_decoder(tiny_config, tmp_path):
    tiny_config.train.num_steps = 4
    model = run_lib.train(tiny_config, tmp_path).model()
    key = jax.random.key(3)
    samples = sample_prior(model, key, 5)
    expected = model.decode(jax.random.normal(key, (5, 4))).mean
    np.testing.assert_allclose(samples, expected, rtol=1e-5)
    mode = model.decode(jnp.zeros((1, 4))).mean
    cold = sample_prior(model, key, 5, temperature=0.0)
    np.testing.assert_allclose(cold, jnp.broadcast_to(mode, cold.shape), rtol=1e-5)


def test_training_starts_without_the_libraries_of_its_end():
    # Each takes as long to import as JAX, or half as long.
    code = (
        "import sys; import vae_jax.main; "
        "sys.exit(bool({'sklearn', 'matplotlib', 'scipy.stats'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
