"""Convolutional encoder and decoder: residual blocks between 1/4 of the size and 4x4.

Patches of 4x4 pixels become channels first, so that all blocks work at low resolution
with many channels: there a CPU multiplies several times faster than at full resolution
with few.
"""

import itertools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.networks.layers import (
    Conv3x3,
    depth_to_space,
    head_layer,
    mix_channels,
    norm_layer,
    space_to_depth,
)

PATCH = 4
# The stages halve the resolution while it is above this; what is left is flattened.
COARSEST = 7
# Where `width` is counted, see `stage_widths`.
WIDTHS_FROM = ("coarsest", "finest")
UPSAMPLINGS = ("subpixel", "resize")


def resolutions(size: int, code_size: int | None = None) -> list[int]:
    """Returns the resolution of each stage, from the finest: 64 pixels give 16, 8, 4.

    Args:
      size: of the images.
      code_size: the resolution of a spatial code, where the stages end.

    Raises:
      ValueError: images of this size cannot be halved down to `COARSEST`, or no stage
        has the code's resolution.
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
    if code_size is None:
        return stages
    if code_size not in stages:
        raise ValueError(
            f"{code_size} is none of the resolutions "
            f"{', '.join(map(str, stages))} of images of {size} pixels"
        )
    return stages[: stages.index(code_size) + 1]


def stage_widths(
    size: int, width: int, width_from: str, code_size: int | None = None
) -> dict[int, int]:
    """Returns the channels of each stage by its resolution, finest first.

    Args:
      size: of the images.
      width: channels of the narrowest stage.
      width_from: "coarsest": the coarsest stage of these images has four times as many,
        and each finer one half of the one below, so that a network of larger images
        contains that of smaller ones. "finest": the channels double from the finest
        stage on, up to four times.
      code_size: see `resolutions`.
    """
    sizes = resolutions(size)
    first = 0 if width_from == "finest" else 3 - len(sizes)
    widths = {
        at: width * 2 ** min(max(first + place, 0), 2) for place, at in enumerate(sizes)
    }
    return {at: widths[at] for at in resolutions(size, code_size)}


def moved_since_format_1(size: int) -> list[tuple[str, str]]:
    """Returns where layers were in checkpoints of the first format, and are now.

    Stages were numbered then, from the finest of the encoder and the coarsest of the
    decoder.

    Args:
      size: of the images.

    Returns:
      Paths from a model's parameters on, ("encoder/stem", "encoder/stages/r16/entry")
      and so on.
    """
    moved = []
    for part, order in (("encoder", 1), ("decoder", -1)):
        names = [f"{part}/stages/r{at}" for at in resolutions(size)[::order]]
        between = "downsamplings" if part == "encoder" else "upsamplings"
        for number, name in enumerate(names):
            moved.append((f"{part}/stages/{number}", f"{name}/blocks"))
            if number:
                moved.append((f"{part}/{between}/{number - 1}", f"{name}/entry"))
        if part == "encoder":
            moved.append(("encoder/stem", f"{names[0]}/entry"))
        else:
            moved.append(("decoder/head", f"{names[-1]}/exit"))
    return moved


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
        y = nnx.silu(mix_channels(self.narrow, nnx.silu(self.norm(x))))
        return x + mix_channels(self.widen, nnx.silu(self.spatial(y)))


class Stage(nnx.Module):
    """The layers of one resolution: what leads to it, residual blocks, what leads out.

    Args:
      entry: from the stage before, or the image; None where the code leads to it.
      blocks: at this resolution.
      exit: to the image; None where there is a stage after it.
    """

    def __init__(self, entry: Any, blocks: Iterable[Block], exit: Any = None):
        self.entry = entry
        self.blocks = nnx.List(blocks)
        self.exit = exit


def _run(blocks: Iterable[Block], x: Array, remat: bool) -> Array:
    """Applies blocks in turn; with `remat` the backward pass computes them again."""
    for block in blocks:
        x = jax.checkpoint(lambda b, x: b(x))(block, x) if remat else block(x)
    return x


def _by_resolution(sizes: Iterable[int], stages: Iterable[Stage]) -> Any:
    """Names stages by their resolution: "r4", "r8" and so on."""
    return nnx.Dict({f"r{at}": stage for at, stage in zip(sizes, stages, strict=True)})


def _by_size(stages: Any) -> list[Stage]:
    """Returns stages in order, the coarsest first."""
    return [stages[name] for name in sorted(stages, key=lambda name: int(name[1:]))]


class Encoder(nnx.Module):
    """Images, and labels where there are any, to `features` numbers in float32.

    Args:
      image_shape: (height, width, channels); square, see `resolutions`.
      features: of the output.
      widths: channels of each stage, see `stage_widths`.
      depth: residual blocks in a stage.
      norm: one of `layers.NORMS`.
      remat: keep only each block's input for the backward pass.
      condition_dim: numbers in the labels; 0 for none.
      dtype: of the activations.
      rngs: of the initial parameters.
      code_size: the resolution where the stages end, each place of which has features
        of its own; None for features of the whole image.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        features: int,
        *,
        widths: dict[int, int],
        depth: int,
        norm: str,
        remat: bool,
        condition_dim: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        code_size: int | None = None,
    ):
        self.is_spatial = code_size is not None
        self.remat = remat
        channels = [PATCH**2 * image_shape[2], *widths.values()]
        stem = Conv3x3(channels[0], channels[1], dtype=dtype, rngs=rngs)
        self.condition = (
            nnx.Linear(condition_dim, channels[1], dtype=dtype, rngs=rngs)
            if condition_dim
            else None
        )
        blocks = [
            [Block(w, norm, dtype=dtype, rngs=rngs) for _ in range(depth)]
            for w in widths.values()
        ]
        downsamplings = [
            nnx.Linear(4 * fine, coarse, dtype=dtype, rngs=rngs)
            for fine, coarse in itertools.pairwise(widths.values())
        ]
        self.stages = _by_resolution(widths, map(Stage, [stem, *downsamplings], blocks))
        places = 1 if self.is_spatial else min(widths) ** 2
        self.head = head_layer(places * channels[-1], features, dtype, rngs)

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Float[Array, "B A"] | None = None,
    ) -> Float[Array, "B *places F"]:
        """Returns the features of each image, or of each of its places."""
        finest, *coarser = _by_size(self.stages)[::-1]
        x = finest.entry(space_to_depth(images, PATCH))
        if self.condition is not None:
            assert labels is not None
            x = x + self.condition(labels)[:, None, None]
        x = _run(finest.blocks, x, self.remat)
        for stage in coarser:
            x = mix_channels(stage.entry, space_to_depth(x, 2))
            x = _run(stage.blocks, x, self.remat)
        x = nnx.silu(x)
        if self.is_spatial:
            return mix_channels(self.head, x).astype(jnp.float32)
        return self.head(x.reshape(len(x), -1)).astype(jnp.float32)


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
        x = mix_channels(self.mix, x)
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
      widths: channels of each stage, see `stage_widths`.
      depth: residual blocks in a stage.
      norm: one of `layers.NORMS`.
      upsampling: one of `UPSAMPLINGS`; neither overlaps unevenly, which is where the
        checkerboards of transposed convolutions come from (Odena et al. 2016).
        "resize" ends in a convolution at full resolution, smoother and slower.
      remat: keep only each block's input for the backward pass.
      dtype: of the activations.
      rngs: of the initial parameters.
      code_size: the resolution of the code, whose places have `latent_dim` numbers
        each; None for a vector.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape: tuple[int, int, int],
        num_maps: int,
        *,
        widths: dict[int, int],
        depth: int,
        norm: str,
        upsampling: str,
        remat: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        code_size: int | None = None,
    ):
        self.is_spatial = code_size is not None
        self.num_maps = num_maps
        self.subpixel = upsampling == "subpixel"
        self.remat = remat
        coarsest, channels = min(widths), [*widths.values()][::-1]
        self.coarsest = (coarsest, coarsest, channels[0])
        places = 1 if self.is_spatial else coarsest**2
        self.project = nnx.Linear(
            latent_dim, places * channels[0], dtype=dtype, rngs=rngs
        )
        blocks = [
            [Block(w, norm, dtype=dtype, rngs=rngs) for _ in range(depth)]
            for w in channels
        ]
        upsamplings = [
            _Upsampling(coarse, fine, upsampling, dtype=dtype, rngs=rngs)
            for coarse, fine in itertools.pairwise(channels)
        ]
        features = num_maps * image_shape[2]
        head = Conv3x3(
            channels[-1],
            features * PATCH**2 if self.subpixel else features,
            dtype=jnp.dtype("float32"),
            rngs=rngs,
        )
        exits = [*[None] * len(upsamplings), head]
        self.stages = _by_resolution(
            [*widths][::-1], map(Stage, [None, *upsamplings], blocks, exits)
        )

    def __call__(
        self, z: Float[Array, "N *places D"]
    ) -> tuple[Float[Array, "N H W C"], ...]:
        """Returns the unbounded parameter maps of each code."""
        if self.is_spatial:
            x = mix_channels(self.project, z)
        else:
            x = self.project(z).reshape(-1, *self.coarsest)
        stages = _by_size(self.stages)
        for stage in stages:
            x = x if stage.entry is None else stage.entry(x)
            x = _run(stage.blocks, x, self.remat)
        x, head = nnx.silu(x), stages[-1].exit
        if self.subpixel:
            x = depth_to_space(head(x), PATCH)
        else:
            x = head(_resize(x, PATCH))
        return tuple(jnp.split(x, self.num_maps, axis=-1))
