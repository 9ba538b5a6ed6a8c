"""A 3x3 convolution with a quarter of the multiplications, by Winograd's algorithm.

Squares of 4x4 outputs come from squares of 6x6 inputs (Lavin & Gray 2016). Both, and
the kernel, are products with small constant matrices: polynomials of degree 2 and 3 are
multiplied at six points each way, where the product is one multiplication a point.
"""

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

# Outputs and inputs along a side of a square.
OUT, IN = 4, 6
# Infinity is the sixth. Among symmetric points these round least: the error is 3
# times that of a sum of products, where that of 0, 1, -1, 2, -2 is 6 times.
POINTS = (0.0, 0.65, -0.65, 1.5, -1.5)
# With fewer channels, squares cost more than the multiplications that they save.
LEAST_CHANNELS = 16


def _matrices() -> tuple[np.ndarray, ...]:
    """Returns the matrices of inputs [36,36], kernel [36,9] and outputs [16,36].

    The rows of the first two have norm 1; the last pays it back.
    """

    def powers(count: int) -> np.ndarray:
        finite = np.vander(POINTS, count, increasing=True)
        return np.vstack([finite, np.eye(count)[-1]])

    inputs, kernel, outputs = np.linalg.inv(powers(IN)).T, powers(3), powers(OUT)
    for rows in (inputs, kernel):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        rows /= norms
        outputs *= norms
    both_ways = (np.kron(a, a) for a in (inputs, kernel, outputs.T))
    return tuple(a.astype(np.float32) for a in both_ways)


INPUTS, KERNEL, OUTPUTS = _matrices()


def fits(x: Float[Array, "B H W C"]) -> bool:
    """Says whether maps are whole squares of float32, of enough channels.

    bfloat16 would lose too much, and few channels are faster as a sum of products. The
    gradient by the maps has as many channels as the output, and is not asked about.
    """
    _, height, width, channels = x.shape
    whole = height % OUT == 0 and width % OUT == 0
    return x.dtype == jnp.float32 and whole and channels >= LEAST_CHANNELS


def _spread(x: Array) -> Float[Array, "36 T C"]:
    """Returns the inputs' part of each product: of the T overlapping squares."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width, channels = x.shape[1:]
    squares = jnp.stack(
        [
            padded[:, i : i + height - 3 : OUT, j : j + width - 3 : OUT]
            for i in range(IN)
            for j in range(IN)
        ]
    )
    spread = jnp.matmul(INPUTS, squares.reshape(IN**2, -1))
    return spread.reshape(IN**2, -1, channels)


def _multiply(spread: Array, kernel: Array, shape: tuple[int, ...]) -> Array:
    features = kernel.shape[-1]
    at_points = jnp.matmul(KERNEL, kernel.reshape(9, -1))
    products = spread @ at_points.reshape(IN**2, -1, features)
    batch, height, width, _ = shape
    return rearrange(
        jnp.matmul(OUTPUTS, products.reshape(IN**2, -1)),
        "(i j) (b h w f) -> b (h i) (w j) f",
        i=OUT,
        j=OUT,
        b=batch,
        h=height // OUT,
        w=width // OUT,
    )


@jax.custom_vjp
def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C F"]
) -> Float[Array, "B H W F"]:
    """Returns the convolution with zeros outside, at stride 1.

    Its gradient is written out, because that by the input is such a convolution again,
    where automatic differentiation would add up overlapping squares.

    Args:
      x: maps that `fits` takes.
      kernel: kernel as `jax.lax.conv_general_dilated` takes it, "HWIO".
    """
    return _multiply(_spread(x), kernel, x.shape)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    spread = _spread(x)
    return _multiply(spread, kernel, x.shape), (spread, kernel)


def _backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    spread, kernel = kept
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    rows = rearrange(gradient, "b (h i) (w j) f -> (i j) (b h w f)", i=OUT, j=OUT)
    products = jnp.matmul(OUTPUTS.T, rows).reshape(IN**2, -1, gradient.shape[-1])
    # XLA on a CPU multiplies a transposed copy faster than what it must read across.
    across = jax.lax.optimization_barrier(spread.swapaxes(1, 2))
    at_points = across @ products
    by_kernel = jnp.matmul(KERNEL.T, at_points.reshape(IN**2, -1))
    return convolve(gradient, turned), by_kernel.reshape(kernel.shape)


convolve.defvjp(_forward, _backward)
