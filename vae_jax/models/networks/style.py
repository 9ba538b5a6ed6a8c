"""A decoder whose code sets styles: how strong each channel of each convolution is.

Convolutions are modulated and demodulated, and images are summed over resolutions, as
in StyleGAN2 (Karras et al. 2020), inside an autoencoder as in Pidhorskyi et al. (2020).
Unlike there blocks are residual with one convolution each, images are painted without
styles, the mapping has two layers, and there are no noise inputs: a likelihood is of
what the code says. Scaling what enters a convolution and what leaves it does what a
kernel for each image would do.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.networks.layers import (
    Conv3x3,
    Frame,
    head_layer,
)
from vae_jax.models.networks.stages import (
    PATCH,
    Stage,
    Upsampling,
    by_resolution,
    coarsest_first,
    paint,
    painters,
    resolutions,
    run_blocks,
)
from vae_jax.options import Option, Refusal, Values, choice

STYLES = ("shared", "by_resolution")
# Keeps the mean square of what passes a SiLU, of a normal variable.
_GAIN = 1.6765
# Below a demodulation's sum of squares.
_EPSILON = 1e-8


class Mapping(nnx.Module):
    """The way from numbers to a style vector: two layers."""

    def __init__(self, numbers: int, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(numbers, width, dtype=dtype, rngs=rngs)
        self.style = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, numbers: Float[Array, "N D"]) -> Float[Array, "N W"]:
        """Returns the style vector of each row."""
        hidden = _GAIN * nnx.silu(self.hidden(numbers))
        return _GAIN * nnx.silu(self.style(hidden))


class StyledBlock(nnx.Module):
    """A residual block around one modulated 3x3 convolution.

    Args:
      channels: channels of its input and output.
      width: numbers in the style vector.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
    """

    def __init__(self, channels: int, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.scales = head_layer(
            width, channels, dtype, rngs, bias_init=nnx.initializers.ones
        )
        self.spatial = Conv3x3(channels, channels, dtype=dtype, rngs=rngs)

    def __call__(
        self, x: Float[Array, "N h w C"], style: Float[Array, "N W"]
    ) -> Float[Array, "N h w C"]:
        """Returns x and what the block adds to it, in the style."""
        added = modulated(self.spatial, _GAIN * nnx.silu(x), self.scales(style))
        return (x + added) * jnp.asarray(np.sqrt(0.5), x.dtype)


def modulated(
    convolution: Conv3x3, x: Float[Array, "N h w C"], scales: Float[Array, "N C"]
) -> Float[Array, "N h w F"]:
    """Convolves with kernels whose input channels are scaled, at a norm of 1 an output.

    Karras et al. (2020), equations 1 and 3. The bias is added as it is.

    Args:
      convolution: a convolution of C to F channels.
      x: maps.
      scales: factors on the input channels, for each image; float32.
    """
    # Only their ratios matter; float16 would not hold them at any size.
    scales = scales / (jnp.max(jnp.abs(scales), axis=-1, keepdims=True) + _EPSILON)
    squares = jnp.sum(jnp.square(convolution.kernel[...]), axis=(0, 1))
    norms = jax.lax.rsqrt(jnp.square(scales) @ squares + _EPSILON)
    y = convolution.convolve(x * scales[:, None, None].astype(x.dtype))
    return y * norms[:, None, None].astype(y.dtype) + convolution.bias[...].astype(
        y.dtype
    )


class StyleDecoder(nnx.Module):
    """Codes to `num_maps` maps of the image's shape, in float32, by styles.

    The maps of the coarsest stage are learned, and the code says nothing of places:
    only which channels are strong. Each stage adds to an image of its own resolution,
    and all but the coarsest begin by adding nothing, so that a decoder of smaller
    images is a part of this one.

    Args:
      latent_dim: numbers in a code.
      image_shape: (height, width, channels); square, see `stages.resolutions`.
      num_maps: one for each parameter of the likelihood.
      widths: channels of each stage, see `stages.stage_widths`.
      depth: blocks in a stage.
      upsampling: one of `stages.UPSAMPLINGS`.
      remat: keep only each block's input for the backward pass.
      patch: pixels on the side of the patches that a stage paints.
      code_resolutions: stage whose styles each number in a code sets; none where all
        numbers set the styles of all stages.
      condition_dim: numbers that follow those of the code, and set styles of all.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
    """

    def __init__(
        self,
        latent_dim: int,
        image_shape: tuple[int, int, int],
        num_maps: int,
        *,
        widths: dict[int, int],
        depth: int,
        upsampling: str,
        remat: bool,
        patch: int,
        code_resolutions: tuple[int, ...] = (),
        condition_dim: int = 0,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        common: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.num_maps = num_maps
        self.latent_dim = latent_dim
        self.upsampling = upsampling
        self.remat = remat
        self.patch = patch
        sizes = [*widths][::-1]
        channels = [widths[at] for at in sizes]
        width = channels[0]
        self.numbers_at = {at: code_resolutions.count(at) for at in sizes}
        if code_resolutions:
            self.mapping = by_resolution(
                sizes,
                [
                    Mapping(self.numbers_at[at] + condition_dim, width, **common)
                    for at in sizes
                ],
            )
        else:
            self.mapping = Mapping(latent_dim + condition_dim, width, **common)
        shape = (sizes[0], sizes[0], channels[0])
        self.start = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), shape))
        blocks = [
            [StyledBlock(c, width, **common) for _ in range(depth)] for c in channels
        ]
        entries = [
            None,
            *(
                Upsampling(coarse, fine, upsampling, **common)
                for coarse, fine in itertools.pairwise(channels)
            ),
        ]
        exits = painters(channels, num_maps * image_shape[2], patch, upsampling, rngs)
        self.stages = by_resolution(sizes, map(Stage, entries, blocks, exits))

    def _styles(self, z: Float[Array, "N D"]) -> list[Float[Array, "N W"]]:
        """Returns the style vector of each stage, the coarsest first."""
        if isinstance(self.mapping, Mapping):
            return [self.mapping(z)] * len(self.stages)
        code, known = z[:, : self.latent_dim], z[:, self.latent_dim :]
        ends = np.cumsum([*self.numbers_at.values()])[:-1]
        return [
            mapping(jnp.concatenate([part, known], axis=-1))
            for mapping, part in zip(
                coarsest_first(self.mapping), jnp.split(code, ends, -1), strict=True
            )
        ]

    def __call__(self, z: Float[Array, "N D"]) -> tuple[Float[Array, "N H W C"], ...]:
        """Returns the unbounded parameter maps of each code."""
        styles: list[Array] = self._styles(z)
        images: Any = None
        x = jnp.broadcast_to(self.start[...], (z.shape[0], *self.start.shape))
        x = x.astype(styles[0].dtype)
        for stage, style in zip(coarsest_first(self.stages), styles, strict=True):
            x = x if stage.entry is None else stage.entry(x)
            x = run_blocks(stage.blocks, x, self.remat, style)
            images = paint(images, stage.exit, x, self.patch, self.upsampling)
        return tuple(jnp.split(images, self.num_maps, axis=-1))


def share_out(latent_dim: int, sizes: list[int]) -> tuple[int, ...]:
    """Shares the numbers in a code out to stages; returns that whose styles each sets.

    Equal shares, the coarsest stage first; what is left over goes to the coarse ones.

    Args:
      latent_dim: numbers in a code.
      sizes: resolutions of the stages.
    """
    shares = np.array_split(np.arange(latent_dim), len(sizes))
    return tuple(
        at for at, share in zip(sorted(sizes), shares, strict=True) for _ in share
    )


def _make(
    frame: Frame, arguments: dict[str, Any], mirrored: dict[str, Any], styles: str
) -> tuple[Callable[..., StyleDecoder], tuple[int, ...]]:
    told: tuple[int, ...] = ()
    if styles == "by_resolution":
        told = share_out(frame.latent_dim, [*arguments["widths"]])

    def make_decoder(*, num_maps: int, condition_dim: int = 0) -> StyleDecoder:
        return StyleDecoder(
            frame.latent_dim,
            frame.image_shape,
            num_maps,
            condition_dim=condition_dim,
            code_resolutions=told,
            **arguments,
        )

    return make_decoder, told


def _check(values: Values) -> Refusal | None:
    if values["model.code_size"] is not None:
        reason = "with model.decoder style it is None: the code is a vector"
        return "model.code_size", reason
    if values["model.norm"] != "none":
        return "model.norm", "with model.decoder style it is none: styles normalise"
    if not values["model.depth"]:
        return "model.depth", "with model.decoder style it is at least 1"
    if values["model.styles"] == "by_resolution":
        try:
            num_stages = len(resolutions(values["dataset.size"]))
        except ValueError:
            # The network says what is wrong.
            return None
        num_stages += values["model.decoder_patch"] < PATCH
        if values["model.latent_dim"] < num_stages:
            reason = f"with model.styles by_resolution it is at least {num_stages}, one"
            return "model.latent_dim", f"{reason} for each resolution"
    return None


STYLE = Option(
    _make,
    {
        "styles": choice(
            "shared",
            "Part of the code that sets a style decoder's styles at each resolution: "
            "the whole code, or a part for each.",
            STYLES,
        )
    },
    check=_check,
)
