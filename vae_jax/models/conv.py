"""Convolutional encoder and decoder: residual blocks between 1/4 of the size and 4x4.

Patches of 4x4 pixels become channels first, so that all blocks work at low resolution
with many channels: there a CPU multiplies several times faster than at full resolution
with few. No layer keeps statistics of batches.
"""

import functools
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Float

PATCH = 4
# The stages halve the resolution while it is above this; what is left is flattened.
COARSEST = 7
NORMS = ("none", "group")
UPSAMPLINGS = ("subpixel", "resize")


def resolutions(size: int) -> list[int]:
    """Returns the resolution of each stage, from the finest: 64 pixels give 16, 8, 4.

    Raises:
      ValueError: images of this size cannot be halved down to `COARSEST`.
    """
    found, remainder = divmod(size, PATCH)
    stages = [found]
    while found > COARSEST and found % 2 == 0:
        found //= 2
        stages.append(found)
    if remainder or found > COARSEST or found < 2:
        raise ValueError(
            f"{size} is not 2 to {COARSEST} times {PATCH} times a power of two"
        )
    return stages


def _widths(width: int, num_stages: int) -> list[int]:
    """Channels by stage, finest first: doubled from stage to stage, up to 4 times."""
    return [width * min(2**stage, 4) for stage in range(num_stages)]


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


def _convolve(x, kernel, *, stride):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _multiply_patches(x, kernel, *, stride):
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
    return patches @ kernel.reshape(-1, kernel.shape[-1])


