"""From settings to a trained state: the stages of a run, one after the other."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from vae_jax import experiment, processes, record, resolve, sharding
from vae_jax.config import Config
from vae_jax.data import batches, cache
from vae_jax.data.reduced import reduced
from vae_jax.evaluation import evaluate
from vae_jax.experiment import Experiment, assemble, moved_since_format_1
from vae_jax.models.contract import Variables
from vae_jax.report.writer import Writer
from vae_jax.training import growth, loop
from vae_jax.training.checkpoint import Checkpoints
from vae_jax.training.step import TrainState


def train(
    config: Config,
    workdir: Path,
    recipe: dict[str, Any],
    dataset: cache.Dataset,
    checkpoints: Checkpoints,
    given: Callable[[Experiment], dict[str, Any]],
) -> tuple[Experiment, TrainState, cache.Dataset]:
    """Trains through the stages that are left, one where the images do not grow.

    Args:
      config: resolved.
      workdir: of the run.
      recipe: of its pictures, as run.json is to have it.
      dataset: the pictures.
      checkpoints: of the run, writable.
      given: returns the arrays, by name, that the first stage starts from other than
        at random.

    Returns:
      The last stage that was begun, its state, and the pictures as it sees them.
    """
    stages, kind = experiment.stages(config), config.train.sharding

    @functools.cache
    def of_stage(stage: growth.Stage) -> Experiment:
        return assemble(config, recipe["pictures"]["train"], stage)

    def at_step(step: int) -> Experiment:
        return of_stage(growth.stage_at(stages, step))

    state = checkpoints.restore(
        "latest",
        lambda step: at_step(step).state_shapes(kind),
        moved_since_format_1(config),
    )
    if state is None:
        assembled = of_stage(stages[0])
        state = assembled.initial_state(
            given(assembled), _shardings(assembled.state_shapes(kind))
        )
    else:
        assembled = at_step(int(state.step))
        print(f"going on from step {state.step} of {workdir}")
    processes.on_first(
        lambda: record.write(
            workdir, config, recipe, of_stage(stages[-1]).shapes.params
        )
    )
    written = workdir / "run.json"
    processes.check_agreement(
        {str(written): written.read_text() if written.exists() else ""}
    )
    small = reduced(dataset, assembled.stage.size)
    state, stopping = _train_stage(assembled, state, small, workdir, checkpoints)
    for stage in stages[stages.index(assembled.stage) + 1 :]:
        if stopping:
            break
        assembled, small = of_stage(stage), reduced(dataset, stage.size)
        print(f"step {state.step}: from here on images of {stage.size} pixels")
        state = assembled.grown_state(state, _shardings(assembled.state_shapes(kind)))
        state, stopping = _train_stage(assembled, state, small, workdir, checkpoints)
    return assembled, state, small


def _shardings(shapes: TrainState) -> Any:
    return jax.tree.map(lambda a: a.sharding, shapes)


def _train_stage(
    assembled: Experiment,
    state: TrainState,
    dataset: cache.Dataset,
    workdir: Path,
    checkpoints: Checkpoints,
) -> tuple[TrainState, bool]:
    """Trains to the end of a stage; returns the state and whether to stop there."""
    config, stage = assembled.config, assembled.stage
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
        size=stage.size if config.train.stages else None,
    ) as writer:
        return loop.train(
            state,
            assembled.update(columns),
            batches.build_feed(
                feed,
                split,
                seed=config.seed,
                batch_size=config.train.batch_size,
                places=sharding.places_here(
                    sharding.data_mesh(), config.train.batch_size
                ),
            ),
            num_steps=stage.last,
            batch_size=config.train.batch_size,
            steps_per_epoch=len(split.images) / config.train.batch_size,
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
            ranked=stage.last == config.train.num_steps,
            compiler_options=assembled.compiler_options,
        )
