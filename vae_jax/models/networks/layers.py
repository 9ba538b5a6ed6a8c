"""Layers that several networks share; none keeps statistics of batches."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange, reduce
from flax import nnx

# Not as `jax.image.resize`: where that stands jax2onnx puts another, which takes no
# symbolic number of images.
from jax.image import resize as resize_image
from jaxtyping import Array, Float

from vae_jax.models.networks import winograd

NORMS = ("none", "group")
LECUN_NORMAL = nnx.initializers.lecun_normal()
ZEROS = nnx.initializers.zeros


@dataclass(frozen=True)
class Frame:
    """What networks and models are built around.

    Attributes:
      settings: the section `config.model`.
      image_shape: (height, width, channels).
      latent_dim: numbers in a code, or at each place of a spatial one.
      num_labels: labels of an image; 0 for a model without.
      has_dial: whether the decoder reads one more number, how sharp the image is to be.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters: LeCun-normal weights, zero biases,
        float32.
    """

    settings: Any
    image_shape: tuple[int, int, int]
    latent_dim: int
    num_labels: int
    has_dial: bool
    dtype: jnp.dtype
    rngs: nnx.Rngs


class Networks(NamedTuple):
    """An encoder and a decoder that go together.

    Attributes:
      code_shape: shape of the code that they exchange, (D,), (h, w, D), or a tuple of
        such.
      make_encoder: function from the number of features, `features`, and of labels,
        `condition_dim`, to the encoder, with features at each place of a spatial code.
      make_decoder: function from the number of maps, `num_maps`, and of what the
        decoder reads at each place beside the code, `condition_dim`, to the decoder;
        None where there is none.
      code_resolutions: resolution whose styles each number of a vector sets; none where
        each number reaches all.
    """

    code_shape: tuple[Any, ...]
    make_encoder: Callable[..., Any]
    make_decoder: Callable[..., Any] | None
    code_resolutions: tuple[int, ...] = ()


def space_to_depth(
    x: Float[Array, "*batch H W C"], factor: int
) -> Float[Array, "*batch h w c"]:
    """Turns squares of factor x factor pixels into channels."""
    return rearrange(x, "... (h i) (w j) c -> ... h w (i j c)", i=factor, j=factor)


def depth_to_space(
    x: Float[Array, "*batch h w c"], factor: int
) -> Float[Array, "*batch H W C"]:
    """Turns channels into squares of factor x factor pixels (Shi et al. 2016)."""
    return rearrange(x, "... h w (i j c) -> ... (h i) (w j) c", i=factor, j=factor)


def halve(images: Float[Array, "*batch H W C"]) -> Float[Array, "*batch h w C"]:
    """Returns images of half the height and width: means of 2x2 pixels."""
    return reduce(images, "... (h i) (w j) c -> ... h w c", "mean", i=2, j=2)


def resize(x: Float[Array, "B h w C"], factor: int) -> Float[Array, "B H W C"]:
    """Returns maps of `factor` times the height and width, bilinearly."""
    batch, height, width, channels = x.shape
    shape = (batch, factor * height, factor * width, channels)
    return resize_image(x, shape, "bilinear")


def _convolve(x, kernel, stride):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _multiply_patches(x, kernel, stride):
    """The same as `_convolve`, as one matrix product."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = jnp.concatenate(
        [
            padded[:, i : i + height : stride, j : j + width : stride]
            for i in range(3)
            for j in range(3)
        ],
        axis=-1,
    )
    rows = patches.reshape(-1, patches.shape[-1])
    features = kernel.shape[-1]
    return (rows @ kernel.reshape(-1, features)).reshape(*patches.shape[:3], features)


def _multiply(x, kernel, stride):
    if stride == 1 and winograd.fits(x):
        return winograd.convolve(x, kernel)
    return _multiply_patches(x, kernel, stride)


# XLA's own convolution is fast on a CPU, but not its gradients: in a loop, such as the
# scan over updates, they are some 30 times slower than these.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_on_cpu(x, kernel, stride):
    return _convolve(x, kernel, stride)


