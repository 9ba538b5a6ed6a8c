"""The VQ-VAE of van den Oord et al. (2017), and VQ-VAE-2 of Razavi et al. (2019).

The code of an image is one map of vectors, or two, the coarse one first, before they
are quantised, and decoding quantises them: so that they can be moved, mixed and fitted
as any other code. The posterior is a point, and the ELBO is log p(x|z) + log p(z) of
the indices z that the vectors stand for.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from vae_jax.models.code_priors import NumbersPrior
from vae_jax.models.contract import Draw, Labels, Layer, Terms
from vae_jax.models.labels import ATTRIBUTES
from vae_jax.models.networks.layers import (
    Frame,
    Networks,
    decode_rows,
    head_layer,
    mix_channels,
)
from vae_jax.models.networks.stages import Block, Upsampling, resolutions
from vae_jax.models.networks.transformer import Maps, by_map
from vae_jax.models.quantizers import QUANTIZERS
from vae_jax.models.vae import (
    DROPOUT,
    LIKELIHOOD,
    LIKELIHOODS,
    PRIOR,
    PRIORS,
    check_labels,
    check_prior,
)
from vae_jax.options import Option, Refusal, Values, choice, make, switch

# A map of vectors, or two.
VectorMaps = tuple[Float[Array, "*batch _ _ _"], ...]
MapShapes = tuple[tuple[int, int, int], ...]


class Guess(nnx.Module):
    """A network whose output, at twice the resolution, is added to the fine vectors.

    It is given the coarse codes, so that the fine ones hold what these leave out.

    Args:
      dims: numbers in a vector.
      width: channels in between.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
    """

    def __init__(self, dims: int, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.entry = Upsampling(dims, width, "subpixel", dtype=dtype, rngs=rngs)
        self.block = Block(width, "none", dtype=dtype, rngs=rngs)
        self.exit = head_layer(width, dims, dtype, rngs)

    def __call__(self, coarse: Float[Array, "B h w d"]) -> Float[Array, "B H W d"]:
        """Returns what is added to the fine vectors."""
        x = nnx.silu(self.block(self.entry(coarse)))
        return mix_channels(self.exit, x)


class VQVAE(nnx.Module):
    """x -> vectors from an encoder -> quantisers -> p(x|z) by decoder and likelihood.

    Labels are known to the prior alone, where it has them.

    Args:
      encoder: images [B,H,W,C] to a map of vectors [B,h,w,d], or to the coarse and the
        fine one.
      decoder: quantised maps to `likelihood.num_maps` maps of the image's shape.
      quantizers: the quantizer of each map, see models/quantizers.py.
      likelihood: maps to a distribution over images.
      prior: the prior over indices, see models/code_priors.py.
      code_shape: shape (h, w, d) of each map.
      guess: see `Guess`; None where there is one map.
    """

    def __init__(
        self,
        encoder: Any,
        decoder: Any,
        quantizers: list[Any],
        likelihood: Any,
        prior: Any,
        code_shape: MapShapes,
        guess: Guess | None = None,
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.quantizers = nnx.List(quantizers)
        self.likelihood = likelihood
        self.prior = prior
        self.code_shape = code_shape
        self.guess = guess

    def encode(
        self,
        images: Float[Array, "B H W C"],
        labels: Labels = None,
        key: Key[Array, ""] | None = None,
    ) -> VectorMaps:
        """Returns the vectors of each image, before they are quantised."""
        if self.guess is None:
            return (self.encoder(images),)
        coarse, fine = self.encoder(images)
        return coarse, fine + self.guess(self.quantizers[0].quantize(coarse))

    def indices(self, code: VectorMaps) -> Int[Array, "*batch N"]:
        """Returns which of its codes stands at each place, map after map."""
        maps = [
            quantizer.nearest(vectors)
            for quantizer, vectors in zip(self.quantizers, code, strict=True)
        ]
        rows = [map_.reshape(*map_.shape[:-2], -1) for map_ in maps]
        return jnp.concatenate(rows, axis=-1)

    def by_map(self, places: Any) -> list[Array]:
        """Cuts an array of the places of all maps, its last axis, into each map's."""
        return by_map(places, [shape[:-1] for shape in self.code_shape])

    def look_up(
        self, indices: Int[Array, "*batch N"]
    ) -> Float[Array, "*batch numbers"]:
        """Returns the numbers in the code that stands for these indices."""
        vectors = [
            quantizer.look_up(part)
            for quantizer, part in zip(
                self.quantizers, self.by_map(indices), strict=True
            )
        ]
        rows = [part.reshape(*part.shape[:-2], -1) for part in vectors]
        return jnp.concatenate(rows, axis=-1)

    def decode(self, code: VectorMaps, labels: Labels = None) -> Any:
        """Returns p(x|z) of each code, quantised."""
        quantized = tuple(
            quantizer.quantize(vectors)
            for quantizer, vectors in zip(self.quantizers, code, strict=True)
        )
        maps = decode_rows(lambda rows: self.decoder(*rows), quantized, rank=3)
        return self.likelihood(maps)

    def prior_of(self, labels: Labels = None) -> NumbersPrior:
        """Returns p(z|y) over the numbers in a code, see `contract.Prior`."""
        return NumbersPrior(self, labels)

    def pull(self, code: VectorMaps) -> Float[Array, " B"]:
        """Returns what keeps vectors and codes together, summed over all places."""
        pulls = [
            jnp.sum(quantizer.pull(vectors), axis=(1, 2))
            for quantizer, vectors in zip(self.quantizers, code, strict=True)
        ]
        return jnp.sum(jnp.stack(pulls), axis=0)

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        key: Key[Array, ""],
        labels: Labels = None,
        num_samples: int = 1,
    ) -> Terms:
        """Returns the terms of the objective, of one code however many are asked for.

        Args:
          images: images in [0, 1].
          key: random key of the masked prior's estimate.
          labels: labels of the images, which the prior is told.
          num_samples: samples of the code for each image, which are one and the same.
        """
        code = jax.tree.map(lambda vectors: vectors[None], self.encode(images))
        px = self.decode(code)
        by_place = self.prior.log_prob_by_place(
            self.indices(code), labels, jax.random.fold_in(key, Draw.PRIOR)
        )
        return Terms(
            mean=px.mean,
            code=code,
            log_px=px.log_prob(images),
            log_mass=px.log_mass(images),
            px=px,
            # q(z|x) is a point, of probability 1.
            layers=tuple(
                Layer(posterior=None, kl=None, log_ratio=jnp.sum(part, axis=-1))
                for part in self.by_map(by_place)
            ),
        )

    def update_state(self, terms: Terms) -> None:
        """Moves quantisers without gradients on, by the vectors of a batch."""
        for quantizer, vectors in zip(self.quantizers, terms.code, strict=True):
            if hasattr(quantizer, "update"):
                quantizer.update(vectors[0])


