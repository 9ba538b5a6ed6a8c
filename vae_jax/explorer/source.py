"""A model that is explored: of a run, or one that has left it; and its pictures."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from vae_jax import record
from vae_jax import run as run_lib
from vae_jax.commands import abilities, directions, kept_codes, recorded, samples
from vae_jax.commands.flags import LARGEST_SEED
from vae_jax.data.pictures import read_pictures
from vae_jax.errors import UserError
from vae_jax.exploration import attributes, interpolation, sampling, stacks
from vae_jax.exploration.attributes import Direction
from vae_jax.exploration.densities import Density
from vae_jax.explorer.looks import Face, Look
from vae_jax.export import files, loading
from vae_jax.keys import Stream, key
from vae_jax.models.contract import code_size
from vae_jax.report import grids
from vae_jax.run import Run

Picture = UInt8[np.ndarray, "H W C"]
# Samples that are kept, which of a learned prior take longer than a picture.
KEPT_CODES = 256


# Compared by identity: it holds arrays.
@dataclass(frozen=True, eq=False)
class Source:
    """A model, and what is known of it.

    Attributes:
      opened: the flags that name it, --workdir=runs/vae say.
      title: name of the model, in words.
      model: the model, which encodes and decodes.
      recipe: recipe of the images it was trained on, see `cache.Dataset`.
      directions: directions of attributes, by estimator.
      samplers: densities that samples are drawn from, the best first: "prior", for
        which there is None, or "gaussian" and the density.
      order: order of the dimensions of a code, the leading one first; none if not
        known.
      std: standard deviation of each dimension.
      test: images of the test split, and the labels that the model is given of them, or
        None.
      missing: things that are missing, and why, a sentence each.
    """

    opened: Sequence[str]
    title: str
    model: Any
    recipe: Mapping[str, Any]
    directions: Mapping[str, Mapping[str, Direction]]
    samplers: Mapping[str, Density | None]
    order: Int[np.ndarray, " leading"]
    std: Float[np.ndarray, " D"]
    test: tuple[UInt8[np.ndarray, "N H W C"], Float[np.ndarray, "N A"] | None] | None
    missing: tuple[str, ...]

    @functools.cached_property
    def resolutions(self) -> tuple[int, ...]:
        """The resolutions of layers that have temperatures of their own; or none."""
        if not stacks.in_layers(self.model):
            return ()
        return tuple(stacks.resolutions(self.model))

    @functools.cached_property
    def coarse(self) -> tuple[int, ...]:
        """The resolutions of a code but for the finest; none where there is one."""
        return tuple(stacks.resolutions(self.model)[:-1])

    @property
    def has_dial(self) -> bool:
        """Whether the decoder has a dial of realism."""
        return getattr(self.model, "has_dial", False)

    def face(self, kind: str, name: int | str, file: Path | None = None) -> Face:
        """Returns a face by its kind and name, see `Face`.

        Args:
          kind: one of `looks.KINDS`.
          name: name of the face.
          file: file of a picture; None where the name is the file.

        Raises:
          UserError: the file is no picture, or there is no such image or no sampler.
        """
        if kind == "seed":
            if not self.samplers:
                raise UserError(f"{self.title} has nothing to draw samples from")
            if not 0 <= int(name) <= LARGEST_SEED:
                raise UserError(
                    f"there is no sample {name}; there are 0 to {LARGEST_SEED}"
                )
            return Face(kind, name)
        labels = None
        if kind == "picture":
            path = str(name if file is None else file)
            try:
                pictures = read_pictures([path], dict(self.recipe))
            except UserError as error:
                # The file that a browser has sent has a name that says nothing.
                raise UserError(str(error).replace(path, str(name))) from error
        elif self.test is None:
            raise UserError(f"there is no test image {name}: {' '.join(self.missing)}")
        else:
            images, known = self.test
            if not 0 <= int(name) < len(images):
                raise UserError(
                    f"there is no test image {name}; there are 0 to {len(images) - 1}"
                )
            here = slice(int(name), int(name) + 1)
            pictures = images[here]
            labels = None if known is None else np.asarray(known[here])
        return Face(
            kind, name, sampling.encode_images(self.model, pictures, labels), labels
        )

    def picture(self, look: Look) -> Picture:
        """Returns the picture of a look, as 8-bit levels."""
        z, labels = self._code(look.face, look), look.face.labels
        if look.goal is not None:
            goal, share = self._code(look.goal, look), look.share
            way = interpolation.towards(z, goal, share)
            if look.up_to is None:
                z, labels = way, _labels_between(labels, look.goal.labels, share)
            else:
                changes = stacks.resolution_of_numbers(self.model) <= look.up_to
                z = np.where(changes, way, z)
        z = interpolation.shifted(z, look.dimensions, self.std)
        if look.attributes:
            assert look.estimator is not None
            known = self.directions[look.estimator]
            direction = attributes.weighted_sum(known, look.attributes)
            z = attributes.moved(z, direction, 1.0)
        dial = jnp.asarray([look.realism], jnp.float32) if self.has_dial else None
        (image,) = np.asarray(sampling.decode(self.model, z, labels, dial))
        return grids.to_levels(image)

    def _code(self, face: Face, look: Look) -> Float[np.ndarray, "1 D"]:
        if face.code is not None:
            return face.code
        spread: Any = look.temperature
        if isinstance(spread, Mapping):
            spread = tuple(spread.items())
        return self._drawn(face.name, look.sampler, spread)

    @functools.cached_property
    def _drawn(self) -> Callable[..., Float[np.ndarray, "1 D"]]:
        @functools.lru_cache(KEPT_CODES)
        def drawn(seed: int, sampler: str, spread: Any) -> Float[np.ndarray, "1 D"]:
            density = self.samplers[sampler]
            if isinstance(spread, tuple):
                spread = stacks.numbers_by_resolution(self.model, dict(spread), 1.0)
            if density is not None:
                size = code_size(self.model.code_shape)
                try:
                    return density.sample(size, 1, seed, spread)
                except np.linalg.LinAlgError as error:
                    raise UserError(
                        f"{self.opened[0]} has a Gaussian that is none: {error}"
                    ) from error
            # An array, so that a program is compiled once for all temperatures.
            temperature, from_seed = jnp.asarray(spread), key(seed, Stream.SAMPLING)
            return np.asarray(
                sampling.draw_codes(self.model, from_seed, 1, None, temperature)
            )

        return drawn

    def check_sampling(
        self, sampler: str | None, temperature: float | Mapping[int, float]
    ) -> None:
        """Raises UserError where the model has no such sampler or temperature."""
        if sampler is None or sampler not in self.samplers:
            raise UserError(
                f"--sampler is {sampler!r}; allowed with {self.opened[0]} is "
                f"{' or '.join(self.samplers) or 'none'}"
            )
        if isinstance(temperature, Mapping):
            for at in temperature:
                if at not in self.resolutions:
                    allowed = ", ".join(map(str, self.resolutions)) or "one number"
                    raise UserError(
                        f"--temperature has the resolution {at}; allowed with "
                        f"{self.opened[0]} is {allowed}"
                    )


def _labels_between(
    first: Float[np.ndarray, "1 A"] | None,
    second: Float[np.ndarray, "1 A"] | None,
    share: float,
) -> Float[np.ndarray, "1 A"] | None:
    """Returns labels a share of the way from the first to the second; 0 is unknown."""
    if first is None and second is None:
        return None
    a, b = (0.0 if labels is None else labels for labels in (first, second))
    return np.asarray((1 - share) * a + share * b, np.float32)


def of_run(run: Run, opened: Sequence[str]) -> Source:
    """Returns the model of a run, with what its folder or its data set tell of it.

    Raises:
      UserError: the run is of a classifier.
    """
    abilities.check_decoder(run, "the explorer takes an autoencoder")
    missing: list[str] = []

    def tried(what: str, find: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return find()
        except UserError as error:
            missing.append(f"No {what}: {error}")
            return otherwise

    def test():
        images = run.dataset_for("what is shown").splits["test"].images
        return images, run.labels("test")

    def known_directions():
        if not run.attribute_names:
            raise UserError("the images have no attributes")
        found = {
            each: directions.read_directions(run, each, 0)
            for each in directions.ESTIMATORS
        }
        return {each: known for each, known in found.items() if known}

    samplers = {}
    for each in samples.best_samplers(run):
        if each == "prior":
            samplers[each] = None
        else:
            density = functools.partial(kept_codes.fitted_density, run, each)
            density = tried("samples of the fitted Gaussian", density, None)
            if density is not None:
                samplers[each] = density
    known = tried("single dimensions", lambda: kept_codes.dimensions(run), None)
    order, std = np.zeros(0, np.int64), np.zeros(0, np.float32)
    if known is not None:
        order, std = kept_codes.leading_first(known), kept_codes.spread(run, known)[1]
    return Source(
        opened=opened,
        title=f"{recorded.title_of(run)}, step {run.step}",
        model=run.model(),
        recipe=run.recipe,
        directions=tried("attributes", known_directions, {}),
        samplers=samplers,
        order=order,
        std=std,
        test=tried("test images", test, None),
        missing=tuple(missing),
    )


def of_exported(found: loading.Exported, name: str, opened: Sequence[str]) -> Source:
    """Returns a model that has left its run.

    Args:
      found: the model.
      name: name of the model.
      opened: see `Source`.

    Raises:
      UserError: it is a classifier.
    """
    if not hasattr(found.model, "decode"):
        raise UserError(f"{opened[0]} names a classifier; allowed is an autoencoder")
    samplers = {}
    if found.density is not None:
        samplers["gaussian"] = found.density
    if found.model.prior is not None:
        samplers["prior"] = None
    kind = recorded.kind_of(found.config.model.name, str(found.dataset.get("name")))
    known = {n: attributes.constant(each) for n, each in found.directions.items()}
    missing = ["No test images: an exported model has none."]
    order, std = found.order, found.std
    if order is None or std is None:
        missing.append("No single dimensions: exported without the pictures.")
        order, std = np.zeros(0, np.int64), np.zeros(0, np.float32)
    if not known:
        missing.append("No attributes: none were exported.")
    return Source(
        opened=opened,
        title=f"{name}: {kind}",
        model=found.model,
        recipe=found.dataset,
        directions={directions.ESTIMATORS[0]: known} if known else {},
        samplers=samplers,
        order=order,
        std=std,
        test=None,
        missing=tuple(missing),
    )


def first_look(source: Source) -> Look | None:
    """Returns what is shown at first; None where there is nothing but own pictures."""
    if source.test is None and not source.samplers:
        return None
    kind = "seed" if source.test is None else "test"
    return plain(source, source.face(kind, 0))


def plain(source: Source, face: Face) -> Look:
    """Returns a face as it is."""
    return Look(
        face,
        sampler=next(iter(source.samplers), None),
        estimator=next(iter(source.directions), None),
    )


def is_exported(workdir: Path) -> bool:
    """Says whether a folder has an exported model, rather than a run."""
    return (workdir / files.CONFIG).is_file() and not record.exists(workdir)


def open_source(
    workdir: Path, checkpoint: str = "latest", data_dir: str | None = None
) -> Source:
    """Opens a run, or a model that `python -m vae_jax.export` has written.

    Args:
      workdir: workdir of the run, or the folder of the model.
      checkpoint: checkpoint of the run.
      data_dir: folder where the run's data set is now; None for where it was.

    Raises:
      UserError: there is no such model.
    """
    opened = [f"--workdir={workdir}"]
    if is_exported(workdir):
        return of_exported(loading.load(workdir), workdir.resolve().name, opened)
    if checkpoint != "latest":
        opened.append(f"--checkpoint={checkpoint}")
    if data_dir is not None:
        opened.append(f"--data_dir={data_dir}")
    return of_run(run_lib.load(workdir, checkpoint, data_dir), opened)
