"""Convolutional encoder and decoder: residual blocks between 1/4 of the size and 4x4.

Patches of 4x4 pixels become channels first, so that all blocks work at low resolution
with many channels: there a CPU multiplies several times faster than at full resolution
with few.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.networks.layers import (
    NORMS,
    Conv3x3,
    Frame,
    Networks,
    depth_to_space,
    head_layer,
    mix_channels,
    space_to_depth,
)
from vae_jax.models.networks.stages import (
    PATCH,
    WIDTHS_FROM,
    Block,
    Stage,
    by_resolution,
    check_size,
    coarsest_first,
    resolutions,
    run_blocks,
    stage_widths,
    width_setting,
)
from vae_jax.options import (
    Option,
    Refusal,
    Setting,
    Values,
    choice,
    optional,
    switch,
    whole,
)

UPSAMPLINGS = ("subpixel", "resize")


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
      fine_code_size: a resolution above it whose places have features, too, or None.
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
        fine_code_size: int | None = None,
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
        exits = [
            head_layer(w, features, dtype, rngs) if at == fine_code_size else None
            for at, w in widths.items()
        ]
        self.stages = by_resolution(
            widths, map(Stage, [stem, *downsamplings], blocks, exits)
        )
        places = 1 if self.is_spatial else min(widths) ** 2
        self.head = head_layer(places * channels[-1], features, dtype, rngs)

    def __call__(
        self,
        images: Float[Array, "B H W C"],
        labels: Float[Array, "B A"] | None = None,
    ) -> Any:
        """Returns the features of each image, or of each of its places.

        [B,F] or [B,h,w,F], float32; with `fine_code_size` both maps, the coarse one
        first.
        """
        finest, *coarser = coarsest_first(self.stages)[::-1]
        x = finest.entry(space_to_depth(images, PATCH))
        if self.condition is not None:
            assert labels is not None
            x = x + self.condition(labels)[:, None, None]
        x = run_blocks(finest.blocks, x, self.remat)
        maps = [_features(finest, x)]
        for stage in coarser:
            x = mix_channels(stage.entry, space_to_depth(x, 2))
            x = run_blocks(stage.blocks, x, self.remat)
            maps.append(_features(stage, x))
        x = nnx.silu(x)
        if not self.is_spatial:
            return self.head(x.reshape(len(x), -1)).astype(jnp.float32)
        coarse = mix_channels(self.head, x).astype(jnp.float32)
        fine = [each for each in maps if each is not None]
        return (coarse, *fine) if fine else coarse


def _features(stage: Stage, x: Float[Array, "B h w c"]) -> Array | None:
    """Returns the features that a stage of the encoder has of its own, or None."""
    if stage.exit is None:
        return None
    return mix_channels(stage.exit, nnx.silu(x)).astype(jnp.float32)


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
        return depth_to_space(x, 2) if self.subpixel else _resize(x, 2)


def _resize(x: Array, factor: int) -> Array:
    batch, height, width, channels = x.shape
    shape = (batch, factor * height, factor * width, channels)
    return jax.image.resize(x, shape, "bilinear")


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
      dtype: of the activations.
      rngs: of the initial parameters.
      code_size: the resolution of the code, whose places have `latent_dim` numbers
        each; None for a vector.
      fine_code_size: the resolution of a second map of codes, which joins the stage
        there; or None.
      condition_dim: numbers that follow those of the code, at each of its places.
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
    ):
        self.is_spatial = code_size is not None
        self.num_maps = num_maps
        self.subpixel = upsampling == "subpixel"
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
        features = num_maps * image_shape[2]
        head = Conv3x3(
            channels[-1],
            features * patch**2 if self.subpixel else features,
            dtype=jnp.dtype("float32"),
            rngs=rngs,
        )
        exits = [*[None] * len(upsamplings), head]
        sizes = [*widths][::-1]
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
        stages = coarsest_first(self.stages)
        for stage in stages:
            x = x if stage.entry is None else stage.entry(x)
            if stage.joining is not None:
                assert fine is not None
                x = x + mix_channels(stage.joining, fine)
            x = run_blocks(stage.blocks, x, self.remat)
        x, head = nnx.silu(x), stages[-1].exit
        if self.subpixel:
            x = depth_to_space(head(x), self.patch)
        else:
            x = head(_resize(x, self.patch))
        return tuple(jnp.split(x, self.num_maps, axis=-1))


def _networks(
    frame: Frame,
    width: int,
    width_from: str,
    code_size: int | None,
    depth: int,
    norm: str,
    upsampling: str,
    remat: bool,
    decoder_patch: int,
) -> Networks:
    size = frame.image_shape[0]
    common = {
        "code_size": code_size,
        "depth": depth,
        "norm": norm,
        "remat": remat,
        "dtype": frame.dtype,
        "rngs": frame.rngs,
    }
    places = () if code_size is None else (code_size, code_size)
    return Networks(
        (*places, frame.latent_dim),
        functools.partial(
            Encoder,
            frame.image_shape,
            widths=stage_widths(size, width, width_from, code_size),
            **common,
        ),
        functools.partial(
            Decoder,
            frame.latent_dim,
            frame.image_shape,
            widths=stage_widths(size, width, width_from, code_size, decoder_patch),
            upsampling=upsampling,
            patch=decoder_patch,
            **common,
        ),
    )


def _check(values: Values) -> Refusal | None:
    refused = check_size(values)
    if refused is None:
        try:
            resolutions(values["dataset.size"], values["model.code_size"])
        except ValueError as error:
            return "model.code_size", str(error)
    if values["model.decoder_patch"] < PATCH and values["model.width"] < 4:
        return "model.width", "with model.decoder_patch 2 it must be at least 4"
    return refused


CONV = Option(
    _networks,
    {
        "width": width_setting(
            "A quarter of the channels of conv's coarsest stage; no stage has fewer, "
            "but for that of decoder_patch."
        ),
        "width_from": choice(
            "auto",
            "Stage at which conv's widths are counted: the coarsest has four times the "
            "width, and each finer one half of the one below, down to the width; or "
            "the finest has the width, and each coarser one twice, up to four times. "
            "At 64 pixels both are the same; auto is the coarsest, or what a run of an "
            "earlier version has.",
            WIDTHS_FROM,
        ),
        "code_size": optional(
            int,
            whole(
                4,
                "Height and width of a spatial code, with latent_dim numbers at each "
                "place; None for a vector.",
                low=2,
            ),
        ),
        "depth": whole(1, "Residual blocks at each resolution.", low=0),
        "norm": choice("none", "Normalisation before each block.", NORMS),
        "upsampling": choice(
            "subpixel", "Way to twice the resolution in the decoder.", UPSAMPLINGS
        ),
        "decoder_patch": Setting(
            PATCH,
            "Pixels on the side of the patches that conv's decoder makes: 4, or 2, "
            "which adds a stage of half the width at twice the resolution.",
            "4 or 2",
            lambda value: value in (PATCH, PATCH // 2),
        ),
        "remat": switch(
            False, "Blocks are computed again for the gradient, which saves memory."
        ),
    },
    check=_check,
)
