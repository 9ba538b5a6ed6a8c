"""Writes the model of a run to a folder that stands alone.

  python -m vae_jax.export --workdir=runs/vae --to=DIR [--format=onnx]

The folder has model.safetensors (the EMA of the parameters), config.json, a model card
(README.md) with a picture of samples, and codes.safetensors: directions of attributes,
the density of codes and the order of their dimensions. It is laid out as model hubs
expect. `vae_jax.load(DIR)` opens it. With --format=onnx encoder.onnx and decoder.onnx,
which need onnxruntime alone, are there as well; with --format=stablehlo
encoder.stablehlo and decoder.stablehlo, which need JAX alone.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vae_jax import model_card
from vae_jax import run as run_lib
from vae_jax.commands import abilities, codes, directions, kept, samples
from vae_jax.errors import UserError, naming_files
from vae_jax.experiment import abstract_model
from vae_jax.exploration import sampling
from vae_jax.exported import (
    CODES,
    CONFIG,
    FORMAT,
    OF_TRAINING,
    WEIGHTS,
    Exported,
    described,
    safetensors,
)
from vae_jax.local_paths import local_path
from vae_jax.programs import KINDS, programs
from vae_jax.report import grids
from vae_jax.report.writer import write_json, write_whole, writing
from vae_jax.run import Run
from vae_jax.trees import by_name

ESTIMATOR = directions.ESTIMATORS[0]
NUM_SAMPLES = 24


def export(run: Run, folder: Path, *, kind: str | None = None) -> list[Path]:
    """Writes a run's model to a folder, which is whole or as it was.

    Args:
      run: of any model.
      folder: new or empty.
      kind: of the programs that are written as well, of `programs.KINDS`; None for
        none.

    Returns:
      The files.

    Raises:
      UserError: the folder holds something, or cannot be written, or a setting of the
        model is beyond what `load` or a program takes.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--to is '{folder}'; allowed is a new or empty folder")
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
    # Within the folder, which may be a disk of its own.
    is_new, unfinished = not folder.exists(), folder / ".unfinished"
    try:
        with writing(folder):
            unfinished.mkdir(parents=True)
            write_json(unfinished / CONFIG, content)
            for name, each in arrays.items():
                # A scalar stays one, which ascontiguousarray would not let it.
                whole = {n: np.asarray(array, order="C") for n, array in each.items()}
                (unfinished / name).write_bytes(save(whole, {"format": "np"}))
            for name, program in written.items():
                (unfinished / name).write_bytes(program)
            if images is not None:
                grids.image_grid(grids.wide(images), unfinished / model_card.PICTURE)
            write_whole(unfinished / model_card.NAME, card)
            names = sorted(path.name for path in unfinished.iterdir())
            for name in names:
                (unfinished / name).rename(folder / name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        if is_new and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return [folder / name for name in names]


def _settings(run: Run) -> dict[str, Any]:
    """Returns what config.json says, but for the sampler; there is no path in it."""
    config = run.config.to_dict()
    config["dataset"]["data_dir"] = config["objective"]["guide"] = None
    parts = ("model", "dataset", "precision", *OF_TRAINING)
    return {
        "format": FORMAT,
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


def _best_sampler(run: Run) -> tuple[str | None, Any]:
    """Returns the best sampler that there is, and its density where that is fitted.

    Where it cannot be fitted, because the images are not there, it is the next one.
    """
    for sampler in samples.best_samplers(run) if abilities.can_decode(run) else []:
        if sampler == "prior":
            return sampler, None
        try:
            return sampler, codes.fitted_density(run, sampler)
        except UserError as error:
            print(f"note: samples are not of the fitted Gaussian: {error}")
    return None, None


def _known_of_codes(run: Run, density: Any) -> dict[str, np.ndarray]:
    """Returns what is known of a run's codes: directions, a density, dimensions."""
    known = {}
    if density is not None:
        for part in sampling.DENSITY_PARTS:
            known[part] = getattr(density, f"{part}_").astype(np.float32)
    found = kept.read(run, directions.FILE) if abilities.can_decode(run) else {}
    if ESTIMATOR in found:
        known["directions"] = found[ESTIMATOR].astype(np.float32)
    if abilities.can_decode(run):
        try:
            figures = codes.dimensions(run)
        except UserError as error:
            print(f"note: nothing is said of single dimensions: {error}")
            return known
        known["order"] = codes.leading_first(figures).astype(np.int32)
        known["std"] = codes.spread(run, figures)[1].astype(np.float32)
    return known


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line, `argv` without the program's name.

    Returns:
      The exit code: 0, or 2 if the user has to change something.
    """
    parser = argparse.ArgumentParser(
        prog="python -m vae_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", required=True, help="of the run")
    parser.add_argument("--to", required=True, help="a new or empty folder")
    parser.add_argument(
        "--format",
        choices=("safetensors", *KINDS),
        default="safetensors",
        help="onnx, stablehlo: encoder and decoder as programs as well",
    )
    args = parser.parse_args(argv)
    try:
        with naming_files():
            run = run_lib.load(local_path(args.workdir, "--workdir"))
            folder = local_path(args.to, "--to")
            kind = args.format if args.format in KINDS else None
            for path in export(run, folder, kind=kind):
                print(path)
    except UserError as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
