"""Checkpoints: the whole TrainState, the latest and the best, by Orbax."""

from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from vae_jax.errors import UserError
from vae_jax.training.step import TrainState

_policies = ocp.training.preservation_policies
_LATEST_AND_BEST = _policies.AnyPreservationPolicy(
    [
        _policies.LatestN(1),
        _policies.BestN(
            get_metric_fn=lambda metrics: metrics["loss"],
            reverse=True,
            n=1,
            keep_checkpoints_without_metrics=False,
        ),
    ]
)


def _shapes(tree: Any) -> dict[str, tuple]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def differences(expected: Any, found: Any) -> list[str]:
    """Returns the leaves in which two trees of arrays differ, as lines for a user."""
    want, have = _shapes(expected), _shapes(found)
    return [
        f"{name}: {have.get(name, 'absent')} there, {want.get(name, 'absent')} expected"
        for name in sorted(want.keys() | have.keys())
        if want.get(name) != have.get(name)
    ]


class Checkpoints:
    """The checkpoints of one run, in `folder`; used as a context manager.

    Saving returns once the state has been copied; writing goes on in the background
    and is finished on leaving the context.

    Args:
      folder: made where it is absent.
      writable: whether to save; what a killed process left half-written is removed,
        which a reader must not do to a run that is still training.
    """

    def __init__(self, folder: Path, *, writable: bool = False):
        self._folder = folder
        # Orbax's own annotations exclude what its documentation passes.
        make: Any = ocp.training.Checkpointer
        self._checkpointer = make(
            folder.absolute(),
            preservation_policy=_LATEST_AND_BEST,
            cleanup_tmp_directories=writable,
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._checkpointer.close()

    def save(self, state: TrainState, step: int, loss: float | None) -> None:
        """Saves the state of a step; `loss`, of the validation split, ranks it."""
        metrics = None if loss is None else {"loss": loss}
        self._checkpointer.save_async(step, state, metrics=metrics, force=True)

    def step_of(self, which: str) -> int | None:
        """Returns the step of the "latest" or "best" checkpoint, None without any."""
        if which == "latest":
            latest = self._checkpointer.latest
            return None if latest is None else latest.step
        ranked = [c for c in self._checkpointer.checkpoints if c.metrics]
        if not ranked:
            return self.step_of("latest")
        return min(ranked, key=lambda c: c.metrics["loss"]).step

    def restore(self, step: int, like: TrainState) -> TrainState:
        """Returns the state of a step.

        Args:
          step: of a checkpoint that exists.
          like: a state, or its shapes with shardings, that the checkpoint must match.

        Raises:
          UserError: the checkpoint is of another architecture.
        """
        found = self._checkpointer.metadata(step).metadata
        different = differences(like, found)
        if different:
            raise UserError(
                f"the checkpoint {self._folder / str(step)} does not fit the model:\n  "
                + "\n  ".join(different)
            )
        return self._checkpointer.load(step, like)