class Conv3x3(nnx.Module):
    """A 3x3 convolution that keeps the resolution, or halves it at stride 2.

    Args:
      channels: of the input.
      features: channels of the output.
      stride: 1 or 2.
      dtype: of the product.
      rngs: of the LeCun-normal kernel; the bias starts at zero.
    """

    def __init__(
        self,
        channels: int,
        features: int,
        stride: int = 1,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        initializer = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(initializer(rngs.params(), (3, 3, channels, features)))
        self.bias = nnx.Param(jnp.zeros(features))
        self.stride = stride
        self.dtype = dtype

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        """Returns the convolved maps."""
        # XLA's convolutions on a CPU run on one slow path inside a loop, such as the
        # scan over updates is: some 30 times slower than this product.
        product = jax.lax.platform_dependent(
            x.astype(self.dtype),
            self.kernel[...].astype(self.dtype),
            cpu=functools.partial(_multiply_patches, stride=self.stride),
            default=functools.partial(_convolve, stride=self.stride),
        )
        return product + self.bias[...].astype(self.dtype)


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


class Block(nnx.Module):
    """A pre-activation bottleneck block (He et al. 2016): 1x1, 3x3, 1x1, and a sum.

    The last layer starts at zero: a new block is the identity, and so a stack of them
    needs no normalisation to train.
    """

    def __init__(self, channels: int, norm: str, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        inner = channels // 2
        self.norm = norm_layer(norm, channels, dtype, rngs)
        self.narrow = nnx.Linear(channels, inner, dtype=dtype, rngs=rngs)
        self.spatial = Conv3x3(inner, inner, dtype=dtype, rngs=rngs)
        self.widen = nnx.Linear(
            inner,
            channels,
            kernel_init=nnx.initializers.zeros,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Returns x and what the block adds to it."""
        y = nnx.silu(self.narrow(nnx.silu(self.norm(x))))
        return x + self.widen(nnx.silu(self.spatial(y)))


def _run(blocks: Iterable[Block], x: Array, remat: bool) -> Array:
    """Applies blocks in turn; with `remat` the backward pass computes them again."""
    for block in blocks:
        x = jax.checkpoint(lambda b, x: b(x))(block, x) if remat else block(x)
    return x


def feature_head(
    channels: int, features: int, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Linear:
    """Returns an encoder's last layer, whose sums are float32 in every precision."""
    return nnx.Linear(
        channels,
        features,
        dtype=dtype,
        preferred_element_type=jnp.float32,
        rngs=rngs,
    )


class Encoder(nnx.Module):
    """Images, and labels where there are any, to `features` numbers in float32.

    Args:
      image_shape: (height, width, channels); square, see `resolutions`.
      features: of the output.
      width: channels of the finest stage; they double with each up to four times.
      depth: residual blocks in a stage.
      norm: one of `NORMS`.
      remat: keep only each block's input for the backward pass.
      condition_dim: numbers in the labels; 0 for none.
      dtype: of the activations.
      rngs: of the initial parameters.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        features: int,
        *,
        width: int,
        depth: int,
        norm: str,
        remat: bool,
        condition_dim: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        sizes = resolutions(image_shape[0])
        widths = _widths(width, len(sizes))
        self.remat = remat
        self.stem = Conv3x3(
            PATCH**2 * image_shape[2], widths[0], dtype=dtype, rngs=rngs
        )
        self.condition = (
            nnx.Linear(condition_dim, widths[0], dtype=dtype, rngs=rngs)
            if condition_dim
            else None
        )
        self.stages = nnx.List(
            nnx.List(Block(w, norm, dtype=dtype, rngs=rngs) for _ in range(depth))
            for w in widths
        )
        self.downsamplings = nnx.List(
            nnx.Linear(4 * fine, coarse, dtype=dtype, rngs=rngs)
            for fine, coarse in zip(widths[:-1], widths[1:], strict=True)
        )
        self.head = feature_head(sizes[-1] ** 2 * widths[-1], features, dtype, rngs)

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Float[Array, "B A"] | None = None,
    ) -> Float[Array, "B F"]:
        """Returns the features of each image."""
        x = self.stem(space_to_depth(images, PATCH))
        if self.condition is not None:
            assert labels is not None
            x = x + self.condition(labels)[:, None, None]
        x = _run(self.stages[0], x, self.remat)
        for downsampling, blocks in zip(
            self.downsamplings, self.stages[1:], strict=True
        ):
            x = _run(blocks, downsampling(space_to_depth(x, 2)), self.remat)
        return self.head(nnx.silu(x).reshape(len(x), -1)).astype(jnp.float32)


class _Upsampling(nnx.Module):
    """Twice the resolution: sub-pixel (Shi et al. 2016), or resized bilinearly."""

    def __init__(
        self, channels: int, features: int, kind: str, *, dtype: jnp.dtype, rngs
    ):
        self.subpixel = kind == "subpixel"
        self.mix = nnx.Linear(
            channels, features * (4 if self.subpixel else 1), dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B H W C"]:
        x = self.mix(x)
        return depth_to_space(x, 2) if self.subpixel else _resize(x, 2)


def _resize(x: Array, factor: int) -> Array:
    batch, height, width, channels = x.shape
    shape = (batch, factor * height, factor * width, channels)
    return jax.image.resize(x, shape, "bilinear")


class Decoder(nnx.Module):
    """Codes to `num_maps` maps of the image's shape, in float32.

    Args:
      latent_dim: numbers in a code, its labels included where there are any.
      image_shape: (height, width, channels); square, see `resolutions`.
      num_maps: one for each parameter of the likelihood.
      width: channels of the finest stage; they double with each up to four times.
      depth: residual blocks in a stage.
      norm: one of `NORMS`.
      upsampling: one of `UPSAMPLINGS`; neither overlaps unevenly, which is where the
        checkerboards of transposed convolutions come from (Odena et al. 2016).
        "resize" ends in a convolution at full resolution, smoother and slower.
      remat: keep only each block's input for the backward pass.
      dtype: of the activations.
      rngs: of the initial parameters.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape: tuple[int, int, int],
        num_maps: int,
        *,
        width: int,
        depth: int,
        norm: str,
        upsampling: str,
        remat: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        sizes = resolutions(image_shape[0])[::-1]
        widths = _widths(width, len(sizes))[::-1]
        self.coarsest = (sizes[0], sizes[0], widths[0])
        self.num_maps = num_maps
        self.subpixel = upsampling == "subpixel"
        self.remat = remat
        self.project = nnx.Linear(
            latent_dim, sizes[0] ** 2 * widths[0], dtype=dtype, rngs=rngs
        )
        self.stages = nnx.List(
            nnx.List(Block(w, norm, dtype=dtype, rngs=rngs) for _ in range(depth))
            for w in widths
        )
        self.upsamplings = nnx.List(
            _Upsampling(coarse, fine, upsampling, dtype=dtype, rngs=rngs)
            for coarse, fine in zip(widths[:-1], widths[1:], strict=True)
        )
        channels = num_maps * image_shape[2]
        self.head = Conv3x3(
            widths[-1],
            channels * PATCH**2 if self.subpixel else channels,
            dtype=jnp.dtype("float32"),
            rngs=rngs,
        )

    def __call__(
        self, z: Float[Array, "*batch D"]
    ) -> tuple[Float[Array, "*batch H W C"], ...]:
        """Returns the unbounded parameter maps of each code."""
        flat = z.reshape(-1, z.shape[-1])
        x = _run(
            self.stages[0],
            self.project(flat).reshape(-1, *self.coarsest),
            self.remat,
        )
        for upsampling, blocks in zip(self.upsamplings, self.stages[1:], strict=True):
            x = _run(blocks, upsampling(x), self.remat)
        x = nnx.silu(x)
        if self.subpixel:
            x = depth_to_space(self.head(x), PATCH)
        else:
            x = self.head(_resize(x, PATCH))
        x = x.reshape(*z.shape[:-1], *x.shape[1:])
        return tuple(jnp.split(x, self.num_maps, axis=-1))
