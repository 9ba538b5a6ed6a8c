"""Whether each network of a training in stages is contained in the next."""

import itertools
from typing import NoReturn

from vae_jax.config import Config, flatten, refusals
from vae_jax.errors import UserError
from vae_jax.experiment import at_size, phases_of, shapes_at
from vae_jax.trees import by_name


def check(config: Config) -> None:
    """Raises UserError where the networks of a training's phases do not grow.

    Each must be contained in the next: all its arrays, with their shapes.
    """
    *earlier, last = phases_of(config)
    if not earlier:
        return

    def refuse(reason: str) -> NoReturn:
        raise UserError(f"config.train.stages is {config.train.stages!r}; {reason}")

    for name in ("perceptual_weight", "adversarial_weight"):
        if config.objective[name]:
            refuse(
                f"objective.{name} is {config.objective[name]}, and what sharpens does "
                "not grow: sharpen the run that has grown, by init_from"
            )
    if config.init_from is not None:
        refuse(
            f"init_from is {config.init_from!r}, and a run that starts from another "
            "begins at its last size: allowed is one of them"
        )
    if earlier[-1].last >= last.last:
        refuse(
            f"its updates are {earlier[-1].last} in all, and the run has {last.last}: "
            "allowed are fewer"
        )
    for phase in earlier:
        if phase.size >= last.size or last.size % phase.size:
            refuse(
                f"allowed are sizes below dataset.size that divide it, {last.size}, "
                f"and {phase.size} is none"
            )
        for name, reason in refusals(flatten(at_size(config, phase.size))):
            refuse(f"at {phase.size} pixels {name} is refused: {reason}")
    shapes = {
        phase.size: {
            name: array.shape
            for name, array in by_name(shapes_at(config, phase)).items()
        }
        for phase in (*earlier, last)
    }
    for (size, small), (larger, large) in itertools.pairwise(shapes.items()):
        for name, shape in small.items():
            if large.get(name) != shape:
                there = list(large[name]) if name in large else "absent"
                refuse(
                    f"the network at {size} pixels must be contained in the one at "
                    f"{larger}, but {name} is {list(shape)} in the one and {there} in "
                    "the other; allowed are convolutional networks with "
                    "model.skips=True, widths from the coarsest stage, and no other "
                    "part shaped like the image"
                )
