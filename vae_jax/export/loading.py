"""Models that have left their run: a folder of arrays and settings, and nothing to run.

  import vae_jax
  exported = vae_jax.load("DIR")  # what python -m vae_jax.export has written
  exported.sample(16)  # [16,H,W,C] in [0, 1]

config.json has the settings of the model and its best sampler, model.safetensors the
EMA of its parameters and its state, and codes.safetensors what is known of its codes. A
file that is damaged, or was made to harm, is a UserError that names it: settings are
held to what training allows and to a size, files to the bytes that the model has, and
arrays to its shapes and types.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vae_jax import config as config_lib
from vae_jax.config import SETTINGS, Config
from vae_jax.errors import UserError
from vae_jax.experiment import abstract_model
from vae_jax.exploration import densities, sampling, stacks
from vae_jax.exploration.densities import Density
from vae_jax.export import files
from vae_jax.export.files import CODES, CONFIG, LARGEST_HEADER, WEIGHTS
from vae_jax.keys import Stream, key
from vae_jax.local_paths import local_path
from vae_jax.models import build
from vae_jax.models.contract import Variables, code_size
from vae_jax.models.networks import ladder
from vae_jax.record import lacks
from vae_jax.trees import by_name

FORMAT = 1
# A model is put together layer by layer before its arrays are read: bounds of the
# settings that count layers, without which it could take days, and of all others.
MOST = {"depth": 32, "prior_depth": 100, "layers": 100}
LARGEST_NUMBER = 65_536
# Settings that a model is not built from, but that its own have to go with.
OF_TRAINING = ("objective", "eval")


@dataclass(frozen=True)
class Exported:
    """A model without its run.

    Attributes:
      model: a model as in `models.contract`, ready to call.
      config: its settings, with the size and the channels of its images; all others
        have their defaults.
      dataset: the facts that run.json has of the images it was trained on.
      directions: directions of attributes, [D] each: added once to the numbers of a
        code, a face gains one. Codes that are no vectors become numbers, and codes
        again, by `sampling.encode_images` and `sampling.decode_codes`.
      sampler: the sampler that was the best when it was exported: "prior", or
        "gaussian", which is fitted to codes of training images; None where there is
        none.
      density: the Gaussian fitted to codes; None where it is not the sampler.
      order: order of the dimensions of a code, the leading one first; None if not
        known.
      std: the standard deviation of each; None if not known.
    """

    model: Any
    config: Config
    dataset: dict[str, Any]
    directions: dict[str, Float[np.ndarray, " D"]]
    sampler: str | None
    density: Density | None
    order: Int[np.ndarray, " D"] | None = None
    std: Float[np.ndarray, " D"] | None = None

    def sample(self, num_images: int, seed: int = 0) -> Float[np.ndarray, "N H W C"]:
        """Returns new images in [0, 1], by `sampler`.

        That is a prior that was learned in a second run (over discrete codes, or a
        flow), or else a Gaussian fitted to codes; and the prior as it was given where
        there is no such Gaussian.

        Raises:
          UserError: there is no sampler.
        """
        if self.sampler is None:
            raise UserError("the exported model has nothing to draw samples from")
        if not isinstance(num_images, int) or num_images < 1:
            raise UserError(
                f"num_images is {num_images!r}; allowed is a whole number of at least 1"
            )
        if not SETTINGS["seed"].accepts(seed):
            raise UserError(f"seed is {seed!r}; allowed is {SETTINGS['seed'].allowed}")
        if self.density is not None:
            return sampling.sample_fitted(self.model, self.density, num_images, seed)
        samples_key = key(seed, Stream.SAMPLING)
        return sampling.sample_prior(self.model, samples_key, num_images)


def described(recorded: dict[str, Any]) -> Config:
    """Returns the settings of a model, those of training by default.

    Args:
      recorded: a config, of which what says how the model is built is taken.

    Raises:
      UserError: a setting is not known or not allowed, beside others or at all.
    """
    config = config_lib.default_config()
    for part in ("model", *OF_TRAINING):
        config[part].update(recorded[part])
    config.dataset.size = recorded["dataset"]["size"]
    config.dataset.channels = recorded["dataset"]["channels"]
    config.precision = recorded["precision"]
    for name, value in config_lib.flatten(config).items():
        if not SETTINGS[name].accepts(value):
            allowed = SETTINGS[name].allowed
            raise UserError(f"config.{name} is {value!r}; allowed is {allowed}")
    for name, value in config.model.items():
        most = MOST.get(name, LARGEST_NUMBER)
        if _extent(name, value) > most:
            raise UserError(
                f"config.model.{name} is {value!r}; allowed in an exported model is "
                f"{most:,} at most"
            )
    values = config_lib.flatten(config)
    for name, reason in config_lib.refusals(values):
        if name.startswith(("model.", "dataset.")):
            raise UserError(f"config.{name} is {values[name]!r}; {reason}")
    for part in OF_TRAINING:
        config[part] = config_lib.default_config()[part]
    return config


def _extent(name: str, value: Any) -> int:
    """Returns how large a setting of a model makes it."""
    if name == "layers":
        return sum(ladder.parse(value).values())
    if name == "widths":
        return max(ladder.parse(value).values())
    return value if isinstance(value, int) else 0


def load(folder: str | os.PathLike[str]) -> Exported:
    """Opens an exported model; nothing in the folder is executed.

    Args:
      folder: a folder that `python -m vae_jax.export` has written.

    Raises:
      UserError: it holds no such model, or one of its files is damaged.
    """
    folder = local_path(folder, "folder")
    path = folder / CONFIG
    if not path.exists() and (folder / "run.json").exists():
        raise UserError(
            f"{folder} is the workdir of a run; allowed is a folder that "
            f"python -m vae_jax.export --workdir={folder} --to=DIR has written"
        )
    try:
        if files.num_bytes(path) > LARGEST_HEADER:
            raise UserError(f"it has more than {LARGEST_HEADER:,} bytes")
        content = json.loads(path.read_text())
        if not isinstance(content, dict):
            raise UserError("it is no JSON object")
        _check_parts(content)
        if content["format"] != FORMAT:
            raise UserError(f"its format is {content['format']!r}; known is {FORMAT}")
        config, dataset = described(content["config"]), dict(content["dataset"])
        _check_recipe(dataset, config)
        graphdef, shapes = abstract_model(config)
        names = [str(name) for name in content["attribute_names"]]
        # Earlier programs did not write them down.
        sums = dict(content.get("sha256", {}))
        sampler = content["sampler"]
        if sampler not in (None, "prior", "gaussian"):
            raise UserError(f"its sampler is {sampler!r}; known are prior, gaussian")
    # Settings that were made to harm may fail anywhere in what builds a model.
    except Exception as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path} describes no model: {told[0]}") from error
    expected = by_name(shapes)
    largest = sum(a.size * a.dtype.itemsize for a in expected.values())
    found = files.read(folder / WEIGHTS, largest, sums)
    files.check(folder / WEIGHTS, found, expected)
    leaves = [jnp.asarray(found[name]) for name in expected]
    variables: Variables = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    model = build.merge(graphdef, variables)
    if sampler == "prior" and getattr(model, "prior", None) is None:
        raise UserError(f"{path} has the sampler prior, and its model has no prior")
    directions, density, order, std = {}, None, None, None
    if (folder / CODES).exists() or sampler == "gaussian":
        code, number = _code_size(path, model), len(names)
        largest = np.float32().itemsize * (number * code + 2 * code)
        largest += np.float64().itemsize * (1 + code + code**2)
        known = files.read(folder / CODES, largest, sums)
        if "directions" in known:
            directions = _directions(folder / CODES, known, names, code)
        if sampler == "gaussian":
            density = _density(folder / CODES, known, model)
        # Which it is not where the pictures were not there.
        if "order" in known:
            order, std = _dimensions(folder / CODES, known, code)
    return Exported(model, config, dataset, directions, sampler, density, order, std)


def _check_parts(content: dict[str, Any]) -> None:
    """Raises UserError where config.json lacks what says how a model is built."""
    wanted = {"format", "config", "dataset", "attribute_names", "sampler"}
    lacking = wanted - content.keys()
    if not lacking:
        lacking = {"model", "dataset", "precision", *OF_TRAINING} - {*content["config"]}
    if lacking:
        raise UserError(f"it lacks {', '.join(sorted(lacking))}")


def _check_recipe(recipe: dict[str, Any], config: Config) -> None:
    """Raises UserError where pictures cannot be read as the model saw them."""
    lacking = lacks(recipe)
    if lacking:
        raise UserError(f"its dataset lacks {', '.join(lacking)}")
    for name in ("size", "channels"):
        ours = config.dataset[name]
        if recipe[name] != ours:
            raise UserError(
                f"its dataset has {name} {recipe[name]!r}; allowed is {ours}"
            )
    for name in ("crop", "resampler"):
        setting = SETTINGS[f"dataset.{name}"]
        if recipe[name] == "auto" or not setting.accepts(recipe[name]):
            allowed = setting.allowed
            raise UserError(
                f"its dataset has {name} {recipe[name]!r}; allowed is {allowed}"
            )
    size, full = recipe["size"], recipe.get("averaged_from", recipe["size"])
    setting = SETTINGS["dataset.size"]
    if not setting.accepts(full) or full % size:
        raise UserError(
            f"its dataset has averaged_from {full!r}; allowed is a multiple of {size} "
            f"that is {setting.allowed}"
        )


def _code_size(path: Path, model: Any) -> int:
    """Returns how many numbers are in a model's code."""
    if not hasattr(model, "decode"):
        raise UserError(f"{path} describes a classifier, which has no {CODES}")
    return code_size(model.code_shape)


