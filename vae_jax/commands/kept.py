"""Small arrays that a workdir keeps, so that a run is used without its pictures.

codes.npz and directions.npz: what sampling, edits and traversals need of the codes of
the pictures. Each is of the EMA parameters of one checkpoint.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.errors import UserError
from vae_jax.run import Run
from vae_jax.storage import write_whole


def read(
    run: Run, name: str, shapes: Mapping[str, tuple[int, ...]], is_finite: bool
) -> dict[str, np.ndarray]:
    """Returns the arrays of a file of the workdir.

    Empty where it is absent, of other parameters, or damaged or of another model, which
    is printed.

    Args:
      run: the run whose workdir it is.
      name: name of the file.
      shapes: shapes of arrays of numbers, by name, where these are there.
      is_finite: whether all of these are finite.
    """
    path = run.workdir / name
    step, names, saved = _open(path)
    if (step, names) != (run.step, run.attribute_names):
        return {}
    for part, shape in shapes.items():
        if part not in saved:
            continue
        array = saved[part]
        fits = array.shape == shape and array.dtype.kind == "f"
        if not fits or (is_finite and not np.isfinite(array).all()):
            print(
                f"note: {path} is not of this model ({part} is no array {list(shape)} "
                f"of {'finite ' if is_finite else ''}numbers): what it held is found "
                "anew"
            )
            return {}
    return saved


def _open(path: Path) -> tuple[int, tuple[str, ...], dict[str, np.ndarray]]:
    """Returns the step and attributes that a file is of, and its arrays."""
    if not path.exists():
        return -1, (), {}
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
        # Of a zip that says that it is encrypted, or compressed in a way not known.
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        print(f"note: {path} is damaged ({error}): what it held is found anew")
        return -1, (), {}
    return step, names, saved


def keep(run: Run, name: str, arrays: dict[str, Any]) -> None:
    """Writes arrays found of a run's pictures, for later, where that may be.

    Nothing is kept of other pictures than the run was trained on, nor of an earlier
    checkpoint in place of a later one's. A workdir that cannot be written is no error.
    """
    if refusal(run, name) is not None:
        return
    try:
        write(run, name, arrays)
    except UserError as error:
        print(f"note: {error}")


def refusal(run: Run, name: str) -> str | None:
    """Returns why nothing is kept of what a run sees now, None where it may be."""
    step, *_ = _open(run.workdir / name)
    if step > run.step:
        return (
            f"{run.workdir / name} is of step {step}, and would be lost to one of step "
            f"{run.step}: move it elsewhere first"
        )
    if run.dataset.recipe["fingerprint"] != run.recipe["fingerprint"]:
        return (
            f"{run.workdir / name} is kept of the pictures alone that the run was "
            "trained on, and config.dataset.data_dir holds others"
        )
    return None


def write(run: Run, name: str, arrays: dict[str, Any]) -> None:
    """Writes arrays to a file of the workdir, which is whole or not there."""
    content = io.BytesIO()
    stamp = {"attribute_names": np.array(run.attribute_names), "step": run.step}
    np.savez(content, **arrays, **stamp)
    write_whole(run.workdir / name, content.getvalue())
