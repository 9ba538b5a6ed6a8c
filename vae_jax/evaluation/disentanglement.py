"""Whether a code's dimensions stand for the factors that pictures were made from.

Three measures from codes and the known factors of the same pictures, all between 0 and
1, higher is better. They disagree by design: the mutual information gap and
completeness blame a factor that is spread over dimensions, disentanglement a dimension
that mixes factors. A factor with a single value, or all in one bin, has no entropy and
is left out of all.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Real
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import mutual_info_score

Codes = Float[np.ndarray, "N D"]
Factors = Real[np.ndarray, "N K"] | Bool[np.ndarray, "N K"]

# As disentanglement_lib has it (Locatello et al. 2019).
NUM_BINS = 20
# Trees in each forest of `dci`: a second or so for 20 values and 100 dimensions.
NUM_TREES = 20
# No leaf with less of the training pictures than this. A deeper tree spends its splits
# on noise, which a hundred useless dimensions offer plenty of.
SMALLEST_LEAF = 0.01


def _labels(values: np.ndarray) -> Int[np.ndarray, " N"]:
    """Numbers the values of a factor; floats with many go into bins of equal mass."""
    distinct, labels = np.unique(values, return_inverse=True)
    if np.issubdtype(values.dtype, np.floating) and len(distinct) > NUM_BINS:
        edges = np.quantile(values, np.arange(1, NUM_BINS) / NUM_BINS)
        # Where many values are equal some bins are empty, or all but one.
        labels = np.unique(np.digitize(values, edges), return_inverse=True)[1]
    return labels


def _labels_of_factors(factors: Factors) -> list[Int[np.ndarray, " N"]]:
    """Returns the labels of every factor that varies, 0, 1 and so on."""
    labels = [column for column in map(_labels, factors.T) if column.max() > 0]
    if not labels:
        raise ValueError(
            f"all {factors.shape[1]} factors have a single value; one must vary"
        )
    return labels


def _bins(values: np.ndarray) -> Int[np.ndarray, " N"]:
    """Puts a dimension of the codes into bins of equal width."""
    edges = np.histogram_bin_edges(values, NUM_BINS)
    return np.digitize(values, edges[1:-1])


def mutual_information_gap(codes: Codes, factors: Factors) -> float:
    """Returns the mutual information gap, Chen et al. (2018), section 4.

    The mean over factors of (I_1 - I_2) / H: the mutual informations with the two
    dimensions of the code that tell most of the factor, over its entropy. By counting,
    with codes in 20 bins of equal width: about bins x values / 2N nats too high, each.
    A dimension that tells of two factors costs nothing.

    Args:
      codes: a code for each picture; of a single dimension, I_2 is 0.
      factors: factors of the same pictures. Floats with more than 20 values go into 20
        bins of equal mass.

    Raises:
      ValueError: if no factor varies.
    """
    binned = [_bins(column) for column in codes.astype(np.float64).T]
    gaps = []
    for labels in _labels_of_factors(factors):
        information = [mutual_info_score(labels, column) for column in binned]
        second, first = np.sort([0.0, *information])[-2:]
        gaps.append((first - second) / mutual_info_score(labels, labels))
    return float(np.mean(gaps))


def _concentration(importance: Float[np.ndarray, "M n"]) -> Float[np.ndarray, " M"]:
    """Returns 1 - entropy / log n of each row; 0 for a row of zeros, 1 if n is 1."""
    num_columns = importance.shape[1]
    if num_columns == 1:
        return np.ones(len(importance))
    # No importance at all is as good as evenly spread.
    share = np.where(np.any(importance > 0, axis=1, keepdims=True), importance, 1)
    share = share / np.sum(share, axis=1, keepdims=True)
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1)), axis=1)
    return 1 - entropy / np.log(num_columns)


def dci(codes: Codes, factors: Factors, seed: int) -> dict[str, float]:
    """Returns what Eastwood & Williams (2018), section 2, ask of a representation.

    Random forests predict each factor from the codes. Their importances R [D,K] (the
    decrease of Gini impurity, of sum 1 for each factor) give

    - `disentanglement`: 1 - H_K(R_d) of each dimension's shares, which is 1 where it
      serves one factor only, averaged with weights sum_k R_dk;
    - `completeness`: 1 - H_D(R_k) of each factor's shares, 1 where one dimension serves
      it, averaged. H_K and H_D are entropies to the base K and D;
    - `informativeness`: the accuracy on a fifth of the pictures that the forests have
      not seen, averaged over factors. The paper has the error. A guess of the
      commonest value is right as often as that value occurs.

    A factor of which the codes tell nothing spreads its importance over all
    dimensions: so both scores fall to about 0 then, and not quite.

    With 100 dimensions and 2,500 pictures a forest takes a second or two.

    Args:
      codes: a code for each picture.
      factors: factors of the same pictures. Floats with more than 20 values go into 20
        bins of equal mass.
      seed: seed of the split and the forests.

    Raises:
      ValueError: if no factor varies.
    """
    order = np.random.default_rng(seed).permutation(len(codes))
    test, train = np.split(order, [len(codes) // 5])
    importances, accuracies = [], []
    for labels in _labels_of_factors(factors):
        # All dimensions compete at every split: by default a tree has to do with some,
        # and then a dimension that tells nothing gains importance.
        forest = RandomForestClassifier(NUM_TREES, random_state=seed).set_params(
            n_jobs=-1, max_features=None, min_samples_leaf=SMALLEST_LEAF
        )
        forest.fit(codes[train], labels[train])
        importances.append(forest.feature_importances_)
        accuracies.append(forest.score(codes[test], labels[test]))
    importance = np.stack(importances, axis=1)
    weights = np.sum(importance, axis=1)
    disentanglement = np.sum(weights * _concentration(importance))
    return {
        # The weights are all zero only if no forest found a split.
        "disentanglement": float(disentanglement / max(np.sum(weights), 1e-12)),
        "completeness": float(np.mean(_concentration(importance.T))),
        "informativeness": float(np.mean(accuracies)),
    }


def factor_vae_score(
    codes: Codes,
    factors: Factors,
    seed: int,
    *,
    batch_size: int = 64,
    num_train: int = 10_000,
    num_test: int = 5_000,
    min_std: float = 0.05,
) -> float:
    """Returns the score of Kim & Mnih (2018), section 4.

    A vote: of a random factor k, one value (as often as it occurs) and a batch of
    pictures that have it; the dimension d of the code whose variance in the batch is
    least, as a fraction of its variance over all pictures. The classifier that guesses
    for each d the k it was most often voted with is right in this fraction of other
    votes. Chance is 1/K. The defaults are disentanglement_lib's (Locatello et al.
    2019).

    The pictures are given, so a batch is drawn from those there are: all of them where
    a value has no more than `batch_size`, and such a batch comes again among the votes
    that test. A value that a single picture has is not used.

    Args:
      codes: a code for each picture; of a VAE the posterior's mean.
      factors: factors of the same pictures. Floats with more than 20 values go into 20
        bins of equal mass.
      seed: seed of the votes.
      batch_size: pictures in a vote, at most.
      num_train: votes that the classifier is made from.
      num_test: votes that it is tested on.
      min_std: dimensions with a smaller standard deviation are left out, in the units
        of the codes. If all are, nothing is left to go by and the score is chance.

    Raises:
      ValueError: if no factor varies, or none has a value that two pictures share.
    """
    codes = codes.astype(np.float64)
    std = np.std(codes, axis=0)
    # The standard deviation of equal numbers need not round to 0.
    varies = (np.ptp(codes, axis=0) > 0) & (std >= min_std)
    codes = codes[:, varies] / std[varies]
    # The labels of each factor, and the pictures that share theirs with another.
    pairs = [
        (labels, np.flatnonzero(np.bincount(labels)[labels] > 1))
        for labels in _labels_of_factors(factors)
    ]
    pairs = [(labels, sharing) for labels, sharing in pairs if len(sharing)]
    if not pairs:
        raise ValueError("no two pictures share a factor's value; two must")
    if not codes.shape[1]:
        return 1 / len(pairs)
    rng = np.random.default_rng(seed)

    def count_votes(num_votes: int) -> Int[np.ndarray, "d K"]:
        votes = np.zeros((codes.shape[1], len(pairs)), np.int64)
        for factor in rng.integers(len(pairs), size=num_votes):
            labels, sharing = pairs[factor]
            rows = np.flatnonzero(labels == labels[rng.choice(sharing)])
            if len(rows) > batch_size:
                rows = rng.choice(rows, batch_size, replace=False, shuffle=False)
            votes[np.argmin(np.var(codes[rows], axis=0)), factor] += 1
        return votes

    guess = np.argmax(count_votes(num_train), axis=1)
    votes = count_votes(num_test)
    return float(np.sum(votes[np.arange(len(guess)), guess]) / num_test)
