"""The variational autoencoder of Kingma & Welling (2013), with labels or without."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from vae_jax.models.layers import decode_rows
from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.models.terms import Latent, Terms


class VAE(nnx.Module):
    """q(z|x,y) from an encoder, p(x|z,y) from a decoder and a likelihood, and p(z|y).

    With labels y this is the conditional VAE of Sohn et al. (2015). Labels are 1, -1,
    or 0 for unknown (models/labels.py); wherever they are None all are unknown.

    Args:
      encoder: images [B,H,W,C] and labels [B,A] to [B,2D], the posterior's means and
        log-variances.
      decoder: codes and labels [N,D+A] to `likelihood.num_maps` maps of the image's
        shape.
      likelihood: maps to a distribution over images.
      prior: see models/priors.py.
      num_labels: A.
    """

    def __init__(
        self,
        encoder: Any,
        decoder: Any,
        likelihood: Any,
        prior: Any,
        num_labels: int = 0,
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.prior = prior
        self.num_labels = num_labels

    def _labels(self, labels: Array | None, *batch: int) -> Array:
        if labels is None:
            return jnp.zeros((*batch, self.num_labels))
        return jnp.broadcast_to(labels, (*batch, self.num_labels))

    def encode(
        self,
        images: Float[Array, "B H W C"],
        labels: Float[Array, "*labelled A"] | None = None,
    ) -> DiagonalGaussian:
        """Returns q(z|x,y) for each image, parameters [B,D]."""
        features = self.encoder(images, self._labels(labels, len(images)))
        mean, logvar = jnp.split(features, 2, axis=-1)
        return DiagonalGaussian(mean, logvar)

    def decode(
        self,
        z: Float[Array, "*batch D"],
        labels: Float[Array, "*labelled A"] | None = None,
    ) -> Any:
        """Returns p(x|z,y) for each code."""
        known = self._labels(labels, *z.shape[:-1])
        codes = jnp.concatenate([z, known], axis=-1)
        return self.likelihood(decode_rows(self.decoder, codes))

    def prior_of(self, labels: Float[Array, "*labelled A"] | None = None) -> Any:
        """Returns p(z|y), with `sample(key, num_samples)` and `log_prob(z)`."""
        batch = () if labels is None else labels.shape[:-1]
        return self.prior(self.encode, self._labels(labels, *batch))

    def reconstruct(
        self,
        images: Float[Array, "B H W C"],
        labels: Float[Array, "*labelled A"] | None = None,
    ) -> Float[Array, "B H W C"]:
        """Returns the mean of p(x|z,y) at the posterior's mean of each image."""
        return self.decode(self.encode(images, labels).mean, labels).mean

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        key: Key[Array, ""],
        labels: Float[Array, "*labelled A"] | None = None,
        num_samples: int = 1,
    ) -> Terms:
        """Returns the terms of the objective.

        Args:
          images: in [0, 1].
          key: of the posterior's samples.
          labels: of the images.
          num_samples: S, the samples of z for each image.
        """
        posterior = self.encode(images, labels)
        prior = self.prior_of(labels)
        z = posterior.sample(key, num_samples)
        px = self.decode(z, labels)
        analytic = isinstance(prior, DiagonalGaussian)
        latent = Latent(
            z=z,
            posterior=posterior,
            log_qz=posterior.log_prob(z),
            log_pz=prior.log_prob(z),
            kl=posterior.kl(prior) if analytic else None,
        )
        # What an objective does not read costs nothing in a compiled step. [B,D], or
        # [B,B,D] where each image has a prior of its own.
        prior_z = prior.sample(jax.random.fold_in(key, 1), len(images))
        return Terms(
            mean=px.mean,
            log_px=px.log_prob(images),
            log_mass=px.log_mass(images),
            layers=(latent,),
            aux={"prior_z": prior_z},
        )
