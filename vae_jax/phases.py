"""From settings to a trained state: the phases of a run, one after the other."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from vae_jax import experiment, processes, record, resolve, sharding
from vae_jax.config import Config
from vae_jax.data import batches, cache
from vae_jax.data.reduced import reduced
from vae_jax.evaluation import evaluate
from vae_jax.experiment import Experiment
from vae_jax.models.contract import Variables
from vae_jax.report.writer import OnLine, Writer
from vae_jax.training import loop
from vae_jax.training.checkpoint import Checkpoints
from vae_jax.training.step import TrainState


def train(
    config: Config,
    workdir: Path,
    recipe: dict[str, Any],
    dataset: cache.Dataset,
    checkpoints: Checkpoints,
    given: Callable[[Experiment], dict[str, Any]],
    on_line: OnLine | None = None,
) -> tuple[Experiment, TrainState, bool]:
    """Trains through the phases that are left, one where the images do not grow.

    Args:
      config: resolved.
      workdir: workdir of the run.
      recipe: recipe of its pictures, as run.json is to have it.
      dataset: the pictures.
      checkpoints: checkpoints of the run, writable.
      given: returns the arrays, by name, that the first phase starts from other than
        at random.
      on_line: see `Writer`.

    Returns:
      The last phase that was begun, its state, and whether a process was asked to stop.
    """
    num_images, kind = recipe["pictures"]["train"], config.train.sharding
    phases = experiment.phases_of(config)
    of_step = functools.cache(
        functools.partial(experiment.assemble_at, config, num_images)
    )
    state = checkpoints.restore(
        "latest",
        lambda step: of_step(step).state_shapes(kind),
        experiment.moved_since_format_1(config),
    )
    if state is None:
        processes.on_first(lambda: record.forget(workdir))
        assembled = of_step(0)
        state = assembled.initial_state(given(assembled), _shardings(assembled, kind))
    else:
        assembled = of_step(int(state.step))
        print(f"going on from step {state.step} of {workdir}")
    params = of_step(config.train.num_steps).shapes.params
    processes.on_first(lambda: record.write(workdir, config, recipe, params))
    written = workdir / "run.json"
    processes.check_agreement(
        {str(written): written.read_text() if written.exists() else ""}
    )
    was_stopped = False
    with loop.stop_requests() as stop:
        for phase in phases[phases.index(assembled.phase) :]:
            if phase != assembled.phase:
                assembled = of_step(phase.last)
                print(f"from step {state.step} on images have {phase.size} pixels")
                state = assembled.grown_state(state, _shardings(assembled, kind))
            if int(state.step) < phase.last or phase == phases[-1]:
                small = reduced(dataset, phase.size)
                state = _train_phase(
                    assembled, state, small, workdir, checkpoints, stop, on_line
                )
            was_stopped = processes.any_of(bool(stop))
            if was_stopped:
                break
    return assembled, state, was_stopped


def _shardings(assembled: Experiment, kind: str) -> Any:
    return jax.tree.map(lambda a: a.sharding, assembled.state_shapes(kind))


def _train_phase(
    assembled: Experiment,
    state: TrainState,
    dataset: cache.Dataset,
    workdir: Path,
    checkpoints: Checkpoints,
    stop: Sequence[int],
    on_line: OnLine | None,
) -> TrainState:
    """Trains to the end of a phase, or to where a request to stop finds it."""
    config, phase = assembled.config, assembled.phase
    mesh = sharding.data_mesh()
    split = dataset.splits["train"]
    feed = batches.resolve_feed(config.dataset.feed, split)
    if processes.any_of(feed == "stream"):
        feed = "stream"
    columns = resolve.label_columns(config, dataset)
    evaluate_split = assembled.evaluator(label_columns=columns)
    with Writer(
        workdir,
        int(state.step),
        tensorboard=config.log.tensorboard,
        muted=not processes.is_first(),
        size=phase.size if config.train.stages else None,
        on_line=on_line,
    ) as writer:
        return loop.train(
            state,
            assembled.update(columns),
            batches.build_feed(
                feed,
                split,
                seed=config.seed,
                batch_size=phase.batch_size,
                places=sharding.places_here(mesh, phase.batch_size),
                # Where its order would stand at step 0, had all batches its size.
                shift=phase.images_at(0),
            ),
            phase=phase,
            num_images=len(split.images),
            cadence=loop.Cadence(
                dispatch=config.train.steps_per_dispatch,
                log=config.log.every_steps,
                evaluate=config.eval.every_steps,
                checkpoint=config.checkpoint.every_steps,
            ),
            validate=lambda state: evaluate.means(
                assembled.objective,
                evaluate_split(
                    Variables(state.ema_params, state.state),
                    dataset.splits["validation"],
                    "validating",
                ),
            ),
            writer=writer,
            checkpoints=checkpoints,
            # Losses of images of another size do not compare.
            ranked=phase == experiment.phases_of(config)[-1],
            stop=stop,
            compiler_options=assembled.compiler_options,
        )
