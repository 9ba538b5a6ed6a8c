"""The contract of every autoencoder: all that the rest of this project relies on.

S samples, B images, N numbers in a code. Everything is in nats and float32, summed over
pixels and channels; only an objective averages and weighs.

A code is a pytree of arrays [B,...]: [B,D] for a vector, [B,h,w,d] for a spatial code,
a tuple for a stack of layers. Only `encode` and `decode` know its shape. Whatever else
is done to codes (directions, ways between them, densities, priors) is done to the
numbers in them, [B,N], which `flatten` and `unflatten` lead to and back from.
"""

import enum
import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float, Int, Key

from vae_jax.models.posteriors import DiagonalGaussian

Code = Any
# (D,), (h, w, d), or a tuple of such.
CodeShape = tuple[Any, ...]
Labels = Float[Array, "*labelled A"] | None


class Draw(enum.IntEnum):
    """What the key of a batch is folded with, each use with a key of its own."""

    PRIOR = 1
    LABELS = 2
    MIRROR = 3
    DIAL = 4
    FLOW = 5
    LAYERS = 6


class State(nnx.Variable):
    """What a model keeps beside its parameters, and learns without a gradient."""


@struct.dataclass
class Variables:
    """The arrays of a model, as plain dicts: with its structure they are the model.

    Attributes:
      params: the parameters, float32; the EMA averages them.
      state: the array of each `State`; the EMA copies it.
    """

    params: Any
    state: Any


@runtime_checkable
class ImageDistribution(Protocol):
    """A distribution over images in [0, 1].

    Where a model has a likelihood it has `std`, `log_prob(images)`, `log_mass(images)`,
    `sample(key)` and `PLACE` as well, see models/likelihoods.py.
    """

    @property
    def mean(self) -> Float[Array, "*batch H W C"]:
        """The mean of each pixel and channel."""
        ...


@runtime_checkable
class Prior(Protocol):
    """A distribution p(z|y) over the numbers in a code.

    Where its moments are known it has `mean` and `std` [*batch,N] of each number. That
    of a model with discrete codes has none; a learned one takes `top_k` and `known` in
    `sample` as well, see models/code_priors.py. Nor has a `Flow`.
    """

    def sample(
        self,
        key: Key[Array, ""],
        num_samples: int,
        temperature: float | Float[Array, "*number"] = 1.0,
    ) -> Float[Array, "S *batch N"]:
        """Draws samples; a temperature below 1 narrows each component.

        It is one number, or where the prior is N(0, I) also one for each of the N.
        """
        ...

    def log_prob(self, z: Float[Array, "*sample N"]) -> Float[Array, "*sample_batch"]:
        """Returns the log-density in nats."""
        ...


@runtime_checkable
class Flow(Prior, Protocol):
    """A prior that carries noise, at time 0, to codes, at time 1.

    Its `sample` takes `num_steps` and `guidance` as well, see models/flow_density.py.
    """

    def matching(
        self, z: Float[Array, "B N"], key: Key[Array, ""]
    ) -> Float[Array, " B"]:
        """Returns the mean squared error of the velocity on the way to each code."""
        ...

    def carried(
        self,
        z: Float[Array, "*sample N"],
        first: float,
        last: float,
        num_steps: int | None = None,
        guidance: float | Float[Array, ""] | None = None,
    ) -> Float[Array, "*sample N"]:
        """Returns where codes are carried from one time to another."""
        ...


@runtime_checkable
class Autoencoder(Protocol):
    """A model that encodes images and decodes codes.

    A model with `State` of its own also has `update_state(terms)`, which assigns to it.
    Training calls it with the terms of each batch, before the parameters change; what
    it assigns is dropped where the update is skipped. A model whose codes are random,
    and in one layer, has `posterior(images, labels)`, a distribution over the numbers
    in each code. One whose `has_dial` is true takes `realism` [B], from 0 to 1, in
    `decode` and `__call__`. One whose `dropped` is not empty takes `layers_left` [B] in
    `__call__`, in training those of `layers_left(B)`: known when the step is compiled,
    the images that are told by fewer layers first. One whose code is a vector with a
    part for each resolution of its decoder has `code_resolutions`, that of each number.
    One that may be told labels has `num_labels`, and `num_told`, those of them that
    encoder and decoder are told; the prior is told all.

    Attributes:
      code_shape: shape of the code of one image.
      prior: None where there is no prior to draw codes from.
    """

    code_shape: CodeShape
    prior: Any

    def encode(
        self,
        images: Float[Array, "B H W C"],
        labels: Labels = None,
        key: Key[Array, ""] | None = None,
    ) -> Code:
        """Returns the code of each image: the posterior's mode, or a sample by `key`.

        A model without a posterior has one code for an image, whatever the key.
        """
        ...

    def decode(self, code: Code, labels: Labels = None) -> ImageDistribution:
        """Returns the distribution over images that each code stands for."""
        ...

    def prior_of(self, labels: Labels = None) -> Prior:
        """Returns the prior p(z|y); labels that are not given are unknown."""
        ...

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        key: Key[Array, ""],
        labels: Labels = None,
        num_samples: int = 1,
    ) -> "Terms":
        """Returns the terms of the objective, of S = `num_samples` codes an image."""
        ...


