"""A run to a folder that stands alone, which is whole or as it was."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax.commands import abilities, directions, kept_codes, samples
from vae_jax.errors import UserError, few
from vae_jax.experiment import abstract_model
from vae_jax.exploration import densities
from vae_jax.exploration.densities import Density
from vae_jax.export import model_card
from vae_jax.export.files import CODES, CONFIG, WEIGHTS, safetensors
from vae_jax.export.loading import FORMAT, OF_TRAINING, Exported, described
from vae_jax.export.programs import KINDS, PARTS, programs
from vae_jax.report import grids
from vae_jax.run import Run
from vae_jax.storage import UNFINISHED, locked, write_json, write_whole, writing
from vae_jax.trees import by_name

ESTIMATOR = directions.ESTIMATORS[0]
NUM_SAMPLES = 24
LOCK = "lock"
# All files that an export may leave, or an unfinished one of the same name.
FILES = {CONFIG, WEIGHTS, CODES, LOCK, model_card.NAME, model_card.PICTURE} | {
    f"{part}.{kind}" for part in PARTS for kind in KINDS
}


def export(run: Run, folder: Path, *, kind: str | None = None) -> list[Path]:
    """Writes a run's model to a folder, which is whole or as it was.

    Args:
      run: a run of any model.
      folder: new or empty, but for what an export left that was killed: that is
        removed. Only if it was killed in the moment in which whole files are moved to
        their place, the folder is refused, as nobody can tell them from a user's own.
      kind: kind of the programs that are written as well, one of `programs.KINDS`; None
        for none.

    Returns:
      The files.

    Raises:
      UserError: the folder holds something, cannot be written, or another export is
        writing there, or a setting of the model is beyond what `load` or a program
        takes.
    """
    with _claimed(folder) as unfinished:
        save = safetensors().save
        content = _settings(run)
        config = described(content["config"])
        # What helped in training, such as a critic, stays behind.
        needed = by_name(abstract_model(config)[1])
        held = by_name(run.variables["ema"])
        sampler, density = _best_sampler(run)
        content["sampler"] = sampler
        known = _known_of_codes(run, density)
        arrays = {WEIGHTS: {name: held[name] for name in needed}} | (
            {CODES: known} if known else {}
        )
        dataset = content["dataset"]
        found = Exported(run.model(), config, dataset, {}, sampler, density)
        images = None if sampler is None else found.sample(NUM_SAMPLES)
        written = {} if kind is None else _programs(run, kind)
        card = model_card.text(run, folder.resolve().name, sampler, [*written])
        with writing(folder):
            for name, each in arrays.items():
                # A scalar stays one, which ascontiguousarray would not let it.
                whole = {n: np.asarray(array, order="C") for n, array in each.items()}
                data = save(whole, {"format": "np"})
                content["sha256"][name] = hashlib.sha256(data).hexdigest()
                write_whole(unfinished / name, data)
            for name, program in written.items():
                write_whole(unfinished / name, program)
            write_json(unfinished / CONFIG, content)
            if images is not None:
                grids.image_grid(grids.wide(images), unfinished / model_card.PICTURE)
            write_whole(unfinished / model_card.NAME, card)
            return _move(unfinished, folder)


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[Path]:
    """Yields a folder to fill that is nobody else's, and is removed in the end.

    It is within the other, which may be a disk of its own. Its lock goes with the
    process, so that one that is not locked was left by a process that was killed.
    """
    unfinished = folder / UNFINISHED
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    _check_empty(folder)
    is_left = unfinished.exists()
    with contextlib.ExitStack() as stack:
        with writing(folder):
            unfinished.mkdir(parents=True, exist_ok=is_left)
            try:
                lock = locked(unfinished / LOCK, wait=False)
                is_locked = stack.enter_context(lock)
            except BlockingIOError as error:
                raise UserError(
                    f"--to is '{folder}', where another export is at work; allowed is "
                    "a new or empty folder"
                ) from error
        if is_left and not is_locked:
            raise UserError(
                f"--to is '{folder}', where an export is at work or was killed; if "
                f"none is, delete {unfinished}"
            )
        try:
            # Another export may have ended meanwhile.
            _check_empty(folder)
            for path in unfinished.iterdir():
                if path.name != LOCK:
                    path.unlink()
            yield unfinished
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            with contextlib.suppress(OSError):
                for each in made:
                    each.rmdir()


def _check_empty(folder: Path) -> None:
    """Raises UserError where a folder holds more than an export leaves unfinished."""
    allowed = "allowed is a new or empty folder"
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UserError(f"--to is '{folder}'; {allowed}")
    unfinished = folder / UNFINISHED
    others = [path for path in folder.iterdir() if path != unfinished]
    if unfinished.is_dir():
        others += [
            path
            for path in unfinished.iterdir()
            if not (path.name in FILES or _is_of_ours(path.name))
        ]
    if others:
        names = sorted(str(path.relative_to(folder)) for path in others)
        raise UserError(f"--to is '{folder}', which holds {few(names)}; {allowed}")


def _is_of_ours(name: str) -> bool:
    """Says whether a file is one of ours whose writing was cut short."""
    begun, _, number = name.removesuffix(UNFINISHED).rpartition(".")
    return name.endswith(UNFINISHED) and begun in FILES and number.isalnum()


def _move(unfinished: Path, folder: Path) -> list[Path]:
    """Moves whole files to where they belong, all or none; returns their paths."""
    _check_empty(folder)
    names = {path.name for path in unfinished.iterdir()} - {LOCK}
    moved = []
    try:
        # The settings last: without them nobody takes the others for a model.
        for name in sorted(names, key=lambda name: (name == CONFIG, name)):
            moved.append((unfinished / name).rename(folder / name))
    except BaseException:
        for path in moved:
            path.unlink()
        raise
    return sorted(moved)


def _settings(run: Run) -> dict[str, Any]:
    """Returns what config.json says, but for the sampler; there is no path in it."""
    config = run.config.to_dict()
    config["dataset"]["data_dir"] = config["objective"]["guide"] = None
    parts = ("model", "dataset", "precision", *OF_TRAINING)
    return {
        "format": FORMAT,
        "sha256": {},
        "library": "vae_jax",
        "step": run.step,
        "config": {part: config[part] for part in parts},
        "dataset": {k: v for k, v in run.recipe.items() if k != "attribute_names"},
        "attribute_names": [*run.attribute_names],
    }


def _programs(run: Run, kind: str) -> dict[str, bytes]:
    """Returns what runs without this project, by the name of its file."""
    data, model = run.config.dataset, run.model()
    image_shape = (data.size, data.size, data.channels)
    found = programs(model, image_shape, getattr(model, "num_told", 0), kind=kind)
    return {f"{name}.{kind}": program for name, program in found.items()}


def _best_sampler(run: Run) -> tuple[str | None, Density | None]:
    """Returns the best sampler that there is, and its density where that is fitted.

    Where it cannot be fitted, because the images are not there, it is the next one.
    """
    best = None
    if abilities.can_decode(run):
        try:
            best, *_ = samples.samplers_at_hand(run)
        except UserError as error:
            print(f"note: there is no sampler: {error}")
    if best is None or best not in kept_codes.FITTED:
        return best, None
    return best, kept_codes.fitted_density(run, best)


def _known_of_codes(run: Run, density: Density | None) -> dict[str, np.ndarray]:
    """Returns what is known of a run's codes: directions, a density, dimensions."""
    known = {}
    if density is not None:
        for part in densities.PARTS:
            known[part] = getattr(density, part).astype(np.float64)
    found = directions.read(run) if abilities.can_decode(run) else {}
    if ESTIMATOR in found:
        known["directions"] = found[ESTIMATOR].astype(np.float32)
    if abilities.can_decode(run):
        try:
            figures = kept_codes.dimensions(run)
        except UserError as error:
            print(f"note: nothing is said of single dimensions: {error}")
            return known
        known["order"] = kept_codes.leading_first(figures).astype(np.int32)
        known["std"] = kept_codes.spread(run, figures)[1].astype(np.float32)
    return known
