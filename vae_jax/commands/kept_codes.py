"""codes.npz: what a run keeps of the codes of its pictures.

By it fitted samplers and traversals do without the pictures.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from vae_jax.commands import abilities, directions, kept
from vae_jax.errors import UserError
from vae_jax.exploration import densities, sampling, stacks
from vae_jax.exploration.batching import map_batches
from vae_jax.exploration.densities import Density
from vae_jax.keys import Stream, key
from vae_jax.models.contract import code_size, flatten
from vae_jax.models.elbo import kl_by_dimension
from vae_jax.models.likelihoods import to_unit_interval
from vae_jax.run import Run

FILE = "codes.npz"
# Components of the Gaussian mixture that is fitted to codes.
FITTED = {"gaussian": 1, "mixture": 10}
# Figures of each dimension of a code that every model has.
FIGURES = ("mean", "std", "variance")
# Numbers in a code that a density is fitted to at most. The covariance of 4,096 takes
# 134 MB; a mixture is fitted in many rounds, each of which does the work of ten
# Gaussians.
LARGEST_FITTED = {"gaussian": 4096, "mixture": 1024}


def can_be_fitted(run: Run, sampler: str) -> bool:
    """Says whether a sampler can be fitted to the codes of a run's training images."""
    enough = run.num_train >= max(2, FITTED[sampler])
    return enough and _fitted_numbers(run, sampler) > 0


def _fitted_numbers(run: Run, sampler: str) -> int:
    """Returns how many of the first numbers in a code a density is fitted to.

    They are all numbers where they are few enough, and otherwise those of a stack's
    first layers, given which the others have a prior of their own; or none, 0.
    """
    sizes = stacks.density_sizes(run.model())
    return max((size for size in sizes if size <= LARGEST_FITTED[sampler]), default=0)


def is_of_first_layers(run: Run, sampler: str) -> bool:
    """Says whether the density of a sampler leaves the last layers to their prior."""
    return _fitted_numbers(run, sampler) < code_size(run.model().code_shape)


def _read(run: Run) -> dict[str, np.ndarray]:
    """Returns what codes.npz keeps of codes such as the run's."""
    dims = code_size(run.model().code_shape)
    shapes: dict[str, tuple[int, ...]] = {
        f"dimensions.{figure}": (dims,) for figure in (*FIGURES, "kl")
    }
    for sampler, components in FITTED.items():
        size = _fitted_numbers(run, sampler)
        of_parts = ((components,), (components, size), (components, size, size))
        for part, shape in zip(densities.PARTS, of_parts, strict=True):
            shapes[f"{sampler}.{part}"] = shape
    return kept.read(run, FILE, shapes, is_finite=True)


def _has_dimensions(saved: dict[str, np.ndarray]) -> bool:
    return all(f"dimensions.{figure}" in saved for figure in FIGURES)


def check_fitted(run: Run, sampler: str, num_codes: int, what: str) -> None:
    """Raises UserError where a sampler cannot be fitted to codes.

    Args:
      run: the run whose codes they are.
      sampler: a key of `FITTED`.
      num_codes: number of pictures that have codes.
      what: words for these pictures.
    """
    if num_codes < max(2, FITTED[sampler]):
        raise UserError(
            f"--sampler={sampler} is fitted to {max(2, FITTED[sampler])} training "
            f"pictures at least; {what} are {num_codes}"
        )
    if not _fitted_numbers(run, sampler):
        raise UserError(
            f"--sampler={sampler} has a covariance of all numbers in a code, or in "
            f"the first layer of a stack, {LARGEST_FITTED[sampler]} at most; the codes "
            f"of the run in {run.workdir} have {code_size(run.model().code_shape)}"
        )


def fit(run: Run, sampler: str, samples: np.ndarray) -> Density:
    """Returns the density of a sampler, fitted to samples of posteriors [N,F]."""
    return densities.fit_density(samples, FITTED[sampler], run.config.seed)


def encode_train(
    run: Run, sampler: str, purpose: str, which: Any = slice(None)
) -> tuple[np.ndarray, np.ndarray]:
    """Returns training pictures' codes and samples of their posteriors, [N,F].

    Args:
      run: a run of an autoencoder of any kind.
      sampler: a key of `FITTED`; of each code there are the numbers that it is of.
      purpose: see `Run.dataset_for`.
      which: a slice of the pictures, or a mask; of these the first,
        `sampling.most_codes`.
    """
    images = run.dataset_for(purpose).splits["train"].images
    size = _fitted_numbers(run, sampler)
    most = sampling.most_codes(size)
    if not isinstance(which, slice):
        which = np.flatnonzero(which)[:most]
    labels = run.labels("train", which)
    return sampling.encode_and_sample(
        run.model(),
        images[which][:most],
        None if labels is None else labels[:most],
        key(run.config.seed, Stream.SAMPLING),
        size,
    )