def _build(
    frame: Frame,
    networks: Networks,
    likelihood: str,
    prior: str,
    quantizer: str,
    two_maps: bool,
    **others: Any,
) -> VQVAE:
    assert networks.make_decoder is not None
    px = make(LIKELIHOODS, likelihood, frame.settings, frame.image_shape[-1])
    side, dims = networks.code_shape[0], frame.latent_dim
    sizes, fine = ((side, side),), {}
    if two_maps:
        sizes = (*sizes, (2 * side, 2 * side))
        fine = {"fine_code_size": 2 * side}
    encoder = networks.make_encoder(dims, condition_dim=0, **fine)
    decoder = networks.make_decoder(num_maps=px.num_maps, **fine)
    quantizers = [
        make(QUANTIZERS, quantizer, frame.settings, dims, frame.rngs) for _ in sizes
    ]
    guess = None
    if two_maps:
        width = 2 * frame.settings.width
        guess = Guess(dims, width, dtype=frame.dtype, rngs=frame.rngs)
    maps = Maps(
        sizes,
        quantizers[0].num_codes,
        frame.num_labels,
        frame.dtype,
        frame.rngs,
    )
    return VQVAE(
        encoder,
        decoder,
        quantizers,
        px,
        make(PRIORS, prior, frame.settings, maps),
        tuple((*size, dims) for size in sizes),
        guess,
    )


def _check(values: Values) -> Refusal | None:
    side = values["model.code_size"]
    if values["model.network"] != "conv":
        return "model.network", "with model.name vq it must be conv"
    if side is None:
        reason = "with model.name vq it is the height and width of the map of codes"
        return "model.code_size", reason
    if values["model.two_maps"]:
        try:
            finer = resolutions(values["dataset.size"], side)[:-1]
        except ValueError:
            # The network says what is wrong.
            return None
        if 2 * side not in finer:
            reason = (
                f"model.two_maps needs a stage at {2 * side}, and those above are "
                f"{', '.join(map(str, finer)) or 'none'}"
            )
            return "model.code_size", reason
    refused = check_prior(values, terms="codes") or check_labels(values)
    if refused is None and values["model.attributes"]:
        if values["model.prior"] == "uniform":
            reason = "they go with model.prior transformer or masked, which know them"
            return "model.attributes", reason
    return refused


VQ_VAE = Option(
    _build,
    {
        "likelihood": LIKELIHOOD,
        "prior": PRIOR,
        "attributes": ATTRIBUTES,
        "attribute_dropout": DROPOUT,
        "quantizer": choice(
            "gradient",
            "Quantiser: a codebook that learns by gradient, one of running averages, "
            "or levels of each number.",
            QUANTIZERS,
        ),
        "two_maps": switch(
            False,
            "A second map of codes at twice the resolution of the first, as VQ-VAE-2 "
            "has.",
        ),
    },
    check=_check,
    terms="codes",
)
