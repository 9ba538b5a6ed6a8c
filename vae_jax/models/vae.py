"""The variational autoencoder of Kingma & Welling (2013)."""

from typing import Any

from flax import nnx
from jaxtyping import Array, Float, Key

from vae_jax.models.posteriors import DiagonalGaussian
from vae_jax.models.terms import Latent, Terms


class VAE(nnx.Module):
    """q(z|x) from an encoder, p(x|z) from a decoder and a likelihood, and a prior p(z).

    Args:
      encoder: images [B,H,W,C] to [B,2D], the posterior's means and log-variances.
      decoder: codes [...,D] to `likelihood.num_maps` maps of the image's shape.
      likelihood: maps to a distribution over images.
      prior: p(z), with `sample`, `log_prob` and `kl`.
    """

    def __init__(self, encoder: Any, decoder: Any, likelihood: Any, prior: Any):
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.prior = prior

    def encode(self, images: Float[Array, "B H W C"]) -> DiagonalGaussian:
        """Returns q(z|x) for each image, parameters [B,D]."""
        features = self.encoder(images)
        latent_dim = features.shape[-1] // 2
        return DiagonalGaussian(features[:, :latent_dim], features[:, latent_dim:])

    def decode(self, z: Float[Array, "*batch D"]) -> Any:
        """Returns p(x|z) for each code."""
        return self.likelihood(self.decoder(z))

    def reconstruct(self, images: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Returns the mean of p(x|z) at the posterior's mean of each image."""
        return self.decode(self.encode(images).mean).mean

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        key: Key[Array, ""],
        num_samples: int = 1,
    ) -> Terms:
        """Returns the terms of the objective.

        Args:
          images: in [0, 1].
          key: of the posterior's samples.
          num_samples: S, the samples of z for each image.
        """
        posterior = self.encode(images)
        z = posterior.sample(key, num_samples)
        px = self.decode(z)
        latent = Latent(
            z=z,
            posterior=posterior,
            log_qz=posterior.log_prob(z),
            log_pz=self.prior.log_prob(z),
            kl=self.prior.kl(posterior),
        )
        return Terms(
            mean=px.mean,
            log_px=px.log_prob(images),
            # Costs nothing in a compiled step that does not read it.
            log_mass=px.log_mass(images),
            layers=(latent,),
        )
