"""Gradients of vectors where a decoder is given what stands for them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Vectors = Float[Array, "*places d"]


def straight_through(vectors: Vectors, chosen: Vectors) -> Vectors:
    """Returns `chosen`, with the gradient of `vectors` (van den Oord et al. 2017)."""
    # The other order would round: vectors + (chosen - vectors) is not chosen.
    return chosen + (vectors - jax.lax.stop_gradient(vectors))


def rotation(vectors: Vectors, chosen: Vectors) -> Vectors:
    """Returns `chosen`, with the gradient turned and stretched as the vectors are.

    The rotation trick of Fifty et al. (2024), equation 4: the linear map that turns a
    vector into the direction of the chosen one and gives it its length is held fixed.
    """
    tiny = 1e-12
    lengths = [
        jnp.linalg.norm(v, axis=-1, keepdims=True) + tiny for v in (vectors, chosen)
    ]
    source, target = vectors / lengths[0], chosen / lengths[1]
    middle = source + target
    middle = middle / (jnp.linalg.norm(middle, axis=-1, keepdims=True) + tiny)
    source, target, middle, stretch = jax.lax.stop_gradient(
        (source, target, middle, lengths[1] / lengths[0])
    )

    def along(axis: Vectors) -> Array:
        return jnp.sum(vectors * axis, axis=-1, keepdims=True)

    turned = vectors - 2 * along(middle) * middle + 2 * along(source) * target
    moved = stretch * turned
    # Nothing but rounding lies between the two.
    return jax.lax.stop_gradient(chosen - moved) + moved


GRADIENTS: dict[str, Callable[[Vectors, Vectors], Vectors]] = {
    "straight": straight_through,
    "rotation": rotation,
}
