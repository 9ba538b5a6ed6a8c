"""Learned priors over discrete codes: codes/s of training and of sampling."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import limits
from benchmarks.timing import in_turn, rates
from vae_jax.models.code_priors import TransformerPrior
from vae_jax.models.networks.transformer import Maps

# The settings of configs/vq_prior.py.
WIDTH, DEPTH, HEADS, NUM_CODES = 128, 4, 4, 512


def _new_prior(side: int) -> tuple[Any, Any, int]:
    """Returns the structure, parameters and their number of a prior over a map."""
    maps = Maps(((side, side),), NUM_CODES, 0, jnp.dtype("float32"), nnx.Rngs(0))
    graphdef, params = nnx.split(TransformerPrior(maps, WIDTH, DEPTH, HEADS))
    params = nnx.to_pure_dict(params)
    return graphdef, params, sum(each.size for each in jax.tree.leaves(params))


def measure(
    repeats: int, *, num_samples: int = 256, sides: tuple[int, ...] = (8, 16, 32)
) -> list[dict[str, Any]]:
    """Returns the rates of a transformer over maps of codes.

    A sample's codes/s would be the same for all maps, were it not for the attention,
    which sees as many places as there are. Of the gradient `flops`, 6 a parameter and
    code, are beside the rate of a matrix product.

    Args:
      repeats: turns of each.
      num_samples: samples of the smallest map; of a larger one as many as have as many
        codes.
      sides: sides of the maps.
    """
    lines = []
    for side in sides:
        graphdef, params, _ = _new_prior(side)
        number = max(1, num_samples * sides[0] ** 2 // side**2)
        sample = jax.jit(
            lambda params, key, graphdef=graphdef, number=number: nnx.merge(
                graphdef, params
            ).sample(key, number)
        )

        def draw(sample: Any = sample, params: Any = params) -> None:
            jax.block_until_ready(sample(params, jax.random.key(0)))

        lines.append(
            {
                "name": f"discrete codes, samples of {side}x{side}",
                "unit": "codes/s",
                "num_samples": number,
                "rivals": rates(
                    in_turn({"vae_jax": draw}, repeats=repeats), number * side**2
                ),
            }
        )
    graphdef, params, num_parameters = _new_prior(sides[0])
    codes = jax.random.randint(jax.random.key(0), (64, sides[0] ** 2), 0, NUM_CODES)
    gradient = jax.jit(
        jax.grad(
            lambda params: (
                -jnp.sum(nnx.merge(graphdef, params).log_prob_by_place(codes))
            )
        )
    )
    found = rates(
        in_turn(
            {"vae_jax": lambda: jax.block_until_ready(gradient(params))},
            repeats=repeats,
        ),
        codes.size,
    )
    flops = 6 * num_parameters * found["vae_jax"]["median"]
    lines.append(
        {
            "name": "discrete codes, gradient of the prior",
            "unit": "codes/s",
            "parameters": num_parameters,
            "flops": flops,
            "share_of_product": flops / limits.machine()["flops"],
            "batch": math.prod(codes.shape),
            "rivals": found,
        }
    )
    return lines