_convolve_on_cpu.defvjp(
    lambda x, kernel, stride: jax.vjp(
        functools.partial(_multiply, stride=stride), x, kernel
    ),
    lambda stride, pull_back, gradient: pull_back(gradient),
)


class Conv3x3(nnx.Module):
    """A 3x3 convolution that keeps the resolution, or halves it at stride 2.

    Args:
      channels: channels of the input.
      features: channels of the output.
      stride: 1 or 2.
      kernel_init: initialiser of the kernel; the bias starts at zero.
      dtype: type of the product.
      rngs: random numbers of the kernel.
    """

    def __init__(
        self,
        channels: int,
        features: int,
        stride: int = 1,
        *,
        kernel_init: Any = LECUN_NORMAL,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (3, 3, channels, features)))
        self.bias = nnx.Param(jnp.zeros(features))
        self.stride = stride
        self.dtype = dtype
        # Not in exported programs: ONNX has no platforms, and none needs gradients.
        self.by_platform = True

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        """Returns the convolved maps."""
        return self.convolve(x) + self.bias[...].astype(self.dtype)

    def convolve(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        """Returns the convolved maps without the bias."""
        x, kernel = x.astype(self.dtype), self.kernel[...].astype(self.dtype)
        if not self.by_platform:
            return _convolve(x, kernel, self.stride)
        return jax.lax.platform_dependent(
            x,
            kernel,
            cpu=lambda x, kernel: _convolve_on_cpu(x, kernel, self.stride),
            default=lambda x, kernel: _convolve(x, kernel, self.stride),
        )


def mix_channels(
    linear: nnx.Linear, x: Float[Array, "*places C"]
) -> Float[Array, "*places F"]:
    """Applies a linear layer at each place, as one matrix product.

    With more axes, XLA on a CPU copies the transposed gradient first.
    """
    return linear(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def norm_layer(
    kind: str, channels: int, dtype: jnp.dtype, rngs: nnx.Rngs
) -> Callable[[Array], Array]:
    """Returns what goes before a block, by its name in `NORMS`."""
    if kind == "none":
        # Not a new lambda: models of the same settings share compiled programs.
        return jax.nn.identity
    # Groups of 16 channels (Wu & He 2018), or of more where 16 does not divide them.
    num_groups = math.gcd(channels, max(1, channels // 16))
    return nnx.GroupNorm(channels, num_groups=num_groups, dtype=dtype, rngs=rngs)


def head_layer(
    channels: int, features: int, dtype: jnp.dtype, rngs: nnx.Rngs, **others: Any
) -> nnx.Linear:
    """Returns a linear layer whose output is float32 in every precision.

    It has further arguments of `nnx.Linear`, such as `kernel_init`.
    """
    return nnx.Linear(
        channels,
        features,
        dtype=dtype,
        preferred_element_type=jnp.float32,
        rngs=rngs,
        **others,
    )


def decode_rows(
    decoder: Callable[[Any], tuple[Array, ...]], codes: Any, rank: int
) -> tuple[Float[Array, "*batch H W C"], ...]:
    """Decodes codes of any leading axes as the rows [N,...] that a network takes.

    The last of these axes, of images, is the rows' outermost one: over devices images
    are cut, and so are rows then; merged the other way, each would decode them all.

    Args:
      decoder: decoder of rows.
      codes: the codes: an array, or several with the same leading axes.
      rank: number of the axes of an array, the last ones, that are one code's.
    """
    first = jax.tree.leaves(codes)[0]
    batch = first.shape[: first.ndim - rank]
    *others, images = batch or (1,)

    def to_rows(code: Array) -> Array:
        own = code.shape[code.ndim - rank :]
        rows = code.reshape(*others, images, *own)
        return jnp.moveaxis(rows, len(others), 0).reshape(-1, *own)

    def restore(maps: Array) -> Array:
        shape = maps.shape[1:]
        outermost = maps.reshape(images, *others, *shape)
        return jnp.moveaxis(outermost, 0, len(others)).reshape(*batch, *shape)

    return tuple(restore(maps) for maps in decoder(jax.tree.map(to_rows, codes)))
