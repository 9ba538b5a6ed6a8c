"""The hierarchical VAE: a stack of latent layers, each given those above.

Of the ladder VAE (Sønderby et al. 2016) and its descendants, NVAE (Vahdat & Kautz 2020)
and VDVAE (Child 2020): p(z) = prod_l p(z_l | z_<l), q(z|x) = prod_l q(z_l | z_<l, x),
both from the coarsest layer on.

The code of a layer is its noise, e_l = (z_l - m_l(z_<l)) / s_l(z_<l). Its prior is
N(0, I), and the KL of q(e_l) to that prior is the KL of q(z_l) to p(z_l | z_<l), since
a KL is the same under any affine map. So codes are moved, mixed and drawn as those of
any other model, and an edit at the top reaches the layers below through the decoder.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from vae_jax.models.contract import (
    CodeShape,
    Draw,
    Labels,
    Layer,
    Terms,
    code_size,
    flatten,
)
from vae_jax.models.networks import ladder
from vae_jax.models.networks.layers import Frame, Networks, decode_rows
from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.models.vae import LIKELIHOOD, LIKELIHOODS
from vae_jax.options import (
    Option,
    Refusal,
    Values,
    make,
    parse_by_resolution,
    text,
)

# The code of each layer, the first one first.
Codes = tuple[Float[Array, "*batch _ _ _"], ...]


class HierarchicalVAE(nnx.Module):
    """q(z|x) from an encoder on the way down, p(x|z) from a decoder and a likelihood.

    Args:
      encoder: images to features, and features to each layer's posterior, see
        `networks.ladder.Encoder`.
      decoder: a code for each layer to `likelihood.num_maps` maps of the image's shape.
      likelihood: maps to a distribution over images.
      code_shape: shape (h, w, d) of each layer's code, the first layer first.
      dropped: (layers left, share of training images that have no more), the shares
        falling, see `layers_left`.
    """

    def __init__(
        self,
        encoder: Any,
        decoder: Any,
        likelihood: Any,
        code_shape: CodeShape,
        dropped: tuple[tuple[int, float], ...] = (),
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.code_shape = code_shape
        self.dropped = dropped

    def layers_left(self, num_images: int) -> Int[np.ndarray, " B"]:
        """Returns how many layers each image of a training batch is told by.

        Nested dropout (Rippel et al. 2014) of whole layers: what coarse layers have to
        tell alone they learn to tell, where fine layers would tell it more cheaply.
        It is the first images that have fewer: the order of a batch is random already,
        and what is computed for these alone is then computed of no others. Shares are
        rounded to whole images.
        """
        left = np.full(num_images, len(self.code_shape))
        for number, share in self.dropped:
            left[: round(share * num_images)] = number
        return left

    def _infer(
        self,
        images: Float[Array, "B H W C"],
        keys: Key[Array, " L"] | None,
        num_samples: int,
        layers_left: Int[np.ndarray, " B"] | None = None,
    ) -> tuple[list[DiagonalGaussian], Codes, tuple[Array, ...]]:
        """Goes down once, and takes each layer's code from its posterior.

        Args:
          images: images in [0, 1].
          keys: random key of each layer's noise; None for the mode of each posterior.
          num_samples: S.
          layers_left: number of layers that tell of each image, see `__call__`.

        Returns:
          The layers' posteriors and codes, [B*S,h,w,d] each, and the decoder's maps.
        """
        # Images are the outermost axis of the rows: over devices images are cut.
        features = [
            jnp.repeat(feature, num_samples, axis=0) for feature in self.encoder(images)
        ]
        departures, posteriors, codes = self.encoder.departures(), [], []
        left = None
        if layers_left is not None:
            left = np.repeat(layers_left, num_samples)[:, None, None, None]

        def code_of(number: int, x: Array) -> Array:
            place, departure = departures[number]
            posterior = departure(x, features[place])
            code = (
                posterior.mean if keys is None else posterior.sample(keys[number], 1)[0]
            )
            if left is not None:
                # As the prior a posterior costs nothing, and its mode tells nothing.
                told = number < left
                posterior, code = jax.tree.map(
                    lambda a: jnp.where(told, a, 0.0), (posterior, code)
                )
            posteriors.append(posterior)
            codes.append(code)
            return code

        maps = self.decoder(images.shape[0] * num_samples, code_of)
        return posteriors, tuple(codes), maps

    def encode(
        self,
        images: Float[Array, "B H W C"],
        labels: Labels = None,
        key: Key[Array, ""] | None = None,
    ) -> Codes:
        """Returns the mode of each posterior given those above, or samples by `key`."""
        keys = None if key is None else self._keys(key)
        return self._infer(images, keys, 1)[1]

    def _keys(self, key: Key[Array, ""]) -> Key[Array, " L"]:
        layers_key = jax.random.fold_in(key, Draw.LAYERS)
        return jax.random.split(layers_key, len(self.code_shape))

    def decode(self, code: Codes, labels: Labels = None) -> Any:
        """Returns p(x|z) of the codes of all layers."""

        def decoder(rows: Codes) -> tuple[Array, ...]:
            return self.decoder(rows[0].shape[0], lambda number, _: rows[number])

        return self.likelihood(decode_rows(decoder, code, rank=3))

    @property
    def prior(self) -> DiagonalGaussian:
        """N(0, I) over the numbers in a code."""
        zeros = jnp.zeros(code_size(self.code_shape))
        return DiagonalGaussian(zeros, zeros)

    def prior_of(self, labels: Labels = None) -> DiagonalGaussian:
        """Returns the prior, see `contract.Prior`."""
        return self.prior

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        key: Key[Array, ""],
        labels: Labels = None,
        num_samples: int = 1,
        layers_left: Int[np.ndarray, " B"] | None = None,
    ) -> Terms:
        """Returns the terms of the objective.

        Args:
          images: images in [0, 1].
          key: random key of the posteriors' samples.
          labels: labels of the images, which the model does not know.
          num_samples: S, stacks of codes for each image.
          layers_left: number of layers that tell of each image; the others have the
            prior's mode as their code. None for all layers.
        """
        posteriors, codes, maps = self._infer(
            images, self._keys(key), num_samples, layers_left
        )

        def by_sample(rows: Array) -> Array:
            """Turns rows [B*S,...] into [S,B,...]."""
            return jnp.moveaxis(
                rows.reshape(len(images), num_samples, *rows.shape[1:]), 1, 0
            )

        px = self.likelihood(tuple(map(by_sample, maps)))
        layers = []
        p = DiagonalGaussian(jnp.zeros(1), jnp.zeros(1))
        for posterior, code in zip(posteriors, codes, strict=True):
            q = jax.tree.map(flatten, posterior)
            kl = by_sample(jnp.sum(p.kl_from(q), axis=-1))
            layers.append(
                Layer(
                    # It differs from sample to sample, below the first layer.
                    posterior=None,
                    kl=jnp.mean(kl, axis=0)[:, None],
                    log_ratio=by_sample(p.log_ratio(q, flatten(code))),
                )
            )
        return Terms(
            mean=px.mean,
            code=jax.tree.map(by_sample, codes),
            log_px=px.log_prob(images),
            log_mass=px.log_mass(images),
            px=px,
            layers=tuple(layers),
        )


def _shares(spec: str) -> dict[int, float]:
    """Returns what model.drop_layers says, nothing where it is empty."""
    return parse_by_resolution(spec, float) if spec else {}


def _are_shares(spec: str) -> bool:
    """Says whether `_shares` takes a text, and its shares rise, all from 0 to 1."""
    try:
        found = _shares(spec)
    except ValueError:
        return False
    rising = [0.0, *(found[at] for at in sorted(found)), 1.0]
    # NaN is below nothing.
    return all(a < b for a, b in itertools.pairwise(rising))


def _build(
    frame: Frame, networks: Networks, likelihood: str, drop_layers: str
) -> HierarchicalVAE:
    px = make(LIKELIHOODS, likelihood, frame.settings, frame.image_shape[-1])
    assert networks.make_decoder is not None
    resolutions = [shape[0] for shape in networks.code_shape]
    return HierarchicalVAE(
        networks.make_encoder(),
        networks.make_decoder(num_maps=px.num_maps),
        px,
        networks.code_shape,
        tuple(
            (resolutions.index(at), share)
            for at, share in sorted(_shares(drop_layers).items(), reverse=True)
        ),
    )


def _check(values: Values) -> Refusal | None:
    if values["model.network"] != "ladder":
        return "model.network", "with model.name hierarchical it must be ladder"
    if values["objective.name"] == "tc":
        return "objective.name", "tc is of the numbers in one layer of a code"
    if values["model.drop_layers"] and values["objective.name"] == "mmd":
        reason = "mmd would compare the zeros of dropped layers with the prior"
        return "model.drop_layers", reason
    finer = [*ladder.parse(values["model.layers"])][1:]
    if not {*_shares(values["model.drop_layers"])} <= {*finer}:
        allowed = ", ".join(map(str, finer)) or "none, for there is one alone"
        return (
            "model.drop_layers",
            f"its resolutions are some of model.layers but the coarsest: {allowed}",
        )
    batch_size = values["train.batch_size"]
    shares = sorted(_shares(values["model.drop_layers"]).values())
    numbers = [0, *(round(share * batch_size) for share in shares), batch_size]
    if shares and not all(a < b for a, b in itertools.pairwise(numbers)):
        told = ", ".join(map(str, numbers[1:-1]))
        return (
            "model.drop_layers",
            f"of a train.batch_size of {batch_size} that is {told} images; allowed are "
            f"numbers that rise from 1 to {batch_size - 1}",
        )
    return None


HIERARCHICAL = Option(
    _build,
    {
        "likelihood": LIKELIHOOD,
        "drop_layers": text(
            "",
            "Shares of each batch that a ladder encodes without its layers from a "
            "resolution on, so that coarse layers hold more.",
            "empty, or numbers above 0 and below 1 by resolution, 8:0.25,16:0.4 say, "
            "the finer the larger",
            _are_shares,
        ),
    },
    check=_check,
    terms="likelihoods",
)