def _directions(
    path: Path, known: dict[str, np.ndarray], names: list[str], size: int
) -> dict[str, np.ndarray]:
    """Returns the directions of those attributes that have one."""
    files.check(path, known, {"directions": _floats(len(names), size)})
    return {
        name: each
        for name, each in zip(names, known["directions"], strict=True)
        if np.isfinite(each).all()
    }


def _density(path: Path, known: dict[str, np.ndarray], model: Any) -> Density:
    """Returns the Gaussian that was fitted to codes, see `stacks.density_sizes`."""
    sizes = stacks.density_sizes(model)
    there = known["means"].size if "means" in known else 0
    size = there if there in sizes else sizes[-1]
    shapes = (1,), (1, size), (1, size, size)
    expected = {
        name: jax.ShapeDtypeStruct(shape, np.float64)
        for name, shape in zip(densities.PARTS, shapes, strict=True)
    }
    # Earlier programs wrote them as float32, of which a covariance may be none.
    known = {
        name: each.astype(np.float64) if each.dtype == np.float32 else each
        for name, each in known.items()
    }
    files.check(path, known, expected)
    if not all(np.isfinite(known[name]).all() for name in expected):
        raise UserError(f"{path} has a Gaussian of numbers that are not finite")
    # The weight of a single component is known.
    found = Density(np.ones(1), known["means"], known["covariances"])
    try:
        _ = found.factors
    except np.linalg.LinAlgError as error:
        raise UserError(f"{path} has a Gaussian that is none: {error}") from error
    return found


def _dimensions(
    path: Path, known: dict[str, np.ndarray], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the order of the dimensions and the standard deviation of each."""
    whole = jax.ShapeDtypeStruct((size,), np.int32)
    files.check(path, known, {"order": whole, "std": _floats(size)})
    order, std = known["order"], known["std"]
    if not np.array_equal(np.sort(order), np.arange(size)):
        raise UserError(f"{path} has an order that is none of {size} dimensions")
    if not np.isfinite(std).all():
        raise UserError(f"{path} has standard deviations that are not finite")
    return order, std


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)