@runtime_checkable
class Quantizer(Protocol):
    """K vectors, one of which stands for any other, see models/quantizers.py."""

    num_codes: int

    def look_up(self, indices: Int[Array, "*places"]) -> Float[Array, "*places d"]:
        """Returns vectors that stand for themselves."""
        ...


@runtime_checkable
class DiscreteCodes(Protocol):
    """What an autoencoder has besides, where a code stands for indices.

    They are N, one for each place, map after map, the coarse one first, and each row by
    row. Decoding a code is decoding what its indices stand for. A prior that is learned
    has `logits(indices, labels)`.

    Attributes:
      code_shape: (h, w, d) of each map.
      quantizers: the quantizer of each map.
      prior: the prior over indices, see models/code_priors.py; `prior_of` is over
        numbers.
    """

    code_shape: tuple[tuple[int, int, int], ...]
    quantizers: Sequence[Quantizer]
    prior: Any

    def indices(self, code: Code) -> Int[Array, "*batch N"]:
        """Returns which of its codes stands at each place."""
        ...

    def look_up(
        self, indices: Int[Array, "*batch N"]
    ) -> Float[Array, "*batch numbers"]:
        """Returns the numbers in a code that stands for these indices."""
        ...

    def by_map(self, places: Any) -> list[Array]:
        """Cuts an array whose last axis is all places into those of each map."""
        ...

    def pull(self, code: Code) -> Float[Array, " B"]:
        """Returns what training keeps vectors and their codes together by."""
        ...


@runtime_checkable
class Judge(Protocol):
    """A model that recognises attributes, and so can judge what others draw."""

    def features(self, images: Float[Array, "B H W C"]) -> Float[Array, "B F"]:
        """Returns what the log-odds are linear in."""
        ...

    def logits(self, features: Float[Array, "B F"]) -> Float[Array, "B A"]:
        """Returns the log-odds of each attribute."""
        ...


@struct.dataclass
class Layer:
    """What one layer of latent variables adds to the ELBO.

    Attributes:
      posterior: q(z|x), the same for all samples of an image; None where it is a point
        of a finite set, or one of a stack, which depends on the sample above it.
      kl: KL(q(z|x) || p(z)) by group G, which is a number of a vector or spatial code,
        or a whole layer of a stack; None where it is not analytic.
      log_ratio: log p(z) - log q(z|x) of each sample, or an estimate that is right in
        the mean.
    """

    posterior: DiagonalGaussian | None
    kl: Float[Array, "B G"] | None
    log_ratio: Float[Array, "S B"]


@struct.dataclass
class Terms:
    """The parts of an objective for B images, neither averaged nor weighted.

    Attributes:
      mean: the reconstructions, in [0, 1].
      code: the codes that they were decoded from, arrays [S,B,...].
      log_px: log p(x|z), summed over pixels and channels; None where the model has no
        likelihood.
      log_mass: log-probability of the image's 8-bit levels, the discretised counterpart
        of `log_px`; None where the model has no likelihood.
      px: p(x|z), whose `mean` it is.
      layers: the layers of latent variables; none for a deterministic code.
    """

    mean: Float[Array, "S B H W C"]
    code: Code
    log_px: Float[Array, "S B"] | None = None
    log_mass: Float[Array, "S B"] | None = None
    px: ImageDistribution | None = None
    layers: tuple[Layer, ...] = ()


def flatten(code: Code) -> Float[Array, "B N"]:
    """Returns the numbers in each code, leaf after leaf."""
    leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(code)]
    return leaves[0] if len(leaves) == 1 else jnp.concatenate(leaves, axis=-1)


def code_size(shape: CodeShape) -> int:
    """Returns N, how many numbers are in a code of this shape."""
    if all(isinstance(part, int) for part in shape):
        return math.prod(shape)
    return sum(code_size(part) for part in shape)


def unflatten(numbers: Float[Array, "*batch N"], shape: CodeShape) -> Code:
    """Returns the codes [*batch,...] whose numbers these are; undoes `flatten`."""
    if all(isinstance(part, int) for part in shape):
        return numbers.reshape(*numbers.shape[:-1], *shape)
    sizes = [code_size(part) for part in shape]
    ends = [sum(sizes[:last]) for last in range(1, len(sizes))]
    parts = jnp.split(numbers, ends, axis=-1)
    return tuple(map(unflatten, parts, shape))
