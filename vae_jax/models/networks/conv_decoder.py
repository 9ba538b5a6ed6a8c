"""A convolutional decoder: from 4x4 up to patches of pixels, the encoder's mirror."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.networks.layers import (
    Frame,
    mix_channels,
)
from vae_jax.models.networks.stages import (
    PATCH,
    Block,
    Stage,
    Upsampling,
    by_resolution,
    coarsest_first,
    paint,
    painters,
    run_blocks,
)
from vae_jax.options import Option


class Decoder(nnx.Module):
    """Codes to `num_maps` maps of the image's shape, in float32.

    Args:
      latent_dim: numbers in a code.
      image_shape: (height, width, channels); square, see `resolutions`.
      num_maps: one for each parameter of the likelihood.
      widths: channels of each stage, see `stage_widths`.
      depth: residual blocks in a stage.
      norm: one of `layers.NORMS`.
      upsampling: one of `UPSAMPLINGS`; neither overlaps unevenly, which is where the
        checkerboards of transposed convolutions come from (Odena et al. 2016).
        "resize" ends in a convolution at full resolution, smoother and slower.
      remat: keep only each block's input for the backward pass.
      patch: pixels on the side of the patches that the finest stage becomes.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
      code_size: the resolution of the code, whose places have `latent_dim` numbers
        each; None for a vector.
      fine_code_size: the resolution of a second map of codes, which joins the stage
        there; or None.
      condition_dim: numbers that follow those of the code, at each of its places.
      skips: whether each stage adds to an image at its own resolution, of which the
        finest is what comes out; all but the coarsest begin by adding nothing.
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
        patch: int = PATCH,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
        code_size: int | None = None,
        fine_code_size: int | None = None,
        condition_dim: int = 0,
        skips: bool = False,
    ):
        self.is_spatial = code_size is not None
        self.num_maps = num_maps
        self.upsampling = upsampling
        self.remat = remat
        self.patch = patch
        coarsest, channels = min(widths), [*widths.values()][::-1]
        self.coarsest = (coarsest, coarsest, channels[0])
        places = 1 if self.is_spatial else coarsest**2
        self.project = nnx.Linear(
            latent_dim + condition_dim, places * channels[0], dtype=dtype, rngs=rngs
        )
        blocks = [
            [Block(w, norm, dtype=dtype, rngs=rngs) for _ in range(depth)]
            for w in channels
        ]
        upsamplings = [
            Upsampling(coarse, fine, upsampling, dtype=dtype, rngs=rngs)
            for coarse, fine in itertools.pairwise(channels)
        ]
        sizes = [*widths][::-1]
        painted = channels if skips else channels[-1:]
        exits = [
            *[None] * (len(channels) - len(painted)),
            *painters(painted, num_maps * image_shape[2], patch, upsampling, rngs),
        ]
        joinings = [
            nnx.Linear(latent_dim, widths[at], dtype=dtype, rngs=rngs)
            if at == fine_code_size
            else None
            for at in sizes
        ]
        self.stages = by_resolution(
            sizes, map(Stage, [None, *upsamplings], blocks, exits, joinings)
        )

    def __call__(
        self,
        z: Float[Array, "N *places D"],
        fine: Float[Array, "N h w d"] | None = None,
    ) -> tuple[Float[Array, "N H W C"], ...]:
        """Returns the unbounded parameter maps of each code, or pair of them."""
        if self.is_spatial:
            x = mix_channels(self.project, z)
        else:
            x = self.project(z).reshape(-1, *self.coarsest)
        images: Any = None
        for stage in coarsest_first(self.stages):
            x = x if stage.entry is None else stage.entry(x)
            if stage.joining is not None:
                assert fine is not None
                x = x + mix_channels(stage.joining, fine)
            x = run_blocks(stage.blocks, x, self.remat)
            if stage.exit is not None:
                images = paint(images, stage.exit, x, self.patch, self.upsampling)
        return tuple(jnp.split(images, self.num_maps, axis=-1))


def _make(
    frame: Frame, arguments: dict[str, Any], mirrored: dict[str, Any]
) -> tuple[Callable[..., Decoder], tuple[int, ...]]:
    shape = (frame.latent_dim, frame.image_shape)
    return functools.partial(Decoder, *shape, **arguments, **mirrored), ()


CONV_DECODER = Option(_make)
