"""The loop: batch -> update -> log -> evaluate -> save. It knows no model."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from vae_jax import processes, sharding
from vae_jax.data.batches import Feed
from vae_jax.errors import UserError
from vae_jax.report.writer import Writer
from vae_jax.training.checkpoint import Checkpoints
from vae_jax.training.growth import Phase
from vae_jax.training.step import TrainState, build_dispatch

# So many bad updates in a row are the fault of the parameters: if half of all batches
# were bad, it would happen once in 10^15 steps.
MOST_FAULTS = 50


@dataclass(frozen=True)
class Cadence:
    """How often things happen, in steps; each is a multiple of the one before.

    What happens at a step happens on absolute multiples, and all but `dispatch` at the
    last step as well.
    """

    dispatch: int
    log: int
    evaluate: int
    checkpoint: int


def dispatches(first: int, last: int, size: int) -> list[tuple[int, int]]:
    """Returns (first step, number of steps) of each compiled call in [first, last).

    Calls end on multiples of `size`, wherever they start, and at `last`.
    """
    cuts = [first, *range((first // size + 1) * size, last, size), last]
    return [(a, b - a) for a, b in zip(cuts[:-1], cuts[1:], strict=True) if b > a]


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; a second one kills.

    Python hands signals to the main thread alone: in another there are no requests.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def request(number, frame):
        received.append(number)
        # No print: the signal may have come in the middle of one.
        os.write(2, b"\nstopping at the next log, saved; a second signal kills\n")
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {
        number: signal.signal(number, request)
        for number in (signal.SIGTERM, signal.SIGINT)
        # None is a handler of another language, which Python could not set again.
        if signal.getsignal(number) is not None
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fetch(window: list[dict[str, jax.Array]]) -> dict[str, np.ndarray]:
    """Returns each metric of a window's updates, [steps]."""
    fetched = jax.device_get(window)
    return {name: np.concatenate([m[name] for m in fetched]) for name in fetched[0]}


