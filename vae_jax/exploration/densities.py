"""Mixtures of Gaussians that are fitted to codes, to draw new codes from.

The ex-post density of Ghosh et al. (2020), section 4: it gives an autoencoder a way to
sample, and a VAE one that its prior's mismatch does not spoil.
"""

import functools
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Array, Float

# One for all numbers in a code, or one for each.
Temperature: TypeAlias = float | Float[Array | np.ndarray, " D"]

# How far below 0, beside the largest, rounding may bring a variance.
ROUNDED = 1e-4


@dataclass(frozen=True)
class Density:
    """A mixture of K Gaussians over the first F numbers in a code of D.

    Those are all of them, or those of the first layers of a stack, whose others are
    drawn from their prior N(0, I).

    Attributes:
      weights: weight of each Gaussian; their sum is 1.
      means: mean of each.
      covariances: covariance of each.
    """

    weights: Float[np.ndarray, " K"]
    means: Float[np.ndarray, "K F"]
    covariances: Float[np.ndarray, "K F F"]

    @functools.cached_property
    def factors(self) -> Float[np.ndarray, "K F F"]:
        """A factor A of each covariance, A A^T.

        It is Cholesky's. What rounding has left of a covariance may be none, and is
        then taken as the nearest that is one.

        Raises:
          LinAlgError: it is none by more than rounding.
        """
        try:
            return np.linalg.cholesky(self.covariances)
        except np.linalg.LinAlgError:
            values, vectors = np.linalg.eigh(self.covariances)
            if values.min() < -ROUNDED * values.max():
                raise
            return vectors * np.sqrt(np.maximum(values, 0))[:, None]

    def sample(
        self,
        size: int,
        num_samples: int,
        seed: int,
        temperature: Temperature = 1.0,
    ) -> Float[np.ndarray, "N D"]:
        """Returns the numbers in N codes, float32.

        D and the seed decide what is drawn, whatever the temperature and N: a face
        stays the same while its temperature changes, or others are drawn after it.

        Args:
          size: D.
          num_samples: N.
          seed: seed of the codes.
          temperature: below 1 narrows each Gaussian around its mean, and the prior of
            the other numbers around 0.
        """
        # There are two streams, so that more samples begin with those of fewer.
        codes = np.random.default_rng(seed).standard_normal((num_samples, size))
        which = np.random.default_rng([seed, 1]).choice(
            len(self.weights), num_samples, p=self.weights
        )
        number = self.means.shape[-1]
        for component, factor in enumerate(self.factors):
            rows = which == component
            codes[rows, :number] = codes[rows, :number] @ factor.T
        codes *= np.asarray(temperature)
        codes[:, :number] += self.means[which]
        return codes.astype(np.float32)


# The names of its arrays, as files have them.
PARTS = tuple(field.name for field in fields(Density))


def fit_density(
    codes: Float[np.ndarray, "N F"], num_components: int, seed: int
) -> Density:
    """Fits a mixture of Gaussians of full covariances to codes, by scikit-learn.

    Args:
      codes: codes of real images.
      num_components: 1 is a Gaussian with the codes' mean and covariance.
      seed: seed of the initial components.
    """
    # Here, because it takes as long to import as JAX.
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(num_components, random_state=seed)
    # Any, because its types do not know that a fitted one has them.
    found: Any = mixture.fit(codes.astype(np.float64))
    return Density(found.weights_, found.means_, found.covariances_)
