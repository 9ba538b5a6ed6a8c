"""Checkpoints of the first format, whose parameters had other names."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
from flax import traverse_util

from vae_jax.training.step import TrainState

# Where parts of the parameters were, and where they are: keys with slashes between.
Moves: TypeAlias = Sequence[tuple[str, str]]


def wrote(found: Any) -> bool:
    """Says whether a checkpoint, by its metadata, is of this format."""
    return "extra" in found


def as_written(state: TrainState, moved: Moves) -> dict[str, Any]:
    """Returns a state as the first format had it, see `Moves`."""
    renamed = _rename(vars(state), [(now, before) for before, now in moved])
    renamed["extra"] = renamed.pop("state")
    return renamed


def as_today(loaded: dict[str, Any], moved: Moves) -> TrainState:
    """Undoes `as_written`."""
    renamed = _rename(loaded, moved)
    renamed["state"] = renamed.pop("extra")
    return TrainState(**renamed)


def _rename(state: dict[str, Any], moves: Moves) -> dict[str, Any]:
    """Moves parts of the parameters, of their averages and of their moments."""

    def is_of_params(part: Any) -> bool:
        return isinstance(part, dict) and part.keys() == state["params"].keys()

    def move(part: Any) -> Any:
        if not is_of_params(part):
            return part
        moved = {}
        for path, leaf in traverse_util.flatten_dict(part).items():
            name = "/".join(map(str, path))
            for old, new in moves:
                if name.startswith(f"{old}/"):
                    name = new + name.removeprefix(old)
                    break
            keys = (int(key) if key.isdecimal() else key for key in name.split("/"))
            moved[tuple(keys)] = leaf
        return traverse_util.unflatten_dict(moved)

    return jax.tree.map(move, state, is_leaf=is_of_params)
