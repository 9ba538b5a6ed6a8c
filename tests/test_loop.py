import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vae_jax.data import batches
from vae_jax.data.cache import Split
from vae_jax.errors import UserError
from vae_jax.report.writer import Writer, read_lines
from vae_jax.training import growth, loop
from vae_jax.training import step as step_lib
from vae_jax.training.checkpoint import Checkpoints


@pytest.mark.parametrize(
    ("first", "last", "size", "expected"),
    [
        (0, 10, 5, [(0, 5), (5, 5)]),
        (0, 12, 5, [(0, 5), (5, 5), (10, 2)]),
        (7, 12, 5, [(7, 3), (10, 2)]),
        (5, 5, 5, []),
        (0, 3, 10, [(0, 3)]),
    ],
)
def test_dispatches_end_on_absolute_multiples(first, last, size, expected):
    assert loop.dispatches(first, last, size) == expected


def loss_fn(params, state, batch, key, step):
    target = batch["image"].astype(jnp.float32).mean() / 255
    noise = 0.01 * jax.random.normal(key)
    loss = jnp.square(params["w"] - target + noise) + jnp.where(
        (step == state["bad"]).any(), jnp.nan, 0
    )
    return loss, ({"loss": loss, "mse": loss}, state)


def latest_step(workdir):
    return max(int(p.name) for p in workdir.glob("checkpoints/*[0-9]"))


