"""Quantisers: from a vector at each place of a code to one of K that stand for it.

A quantiser takes vectors [...,d]. It has `num_codes`, `nearest(vectors)`, which of the
K each one stands nearest to, `look_up(indices)`, vectors that stand for themselves,
`quantize(vectors)`, what the decoder is given, with a gradient, and `pull(vectors)`,
what keeps vectors and codes together. Distances are float32 in every precision: others
choose other codes.
"""

import math
from collections.abc import Callable
from typing import Any

from flax import nnx

from vae_jax.models.code_gradients import GRADIENTS
from vae_jax.models.codebooks import AveragedCodebook, Codebook
from vae_jax.models.finite_scalars import FiniteScalars
from vae_jax.options import (
    Option,
    Refusal,
    Values,
    choice,
    share,
    text,
    weight,
    whole,
)


def parse_levels(levels: str) -> tuple[int, ...]:
    """Returns the numbers that levels such as "8,8,8" stand for.

    Raises:
      ValueError: there are none, one is no whole number of at least 3, or their
        product is above `MOST_CODES`.
    """
    found = tuple(map(int, levels.split(",")))
    # With 2 levels all vectors would have the same one at first.
    if min(found) < 3 or math.prod(found) > MOST_CODES:
        raise ValueError(levels)
    return found


# So that an index goes into 16 bits.
MOST_CODES = 65_536


def _are_levels(value: str) -> bool:
    try:
        parse_levels(value)
    except ValueError:
        return False
    return True


def _check_levels(values: Values) -> Refusal | None:
    dims, levels = values["model.latent_dim"], parse_levels(values["model.levels"])
    if dims != len(levels):
        numbers = f"{len(levels)}, as many as model.levels has numbers"
        reason = f"with model.quantizer fsq it must be {numbers}"
        return "model.latent_dim", reason
    return None


_CODEBOOK = {
    "codebook_size": whole(512, "Codes of a codebook.", 2, MOST_CODES),
    "codebook_gradient": choice(
        "straight",
        "Gradient of a vector, where the decoder is given its code: that of the code, "
        "or turned and stretched as the vector is (Fifty et al. 2024).",
        GRADIENTS,
    ),
    "commitment": weight(
        0.25,
        "Weight of the pull of codes on vectors; that of vectors on codes, where these "
        "learn by gradient, is 1.",
    ),
}


def _of(kind: type[Codebook]) -> Callable[..., Codebook]:
    def make(
        dims: int,
        rngs: nnx.Rngs,
        codebook_size: int,
        codebook_gradient: str,
        commitment: float,
        **decay: Any,
    ) -> Codebook:
        chosen = (codebook_size, codebook_gradient, commitment, *decay.values())
        return kind(dims, *chosen, rngs=rngs)

    return make


# What makes a quantiser is given the dimensions of a vector, and the random numbers.
QUANTIZERS = {
    "gradient": Option(_of(Codebook), _CODEBOOK),
    "ema": Option(
        _of(AveragedCodebook),
        {
            **_CODEBOOK,
            "codebook_decay": share(0.99, "Decay of the averages that are the codes."),
        },
    ),
    "fsq": Option(
        lambda dims, rngs, levels: FiniteScalars(parse_levels(levels)),
        {
            "levels": text(
                "8,8,8",
                "Levels of each number of a vector; there are as many codes as their "
                "product.",
                f"whole numbers of at least 3, commas between, of a product of at most "
                f"{MOST_CODES}",
                _are_levels,
            )
        },
        check=_check_levels,
    ),
}
