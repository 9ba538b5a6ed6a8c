"""Which pictures a command is about: the user's own, or images of the test split."""

from collections.abc import Sequence

import numpy as np
from absl import flags
from jaxtyping import Float, UInt8

from vae_jax.commands.flags import PICTURES
from vae_jax.data.pictures import read_pictures
from vae_jax.errors import UserError
from vae_jax.local_paths import split_paths
from vae_jax.run import Run


def check_one_of(*holders: flags.FlagHolder) -> None:
    """Raises UserError where more than one of some flags are given."""
    given = [f"--{holder.name}" for holder in holders if holder.present]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} are given; allowed is one of them")


def own_pictures(run: Run) -> tuple[list[str], UInt8[np.ndarray, "N H W C"]] | None:
    """Returns the files of --pictures and what is in them, as the model sees images.

    None where the flag is not given.

    Raises:
      UserError: one of them is no picture.
    """
    if PICTURES.value is None:
        return None
    files = [str(path) for path in split_paths(PICTURES.value, "--pictures")]
    return files, read_pictures(files, run.recipe)


def images_at(
    run: Run, indices: Sequence[int], purpose: str
) -> tuple[UInt8[np.ndarray, "N H W C"], Float[np.ndarray, "N A"] | None]:
    """Returns images of the test split and the labels that the model is given of them.

    Args:
      run: the run whose data set it is.
      indices: N of them.
      purpose: see `Run.dataset_for`.

    Raises:
      UserError: there is no such image, or the data set is not there.
    """
    images = run.dataset_for(purpose).splits["test"].images
    for index in indices:
        if not 0 <= index < len(images):
            raise UserError(
                f"--indices has {index}; the test split has pictures 0 to "
                f"{len(images) - 1}"
            )
    chosen = list(indices)
    return images[chosen], run.labels("test", chosen)