def train(workdir, num_steps=20, stop_at=None, bad=(), batch_size=4, kind="device"):
    """Trains one number towards the mean brightness of 30 random pictures.

    The loss of the `bad` steps is no number.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 2, 2, 1), dtype=np.uint8)
    split = Split(images, np.zeros((30, 1), bool))
    optimizer = optax.adam(0.01)
    state = step_lib.create_state(
        {"w": jnp.float32(0)},
        {"bad": jnp.array([-1, *bad])},
        optimizer,
        float16=False,
    )
    update = step_lib.build_update(loss_fn, optimizer, ema_decay=0.9, seed=0)
    workdir.mkdir(exist_ok=True)
    validations = []

    def validate(state):
        validations.append(float(state.ema_params["w"]))
        if stop_at is not None and len(validations) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"loss": 1 / len(validations), "mse": 0.0}

    with Checkpoints(workdir / "checkpoints", writable=True) as checkpoints:
        state = checkpoints.restore("latest", state) or state
        with Writer(workdir, int(state.step)) as writer, loop.stop_requests() as stop:
            state = loop.train(
                state,
                update,
                batches.build_feed(kind, split, seed=0, batch_size=batch_size),
                phase=growth.Phase(16, batch_size, first=0, last=num_steps),
                num_images=30,
                cadence=loop.Cadence(dispatch=2, log=4, evaluate=8, checkpoint=8),
                validate=validate,
                writer=writer,
                checkpoints=checkpoints,
                stop=stop,
            )
    assert latest_step(workdir) == int(state.step)
    return state, validations


def test_logs_evaluations_and_saves_come_when_they_should(tmp_path):
    state, validations = train(tmp_path, num_steps=22)
    lines = read_lines(tmp_path / "metrics.jsonl")
    steps = {
        s: [x["step"] for x in lines if x["split"] == s]
        for s in ("train", "validation")
    }
    assert steps == {"train": [4, 8, 12, 16, 20, 22], "validation": [8, 16, 22]}
    assert list(lines[0]) == ["step", "epoch", "split", "loss", "mse", "skipped"]
    assert lines[0]["skipped"] == 0
    np.testing.assert_allclose(lines[0]["epoch"], 4 * 4 / 30)
    assert [x["step"] for x in read_lines(tmp_path / "timing.jsonl")] == steps["train"]
    assert validations[-1] == float(state.ema_params["w"]) != float(state.params["w"])


def test_a_logged_loss_is_the_mean_since_the_last_one(tmp_path):
    train(tmp_path / "coarse", num_steps=4)
    coarse = read_lines(tmp_path / "coarse" / "metrics.jsonl")[0]["loss"]
    optimizer = optax.adam(0.01)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (30, 2, 2, 1), dtype=np.uint8)
    state = step_lib.create_state(
        {"w": jnp.float32(0)}, {"bad": jnp.int32(100)}, optimizer, float16=False
    )
    update = step_lib.build_update(loss_fn, optimizer, ema_decay=0.9, seed=0)
    losses = []
    for index in batches.batch_indices(0, 0, 4, 4, 30):
        state, metrics = jax.jit(update)(state, {"image": images[index]})
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(coarse, np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("kind", ["device", "stream"])
def test_metrics_leave_the_device_once_a_log(tmp_path, monkeypatch, kind):
    fetches, fetch = [], jax.device_get
    monkeypatch.setattr(
        jax, "device_get", lambda tree: fetches.append(1) or fetch(tree)
    )
    train(tmp_path, num_steps=20, kind=kind)
    assert len(fetches) == 5


def test_a_stop_request_ends_at_a_log_and_the_rest_is_bit_identical(tmp_path):
    whole, _ = train(tmp_path / "whole", num_steps=24)
    stopped, _ = train(tmp_path / "parts", num_steps=24, stop_at=1)
    assert int(stopped.step) == 8
    # A later line and a torn one, as a kill leaves them.
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as log:
        log.write(
            '{"step": 12, "epoch": 1.6, "split": "train", "loss": 9.0}\n{"step": 1'
        )
    resumed, _ = train(tmp_path / "parts", num_steps=24)
    assert int(resumed.step) == 24
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    names = ("whole", "parts")
    logs = [read_lines(tmp_path / n / "metrics.jsonl") for n in names]
    train_lines = [[x for x in log if x["split"] == "train"] for log in logs]
    assert train_lines[0] == train_lines[1]


def test_bad_updates_are_passed_over_counted_and_told(tmp_path, capsys):
    state, _ = train(tmp_path, num_steps=20, bad=(5, 6, *range(8, 12)))
    assert int(state.step) == 20 and np.isfinite(state.params["w"])
    lines = read_lines(tmp_path / "metrics.jsonl")
    told = {x["step"]: x for x in lines if x["split"] == "train"}
    assert [told[s]["skipped"] for s in (4, 8, 12, 16, 20)] == [0, 2, 4, 0, 0]
    # Of four updates two count, and of the next four none.
    assert np.isfinite(told[8]["loss"]) and "loss" not in told[12]
    notes = [x for x in capsys.readouterr().out.splitlines() if "note" in x]
    assert notes == [
        "note: 2 of the updates of steps 4 to 7 skipped, first that of step 5: not "
        "finite were loss, mse",
        "note: 4 of the updates of steps 8 to 11 skipped, first that of step 8: "
        "not finite were loss, mse",
    ]


def test_a_mean_is_over_the_applied_updates():
    columns = {
        "loss": np.float32([1, np.nan, 3, np.inf]),
        "applied": np.float32([1, 0, 1, 0]),
        "faults": np.int32([0, 1, 0, 0]),
    }
    assert loop._summarise(columns) == {"loss": 2.0, "skipped": 2}


def test_too_many_faults_in_a_row_stop_where_the_same_command_stops_again(tmp_path):
    messages = []
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            train(tmp_path, num_steps=100, bad=range(11, 100))
        messages.append(str(caught.value))
        # Fifty are full at step 61; the next log is at 64, after a checkpoint at 56.
        assert latest_step(tmp_path) == 56
    pictures = batches.batch_indices(0, 11, 1, 4, 30)[0].tolist()
    for part in (
        "The last 53 updates (steps 11 to 63) were skipped",
        f"Step 11 saw the training pictures {pictures}. ",
        "The same command resumes at step 56, that of the last checkpoint,",
        "config.optimizer.learning_rate",
    ):
        assert part in messages[0]
    assert messages[0] == messages[1] and "\n" not in messages[0]
    assert read_lines(tmp_path / "metrics.jsonl")[-1]["step"] == 60


def test_a_run_without_one_good_update_is_no_success(tmp_path):
    with pytest.raises(UserError, match="no checkpoint yet"):
        train(tmp_path, num_steps=4, bad=range(4))
