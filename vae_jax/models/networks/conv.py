"""Convolutional encoder and decoder: residual blocks between 1/4 of the size and 4x4.

Patches of 4x4 pixels become channels first, so that all blocks work at low resolution
with many channels: there a CPU multiplies several times faster than at full resolution
with few.
"""

import functools
import itertools
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.networks.conv_decoder import CONV_DECODER
from vae_jax.models.networks.layers import (
    LECUN_NORMAL,
    NORMS,
    ZEROS,
    Conv3x3,
    Frame,
    Networks,
    halve,
    head_layer,
    mix_channels,
    space_to_depth,
)
from vae_jax.models.networks.stages import (
    PATCH,
    UPSAMPLINGS,
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
from vae_jax.models.networks.style import STYLE
from vae_jax.options import (
    Option,
    Refusal,
    Setting,
    Values,
    choice,
    make,
    optional,
    switch,
    whole,
)


class Encoder(nnx.Module):
    """Images, and labels where there are any, to `features` numbers in float32.

    Args:
      image_shape: (height, width, channels); square, see `resolutions`.
      features: numbers in the output.
      widths: channels of each stage, see `stage_widths`.
      depth: residual blocks in a stage.
      norm: one of `layers.NORMS`.
      remat: keep only each block's input for the backward pass.
      condition_dim: numbers in the labels; 0 for none.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
      code_size: the resolution where the stages end, each place of which has features
        of its own; None for features of the whole image.
      fine_code_size: a resolution above it whose places have features, too, or None.
      skips: whether each stage sees the image at its own resolution, and what comes
        from finer ones begins at zero. Labels join at the coarsest stage then, which
        is there in smaller networks as well, and at the finest otherwise.
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
        skips: bool = False,
    ):
        self.is_spatial = code_size is not None
        self.remat = remat
        channels = [PATCH**2 * image_shape[2], *widths.values()]
        stem, *stems = [
            Conv3x3(channels[0], width, dtype=dtype, rngs=rngs)
            for width in (channels[1:] if skips else channels[1:2])
        ]
        self.told_at = min(widths) if skips else max(widths)
        self.condition = (
            nnx.Linear(condition_dim, widths[self.told_at], dtype=dtype, rngs=rngs)
            if condition_dim
            else None
        )
        blocks = [
            [Block(w, norm, dtype=dtype, rngs=rngs) for _ in range(depth)]
            for w in widths.values()
        ]
        downsamplings = [
            nnx.Linear(
                4 * fine,
                coarse,
                kernel_init=ZEROS if skips else LECUN_NORMAL,
                dtype=dtype,
                rngs=rngs,
            )
            for fine, coarse in itertools.pairwise(widths.values())
        ]
        exits = [
            head_layer(w, features, dtype, rngs) if at == fine_code_size else None
            for at, w in widths.items()
        ]
        entries = [None if skips else stem, *downsamplings]
        joinings = [stem, *stems] if skips else [None] * len(entries)
        self.stages = by_resolution(
            widths, map(Stage, entries, blocks, exits, joinings)
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
        x: Any = None
        maps = []
        for stage in coarsest_first(self.stages)[::-1]:
            x = _entered(stage, x, images)
            if self.condition is not None and x.shape[1] == self.told_at:
                assert labels is not None
                x = x + self.condition(labels)[:, None, None]
            x = run_blocks(stage.blocks, x, self.remat)
            maps.append(_features(stage, x))
            if stage.joining is not None:
                images = halve(images)
        x = nnx.silu(x)
        if not self.is_spatial:
            return self.head(x.reshape(x.shape[0], -1))
        coarse = mix_channels(self.head, x)
        fine = [each for each in maps if each is not None]
        return (coarse, *fine) if fine else coarse


def _entered(stage: Stage, finer: Array | None, images: Array) -> Array:
    """Returns what enters a stage of the encoder.

    Args:
      stage: the stage that is entered.
      finer: maps that the stage before made; None for the first one.
      images: images at the stage's resolution.
    """
    if finer is None:
        stem = stage.entry if stage.joining is None else stage.joining
        return stem(space_to_depth(images, PATCH))
    x = mix_channels(stage.entry, space_to_depth(finer, 2))
    if stage.joining is not None:
        x = x + stage.joining(space_to_depth(images, PATCH))
    return x


def _features(stage: Stage, x: Float[Array, "B h w c"]) -> Array | None:
    """Returns the features that a stage of the encoder has of its own, or None."""
    if stage.exit is None:
        return None
    return mix_channels(stage.exit, nnx.silu(x))


# Each takes the frame, the arguments of every decoder, and those of one that mirrors
# the encoder; it returns what makes the decoder, and `Networks.code_resolutions`.
DECODERS = {"conv": CONV_DECODER, "style": STYLE}


def _networks(
    frame: Frame,
    width: int,
    width_from: str,
    code_size: int | None,
    depth: int,
    norm: str,
    upsampling: str,
    remat: bool,
    skips: bool,
    decoder: str,
    decoder_patch: int,
) -> Networks:
    widths = functools.partial(
        stage_widths, frame.image_shape[0], width, width_from, code_size
    )
    common = {
        "depth": depth,
        "remat": remat,
        "dtype": frame.dtype,
        "rngs": frame.rngs,
    }
    mirrored = {"code_size": code_size, "norm": norm, "skips": skips}
    of_decoder = {
        "widths": widths(decoder_patch),
        "upsampling": upsampling,
        "patch": decoder_patch,
        **common,
    }
    make_decoder, code_resolutions = make(
        DECODERS, decoder, frame.settings, frame, of_decoder, mirrored
    )
    places = () if code_size is None else (code_size, code_size)
    return Networks(
        (*places, frame.latent_dim),
        functools.partial(
            Encoder, frame.image_shape, widths=widths(), **common, **mirrored
        ),
        make_decoder,
        code_resolutions,
    )


def _check(values: Values) -> Refusal | None:
    refused = check_size(values)
    if refused is not None:
        return refused
    try:
        resolutions(values["dataset.size"], values["model.code_size"])
    except ValueError as error:
        return "model.code_size", str(error)
    if values["model.decoder_patch"] < PATCH and values["model.width"] < 4:
        return "model.width", "with model.decoder_patch 2 it must be at least 4"
    return None


CONV = Option(
    _networks,
    {
        "width": width_setting(
            "A quarter of the channels of conv's coarsest stage; no stage has fewer, "
            "except the one that decoder_patch adds."
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
        "skips": switch(
            False,
            "Each stage of the encoder sees the image at its own resolution, and each "
            "of the decoder adds to one: such a network contains that of smaller "
            "images.",
        ),
        "decoder": choice(
            "conv",
            "Decoder of a convolutional network: one that mirrors the encoder, or one "
            "whose code sets styles.",
            DECODERS,
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
