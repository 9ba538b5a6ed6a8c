"""The stages of convolutional networks: what is at each resolution, and how wide."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.networks.layers import (
    LECUN_NORMAL,
    ZEROS,
    Conv3x3,
    depth_to_space,
    mix_channels,
    norm_layer,
    resize,
)
from vae_jax.options import Refusal, Setting, Values

PATCH = 4
# The stages halve the resolution while it is above this; what is left is flattened.
COARSEST = 7
# Where `width` is counted, see `stage_widths`.
WIDTHS_FROM = ("auto", "coarsest", "finest")
UPSAMPLINGS = ("subpixel", "resize")
# What a block's middle layer is; on maps that are too small it sees no neighbours.
Spatial: TypeAlias = type[Conv3x3] | type[nnx.Linear]


def resolutions(size: int, code_size: int | None = None) -> list[int]:
    """Returns the resolution of each stage, from the finest: 64 pixels give 16, 8, 4.

    Args:
      size: side of the images in pixels.
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
    size: int,
    width: int,
    width_from: str,
    code_size: int | None = None,
    patch: int = PATCH,
) -> dict[int, int]:
    """Returns the channels of each stage by its resolution, finest first.

    Args:
      size: side of the images in pixels.
      width: channels of the narrowest stage of `PATCH`.
      width_from: "coarsest", which "auto" is: the coarsest stage of these images has
        four times as many, and each finer one half of the one below, so that a network
        of larger images contains that of smaller ones. "finest": the channels double
        from the finest stage on, up to four times.
      code_size: see `resolutions`.
      patch: pixels on the side of a patch of the finest stage, `PATCH` or half of it,
        which adds a stage, and lets the narrowest have half as many channels.
    """
    sizes = resolutions(size)
    first = 0 if width_from == "finest" else 3 - len(sizes)
    lowest = 0 if patch == PATCH else -1
    named = [*([size // patch] if patch < PATCH else []), *sizes]
    widths = {
        at: int(width * 2.0 ** min(max(first + place, lowest), 2))
        for place, at in enumerate(named, start=lowest)
    }
    coarsest = resolutions(size, code_size)[-1]
    return {at: widths[at] for at in named if at >= coarsest}


def width_from_of_format_1(size: int) -> str:
    """Returns how a run of the first format counted the widths for images of a size."""
    coarsest, finest = (stage_widths(size, 1, at) for at in ("coarsest", "finest"))
    return "auto" if coarsest == finest else "finest"


def moved_since_format_1(size: int) -> list[tuple[str, str]]:
    """Returns where layers were in checkpoints of the first format, and are now.

    Stages were numbered then, from the finest of the encoder and the coarsest of the
    decoder.

    Args:
      size: side of the images in pixels.

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

    Args:
      channels: channels of the maps, twice those that the middle layer has.
      norm: one of `NORMS`.
      spatial: kind of the middle layer.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
    """

    def __init__(
        self,
        channels: int,
        norm: str,
        spatial: Spatial = Conv3x3,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        inner = channels // 2
        self.norm = norm_layer(norm, channels, dtype, rngs)
        self.narrow = nnx.Linear(channels, inner, dtype=dtype, rngs=rngs)
        self.spatial = spatial(inner, inner, dtype=dtype, rngs=rngs)
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
      entry: the layer that leads from the stage before, or from the image; None where
        there is neither.
      blocks: residual blocks at this resolution.
      exit: the layer that leads to the image, or to a code of this resolution; or None.
      joining: the layer that leads from a code or an image of this resolution, added to
        what enters; or None.
    """

    def __init__(
        self,
        entry: Any,
        blocks: Iterable[nnx.Module],
        exit: Any = None,
        joining: Any = None,
    ):
        self.entry = entry
        self.blocks = nnx.List(blocks)
        self.exit = exit
        self.joining = joining


class Upsampling(nnx.Module):
    """Twice the resolution: sub-pixel (Shi et al. 2016), or resized bilinearly."""

    def __init__(
        self, channels: int, features: int, kind: str, *, dtype: jnp.dtype, rngs
    ):
        self.subpixel = kind == "subpixel"
        self.mix = nnx.Linear(
            channels, features * (4 if self.subpixel else 1), dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "B h w c"]) -> Float[Array, "B H W C"]:
        """Returns maps of twice the height and width."""
        x = mix_channels(self.mix, x)
        return depth_to_space(x, 2) if self.subpixel else resize(x, 2)


def painters(
    channels: Sequence[int],
    outputs: int,
    patch: int,
    upsampling: str,
    rngs: nnx.Rngs,
) -> list[Conv3x3]:
    """Returns a head for each stage that paints, see `paint`; only the first one does.

    The others begin at zero, and so by adding nothing.

    Args:
      channels: channels of these stages, the coarsest first.
      outputs: channels of the image.
      patch: see `paint`.
      upsampling: see `paint`.
      rngs: random numbers of the parameters.
    """
    outputs = outputs * patch**2 if upsampling == "subpixel" else outputs
    return [
        Conv3x3(
            width,
            outputs,
            kernel_init=ZEROS if place else LECUN_NORMAL,
            dtype=jnp.dtype("float32"),
            rngs=rngs,
        )
        for place, width in enumerate(channels)
    ]


def paint(
    images: Float[Array, "B half_H half_W F"] | None,
    head: Conv3x3,
    x: Float[Array, "B h w c"],
    patch: int,
    upsampling: str,
) -> Float[Array, "B H W F"]:
    """Returns images with what a stage adds to them: a patch of pixels for each place.

    Args:
      images: images that the stages before have painted, half as large; None for none.
      head: the stage's exit, to the channels of a pixel, or those of all of a patch
        where upsampling is sub-pixel.
      x: the stage's maps.
      patch: pixels on the side of a patch.
      upsampling: one of `UPSAMPLINGS`.
    """
    x = nnx.silu(x)
    if upsampling == "subpixel":
        added = depth_to_space(head(x), patch)
    else:
        added = head(resize(x, patch))
    return added if images is None else resize(images, 2) + added


def run_blocks(blocks: Iterable[Any], x: Array, remat: bool, *style: Array) -> Array:
    """Applies blocks in turn; with `remat` the backward pass computes them again.

    Blocks that take a style are given it as well.
    """

    def run(block: Any, x: Array, *style: Array) -> Array:
        return block(x, *style)

    run = jax.checkpoint(run) if remat else run
    for block in blocks:
        x = run(block, x, *style)
    return x


def by_resolution(sizes: Iterable[int], stages: Iterable[Any]) -> Any:
    """Names stages by their resolution: "r4", "r8" and so on."""
    return nnx.Dict({f"r{at}": stage for at, stage in zip(sizes, stages, strict=True)})


def coarsest_first(stages: Any) -> list[Any]:
    """Returns stages in order, the coarsest first."""
    return [stages[name] for name in sorted(stages, key=lambda name: int(name[1:]))]


def check_size(values: Values) -> Refusal | None:
    """Refuses images that the stages cannot halve."""
    try:
        resolutions(values["dataset.size"])
    except ValueError as error:
        return "dataset.size", f"with model.network {values['model.network']}, {error}"
    return None


def width_setting(meaning: str) -> Setting:
    """Declares `model.width`, which networks count in their own ways."""
    return Setting(
        64,
        meaning,
        "an even number of at least 2",
        lambda value: isinstance(value, int) and value >= 2 and value % 2 == 0,
    )
