"""Small arrays that a workdir keeps, so that a run is used without its pictures.

codes.npz and directions.npz: what sampling, edits and traversals need of the codes of
the pictures. Each is of the EMA parameters of one checkpoint.
"""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.report.writer import writing
from vae_jax.run import Run


def read(run: Run, name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a file of the workdir.

    None where it is absent, damaged (which is printed) or of other parameters.
    """
    path = run.workdir / name
    if not path.exists():
        return {}
    try:
        # Opened here: what is no zip, numpy would leave open.
        with path.open("rb") as file, np.load(file) as arrays:
            saved = dict(arrays)
        step, names = int(saved.pop("step")), tuple(saved.pop("attribute_names"))
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        print(f"note: {path} is damaged ({error}): what it held is found anew")
        return {}
    return saved if (step, names) == (run.step, run.attribute_names) else {}


def write(run: Run, name: str, arrays: dict[str, Any]) -> None:
    """Writes arrays to a file of the workdir, which is whole or not there."""
    path: Path = run.workdir / name
    unfinished = path.with_suffix(".unfinished.npz")
    stamp = {"attribute_names": np.array(run.attribute_names), "step": run.step}
    with writing(path):
        np.savez(unfinished, **arrays, **stamp)
        unfinished.rename(path)
