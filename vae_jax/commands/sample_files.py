"""Samples as files of their own, in a folder that holds nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vae_jax.errors import UserError
from vae_jax.report import grids
from vae_jax.run import Run
from vae_jax.storage import write_json, writing

# Beside the samples: what they are.
RECORD = "samples.json"


def check_folder(run: Run, folder: Path, replace: bool) -> None:
    """Checks that samples would not be mixed with other files.

    Args:
      run: the run that is to be sampled.
      folder: the folder that gets the samples.
      replace: whether former samples of the run may be deleted.

    Raises:
      UserError: the folder is a file, or holds anything but samples of the run that may
        be replaced.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--folder is '{folder}', which is no folder")
    there = [path.name for path in folder.glob("[!.]*")]
    if not there:
        return
    try:
        of = json.loads((folder / RECORD).read_text())["workdir"]
    except (OSError, ValueError, KeyError, TypeError):
        of = None
    others = [n for n in there if n != RECORD and not re.fullmatch(r"\d{5,}\.png", n)]
    if others or of != str(run.workdir.absolute()):
        raise UserError(
            f"--folder is '{folder}', which holds {len(there)} other files "
            f"({', '.join(sorted(others or there)[:3])}); allowed is a new or empty "
            "folder"
        )
    if not replace:
        raise UserError(
            f"--folder is '{folder}', which holds {len(there) - 1} samples of this run "
            "already; allowed is a new or empty folder, or --replace, which deletes "
            "them first"
        )


def write_samples(
    run: Run,
    sampler: str,
    images: Float[np.ndarray, "N H W C"],
    drawn_by: dict[str, Any],
    folder: Path,
) -> None:
    """Writes each sample to a PNG file of its own, in place of former ones.

    Args:
      run: the run that was sampled.
      sampler: one of `samples.SAMPLERS`.
      images: the samples, in [0, 1].
      drawn_by: their record, see `samples.describe`, which goes to a JSON file beside
        them.
      folder: a folder that `check_folder` has passed; made where it is absent.
    """
    of = {"workdir": str(run.workdir.absolute()), "sampler": sampler}
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / RECORD, of | drawn_by)
        for former in folder.glob("[0-9]*.png"):
            former.unlink()
    grids.single_images(images, folder)
