"""How far the pictures of a model are from real ones, by their features."""

import numpy as np
from jaxtyping import Float
from sklearn.metrics import euclidean_distances
from sklearn.neighbors import NearestNeighbors

# Rows of a matrix of distances that are in memory at once.
CHUNK = 1_000


def _centre(x: Float[np.ndarray, "N F"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean m [F] and a factor R of the covariance, R^T R [F,F]."""
    if len(x) < 2:
        raise ValueError(f"a covariance takes at least 2 feature vectors, got {len(x)}")
    x = x.astype(np.float64)
    mean = np.mean(x, axis=0)
    return mean, np.linalg.qr((x - mean) / np.sqrt(len(x) - 1)).R


def frechet_distance(a: Float[np.ndarray, "N F"], b: Float[np.ndarray, "M F"]) -> float:
    """Returns the squared Fréchet distance of Gaussians fitted to two sets of features.

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), Heusel et al. (2017), equation 6,
    in squared units of the features. S are the unbiased covariances, which may lack
    rank: N and M may be less than F.

    Only with the features of Inception is it called FID, and is no FID otherwise. It
    depends on the features and on the sizes of the samples, of which small ones are
    too far apart: compare figures of equal N and M only.

    Raises:
      ValueError: if a set has fewer than two vectors.
    """
    mean_a, root_a = _centre(a)
    mean_b, root_b = _centre(b)
    # The eigenvalues of S_a S_b = A'A B'B are the squares of the singular values of
    # AB', which sum to the trace of the root. A root of S itself would turn rounding
    # errors of 1e-16 in its zero eigenvalues into 1e-8.
    overlap = np.sum(np.linalg.svd(root_a @ root_b.T, compute_uv=False))
    spread = np.sum(np.square(root_a)) + np.sum(np.square(root_b))
    distance = np.sum(np.square(mean_a - mean_b)) + spread - 2 * overlap
    # It is a square; equal sets differ by rounding only, to either side.
    return max(0.0, float(distance))


def _radii(x: Float[np.ndarray, "N F"], k: int) -> Float[np.ndarray, " N"]:
    """Returns each vector's distance to the k-th nearest of the others."""
    if not 1 <= k < len(x):
        raise ValueError(f"k = {k} of {len(x)} feature vectors: 1 to {len(x) - 1}")
    distances, _ = NearestNeighbors(n_neighbors=k).fit(x).kneighbors()
    return distances[:, -1]


def _share_inside(
    x: Float[np.ndarray, "N F"],
    centres: Float[np.ndarray, "M F"],
    radii: Float[np.ndarray, " M"],
) -> float:
    """Returns the share of x that lies in one of the balls, their surface included."""
    inside = [
        np.any(euclidean_distances(x[first : first + CHUNK], centres) <= radii, axis=1)
        for first in range(0, len(x), CHUNK)
    ]
    return float(np.mean(np.concatenate(inside)))


def precision_recall(
    real: Float[np.ndarray, "N F"], generated: Float[np.ndarray, "M F"], k: int = 3
) -> tuple[float, float]:
    """Returns improved precision and recall, Kynkäänniemi et al. (2019), section 2.

    A set's manifold is the union of balls about its vectors, each as large as the
    distance to the k-th nearest of the others (equation 1). Precision is the share of
    generated vectors on the real manifold, how many look real; recall the share of
    real ones on the generated manifold, how many could have been generated. Both
    depend on the features, N, M and k.

    Args:
      real: features of real pictures.
      generated: features of generated ones.
      k: neighbours; 3 in the paper.

    Raises:
      ValueError: if a set has no more than k vectors.
    """
    real, generated = real.astype(np.float64), generated.astype(np.float64)
    precision = _share_inside(generated, real, _radii(real, k))
    recall = _share_inside(real, generated, _radii(generated, k))
    return precision, recall


def likeness(
    real: Float[np.ndarray, "N F"], generated: Float[np.ndarray, "M F"]
) -> dict[str, float]:
    """Compares generated pictures with real ones by a classifier's features.

    Returns:
      `judge_frechet`, that of `frechet_distance`, which in these features is no FID,
      and `precision` and `recall`. All depend on N and M: compare at the same.
    """
    precision, recall = precision_recall(real, generated)
    return {
        "judge_frechet": frechet_distance(real, generated),
        "precision": precision,
        "recall": recall,
    }
