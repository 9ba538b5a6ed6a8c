"""Faces that a command goes between or mixes: test images, one's own, or samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from vae_jax.commands import abilities
from vae_jax.commands.flags import LARGEST_SEED, define_numbers
from vae_jax.commands.pictures import images_at
from vae_jax.errors import UserError
from vae_jax.exploration import sampling
from vae_jax.keys import Stream, key
from vae_jax.run import Run

SEEDS = define_numbers(
    "seeds", "The seeds of samples from the prior, with commas between.", int
)
# What faces are, by the flag that names them.
FACES = {
    "indices": "test images",
    "seeds": "samples of the prior",
    "pictures": "pictures that were given",
}


@dataclass(frozen=True)
class WayPoints:
    """Faces, and their codes.

    Attributes:
      kind: "indices", "seeds" or "pictures", the flag that names them.
      names: names of the faces: their indices, seeds or files.
      codes: the modes of their posteriors, or what seeds draw from the prior.
      labels: labels that the model is given of test images, or None.
      images: the images that were encoded; None where there are samples.
    """

    kind: str
    names: list[Any]
    codes: Float[np.ndarray, "K D"]
    labels: Float[np.ndarray, "K A"] | None
    images: UInt8[np.ndarray, "K H W C"] | None


def _prior_codes(run: Run, seeds: Sequence[int]) -> Float[np.ndarray, "K D"]:
    """Returns the code that each seed draws from the prior first."""
    abilities.check_prior(
        run,
        f"--seeds is {','.join(map(str, seeds))}",
        "allowed are --indices of test pictures and --pictures of your own",
    )
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise UserError(
                f"--seeds has {seed}; allowed are whole numbers from 0 to "
                f"{LARGEST_SEED}"
            )
    model = run.model()
    draws = [
        sampling.draw_codes(model, key(seed, Stream.SAMPLING), 1) for seed in seeds
    ]
    return np.concatenate(draws)


def way_points(
    run: Run,
    mode: str,
    *,
    usual: int,
    fewest: int = 2,
    indices: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    pictures: tuple[Sequence[str], UInt8[np.ndarray, "N H W C"]] | None = None,
) -> WayPoints:
    """Returns the faces that were asked for, with their codes.

    Args:
      run: a run of an autoencoder of any kind.
      mode: the mode that they are for, named in errors.
      usual: number of test images, the first ones, where nothing is asked for.
      fewest: the least number of faces that makes sense.
      indices: indices of test images.
      seeds: seeds of samples of the prior, instead.
      pictures: the user's, instead: files, and what is in them as the model sees
        images.

    Raises:
      UserError: there are too few, there is no such test image, or no prior.
    """
    if indices is None:
        indices = range(min(usual, run.recipe["pictures"]["test"]))
    kind, names = "indices", list(indices)
    if seeds is not None:
        kind, names = "seeds", list(seeds)
    elif pictures is not None:
        kind, names = "pictures", list(pictures[0])
    if len(names) < fewest:
        raise UserError(
            f"--{kind} is {','.join(map(str, names))}; at least {fewest} are needed"
        )
    if seeds is not None:
        return WayPoints(kind, names, _prior_codes(run, seeds), None, None)
    images, labels = (
        images_at(run, indices, f"--mode={mode} of test pictures")
        if pictures is None
        else (pictures[1], None)
    )
    codes = sampling.encode_images(run.model(), images, labels)
    return WayPoints(kind, names, codes, labels, images)