def _summarise(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the means over the applied updates, and how many were skipped."""
    applied = columns["applied"] > 0
    means = {
        name: float(np.mean(values[applied].astype(np.float64)))
        for name, values in columns.items()
        if applied.any() and name not in ("applied", "faults")
    }
    return {**means, "skipped": float(np.sum(~applied))}


def _tell_faults(columns: dict[str, np.ndarray], last_step: int) -> None:
    """Says which updates before `last_step` were skipped as faults."""
    (places,) = np.nonzero(columns["faults"])
    if places.size:
        first_step, first = last_step - len(columns["faults"]), places[0]
        known = [name for name, column in columns.items() if np.isfinite(column[first])]
        others = ", ".join(sorted(columns.keys() - known))
        tqdm.write(
            f"note: {places.size} of the updates of steps {first_step} to "
            f"{last_step - 1} skipped, first that of step {first_step + first}: "
            f"not finite were {others or 'gradients alone'}"
        )


def _check_faults(
    faults: int, step: int, num_steps: int, saved: int, feed: Feed
) -> None:
    """Raises UserError where too many updates before `step` were skipped in a row."""
    if faults < min(MOST_FAULTS, num_steps):
        return
    first = step - faults
    pictures = feed.indices(first, 1)[0].tolist()
    again = (
        f"The same command resumes at step {saved}, that of the last checkpoint,"
        if saved
        else "There is no checkpoint yet: the same command begins anew"
    )
    raise UserError(
        f"The last {faults} updates (steps {first} to {step - 1}) were skipped: their "
        f"loss or gradients were not finite. Step {first} saw the training pictures "
        f"{pictures}. {again} and fails again; in another workdir, try a smaller "
        "config.optimizer.learning_rate or config.optimizer.clip_norm, or "
        "config.precision=fp32"
    )


def train(
    state: TrainState,
    update: Callable,
    feed: Feed,
    *,
    phase: Phase,
    num_images: int,
    cadence: Cadence,
    validate: Callable[[TrainState], dict[str, float]],
    writer: Writer,
    checkpoints: Checkpoints,
    ranked: bool = True,
    stop: Sequence[int] = (),
    compiler_options: dict[str, Any] | None = None,
) -> TrainState:
    """Trains from `state.step` to the end of a phase and returns the last state.

    A request to stop does so at the next multiple of `cadence.log`, saved.

    Args:
      state: laid out over `sharding.data_mesh`; donated.
      update: (state, batch) -> (state, metrics), from `build_update`.
      feed: feed of the training split, with this process's places in its batches.
      phase: the phase that the state is in.
      num_images: images in an epoch.
      cadence: steps between logs, evaluations and checkpoints.
      validate: state -> metrics of its EMA on the validation split, `loss` among them.
      writer: writer of the logs, opened at `state.step`.
      checkpoints: the run's checkpoints, to which states are saved.
      ranked: whether the validation loss ranks a checkpoint among the others.
      stop: holds something once a stop is asked for, see `stop_requests`.
      compiler_options: XLA's.

    Raises:
      UserError: too many of the last updates were skipped in a row, see `MOST_FAULTS`,
        or all that there were.
    """
    mesh = sharding.data_mesh()
    step, num_steps = int(state.step), phase.last
    plan = dispatches(step, num_steps, cadence.dispatch)
    everywhere = sharding.replicated(mesh)
    data = sharding.put(feed.data, everywhere)
    shardings = jax.tree.map(lambda a: a.sharding, state)
    dispatch = build_dispatch(
        update, feed.gather, (shardings, everywhere), compiler_options
    )
    window, window_start, saved = [], step, step
    bar = tqdm(
        total=phase.images_at(num_steps),
        initial=phase.images_at(step),
        desc="training",
        unit=" images",
        unit_scale=True,
        disable=None if processes.is_first() else True,
    )
    with bar:
        start = time.perf_counter()
        for (_, count), xs in zip(plan, feed.stream(plan), strict=True):
            xs = sharding.put(xs, sharding.cut_batches(mesh))
            state, metrics = dispatch(state, data, xs)
            window.append(metrics)
            step += count
            last = step == num_steps
            if step % cadence.log and not last:
                continue
            columns = _fetch(window)
            seconds = time.perf_counter() - start
            _tell_faults(columns, step)
            _check_faults(int(columns["faults"][-1]), step, num_steps, saved, feed)
            means = _summarise(columns)
            epoch = phase.images_at(step) / num_images
            trained = (step - window_start) * phase.batch_size
            writer.write_metrics(step, epoch, "train", means)
            writer.write_timing(step, trained / seconds)
            bar.update(trained)
            if "loss" in means:
                bar.set_postfix(loss=f"{means['loss']:.6g}", refresh=False)
            validation_loss = None
            if step % cadence.evaluate == 0 or last:
                validation = validate(state)
                validation_loss = validation["loss"]
                writer.write_metrics(step, epoch, "validation", validation)
                tqdm.write(_summary(step, num_steps, means, validation))
            writer.flush()
            # Once, for it may come at any time, and to other processes at another.
            stopping = processes.any_of(bool(stop))
            if step % cadence.checkpoint == 0 or last or stopping:
                # No checkpoint may be later than the logs that lead to it.
                writer.to_disk()
                checkpoints.save(state, step, validation_loss if ranked else None)
                saved = step
            if stopping:
                break
            window, window_start, start = [], step, time.perf_counter()
    return state


def _summary(step, num_steps, means, validation) -> str:
    told = [
        n
        for n in ("elbo", "mse", "matching", "cross_entropy", "accuracy")
        if n in means
    ]
    figures = "; ".join(f"{n} {means[n]:.6g}, {validation[n]:.6g}" for n in told)
    return f"step {step}/{num_steps} (train, and validation with the EMA): {figures}"