def fitted_density(run: Run, sampler: str) -> Density:
    """Returns the density of a sampler, fitted to codes of training pictures.

    It is read from codes.npz, and put there where it is new.

    Args:
      run: a run of an autoencoder of any kind.
      sampler: a key of `FITTED`.

    Raises:
      UserError: there are too few pictures, or they are needed and not there.
    """
    saved = _read(run)
    names = {part: f"{sampler}.{part}" for part in densities.PARTS}
    if all(name in saved for name in names.values()):
        return Density(**{part: saved[name] for part, name in names.items()})
    check_fitted(run, sampler, run.num_train, "the run's")
    _, samples = encode_train(run, sampler, f"--sampler={sampler}")
    fitted = fit(run, sampler, samples)
    kept.keep(run, FILE, saved | _density_arrays(sampler, fitted))
    return fitted


def _density_arrays(sampler: str, density: Density) -> dict[str, np.ndarray]:
    return {f"{sampler}.{part}": getattr(density, part) for part in densities.PARTS}


@jax.jit
def _codes_and_kl(model, images, labels):
    images = to_unit_interval(images)
    # The analytic KL of one layer depends on no sample; a stack's is not kept.
    terms = model(images, jax.random.key(0), labels)
    return flatten(model.encode(images, labels)), kl_by_dimension(terms)


def _measure_dimensions(run: Run, purpose: str) -> dict[str, np.ndarray]:
    images = run.dataset_for(purpose).splits["validation"].images
    some = slice(sampling.most_codes(code_size(run.model().code_shape)))
    codes, kl = map_batches(
        functools.partial(_codes_and_kl, run.model()),
        (images[some], run.labels("validation", some)),
        "encoding",
    )
    found = {
        "dimensions.mean": codes.mean(axis=0),
        "dimensions.std": codes.std(axis=0),
        "dimensions.variance": np.var(codes, axis=0, dtype=np.float64),
    }
    # A stack has one KL for each layer, and not for each number.
    if kl is not None and kl.shape == codes.shape:
        found["dimensions.kl"] = np.mean(kl, axis=0, dtype=np.float64)
    return found


def dimensions(run: Run) -> dict[str, np.ndarray]:
    """Returns figures of each dimension of the code over the validation split, [D].

    Of large codes they are over its first images, `sampling.most_codes`.

    `mean`, `std` and `variance` of the posterior's mean (the autoencoder's code), and
    `kl`, its mean in nats, where that is analytic and known of each. They are read from
    codes.npz, and put there where they are new.

    Raises:
      UserError: the pictures are needed and not there.
    """
    saved = _read(run)
    if not _has_dimensions(saved):
        saved |= _measure_dimensions(run, "the order of the dimensions")
        kept.keep(run, FILE, saved)
    prefix = "dimensions."
    return {n.removeprefix(prefix): a for n, a in saved.items() if n.startswith(prefix)}


def leading_first(known: dict[str, np.ndarray]) -> Int[np.ndarray, " D"]:
    """Returns the dimensions of what `dimensions` returns, the leading one first.

    That is the one of the largest KL, or of the largest variance where no KL is known.
    """
    return np.argsort(-known.get("kl", known["variance"]), kind="stable")


def spread(
    run: Run, known: dict[str, np.ndarray], label: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the prior's mean and standard deviation of each dimension, [D].

    Args:
      run: a run of an autoencoder of any kind.
      known: what `dimensions` returns; codes without such a prior have no scale but
        their own.
      label: [A] of a conditional prior; None for unknown.
    """
    if not abilities.has_moments(run):
        return known["mean"], known["std"]
    prior = run.model().prior_of(None if label is None else jnp.asarray(label))
    return np.asarray(prior.mean), np.asarray(prior.std)


def keep(run: Run) -> None:
    """Writes codes.npz and directions.npz, for use where the pictures are not.

    Those of a later checkpoint stay, and nothing is kept of other pictures.

    Args:
      run: a run of an autoencoder of any kind.

    Raises:
      UserError: the pictures are needed and not there.
    """
    purpose = "what a run keeps of its codes"
    saved, found = _read(run), directions.read(run)
    fits = can_be_fitted(run, "gaussian") and "gaussian.means" not in saved
    directs = bool(run.attribute_names) and not found
    if not fits and not directs and _has_dimensions(saved):
        return
    run.dataset_for(purpose)
    if any(kept.refusal(run, name) for name in (FILE, directions.FILE)):
        return
    new, means = {}, None
    if fits:
        codes, samples = encode_train(run, "gaussian", purpose)
        new |= _density_arrays("gaussian", fit(run, "gaussian", samples))
        # A density of a stack's first layers alone is fitted to parts of codes.
        is_whole = codes.shape[1] == code_size(run.model().code_shape)
        means = codes if is_whole else None
    if directs:
        directions.write_directions(run, run.config.seed, codes=means)
    if not _has_dimensions(saved):
        new |= _measure_dimensions(run, purpose)
    if new:
        kept.write(run, FILE, saved | new)
