"""Networks of a ladder of latent layers: up from an image, and down through codes.

The ladder of VDVAE (Child 2020), with less in a layer: residual blocks go up and leave
features at each resolution; from a learned constant others come down, and each layer on
the way adds its code to what the blocks carry.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from vae_jax.models.networks.cosines import from_cosines, to_cosines
from vae_jax.models.networks.latent_layers import Departure, LatentLayer
from vae_jax.models.networks.layers import (
    Conv3x3,
    Frame,
    Networks,
    head_layer,
    mix_channels,
    space_to_depth,
)
from vae_jax.models.networks.stages import (
    Block,
    Spatial,
    Upsampling,
    by_resolution,
    coarsest_first,
    run_blocks,
)
from vae_jax.options import (
    Option,
    Refusal,
    Values,
    parse_by_resolution,
    switch,
    text,
    whole,
)


def _spatial(at: int) -> Spatial:
    """Returns the kind of middle layers at a resolution.

    Below 3x3 places most of a 3x3 kernel would lie outside (Child 2020).
    """
    return Conv3x3 if at >= 3 else nnx.Linear


class Rung(nnx.Module):
    """What is at one resolution: an entry or None, and layers or blocks."""

    def __init__(self, entry: Any, **lists: list[Any]):
        self.entry = entry
        for name, layers in lists.items():
            setattr(self, name, nnx.List(layers))


class Encoder(nnx.Module):
    """Images to features at each resolution, and to each layer's posterior.

    Args:
      image_shape: (height, width, channels).
      layers: number of layers at each resolution, the coarsest first.
      widths: channels at each.
      dims: numbers in a code at each place.
      depth: residual blocks at each resolution.
      remat: keep only each block's input for the backward pass.
      dtype: type of the activations.
      rngs: random numbers of the initial parameters.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        layers: dict[int, int],
        widths: dict[int, int],
        dims: int,
        *,
        depth: int,
        remat: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.patch, self.remat = image_shape[0] // max(layers), remat
        channels = [widths[at] for at in layers][::-1]
        pixels = self.patch**2 * image_shape[2]
        entries = [
            nnx.Linear(inputs, features, dtype=dtype, rngs=rngs)
            for inputs, features in zip(
                [pixels, *(4 * c for c in channels[:-1])], channels, strict=True
            )
        ]
        self.stages = by_resolution(
            [*layers][::-1],
            [
                Rung(
                    entry,
                    blocks=[
                        Block(width, "none", _spatial(at), dtype=dtype, rngs=rngs)
                        for _ in range(depth)
                    ],
                    departures=[
                        Departure(width, dims, _spatial(at), dtype=dtype, rngs=rngs)
                        for _ in range(layers[at])
                    ],
                )
                for at, width, entry in zip(
                    [*layers][::-1], channels, entries, strict=True
                )
            ],
        )

    def __call__(self, images: Float[Array, "B H W C"]) -> list[Array]:
        """Returns the features at each resolution, the coarsest first."""
        x, found = to_cosines(images, self.patch), []
        for stage in coarsest_first(self.stages)[::-1]:
            x = space_to_depth(x, 2) if found else x
            x = run_blocks(stage.blocks, mix_channels(stage.entry, x), self.remat)
            found.append(x)
        return found[::-1]

    def departures(self) -> list[tuple[int, Departure]]:
        """Returns each layer's, the first one first, with the place of its features."""
        return [
            (place, departure)
            for place, stage in enumerate(coarsest_first(self.stages))
            for departure in stage.departures
        ]


class Decoder(nnx.Module):
    """A learned constant and a code for each layer to maps of the image's shape.

    Args:
      image_shape: (height, width, channels).
      layers: see `Encoder`, as what is not listed.
      num_maps: one for each parameter of the likelihood.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        layers: dict[int, int],
        widths: dict[int, int],
        dims: int,
        num_maps: int,
        *,
        remat: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.patch, self.remat = image_shape[0] // max(layers), remat
        self.num_maps, self.dtype = num_maps, dtype
        coarsest = min(layers)
        self.constant = nnx.Param(jnp.zeros((coarsest, coarsest, widths[coarsest])))
        channels = [widths[at] for at in layers]
        # Together the codes add as much as one would.
        gain = 1 / math.sqrt(sum(layers.values()))
        upsamplings = [
            Upsampling(coarse, fine, "subpixel", dtype=dtype, rngs=rngs)
            for coarse, fine in itertools.pairwise(channels)
        ]
        self.stages = by_resolution(
            layers,
            [
                Rung(
                    entry,
                    layers=[
                        LatentLayer(
                            width, dims, gain, _spatial(at), dtype=dtype, rngs=rngs
                        )
                        for _ in range(layers[at])
                    ],
                )
                for at, width, entry in zip(
                    layers, channels, [None, *upsamplings], strict=True
                )
            ],
        )
        finest = _spatial(max(layers))
        self.block = Block(channels[-1], "none", finest, dtype=dtype, rngs=rngs)
        features = num_maps * self.patch**2 * image_shape[2]
        self.head = head_layer(channels[-1], features, dtype, rngs)

    def __call__(
        self, rows: Any, code_of: Callable[[int, Array], Float[Array, "B h w d"]]
    ) -> tuple[Float[Array, "B H W C"], ...]:
        """Returns the unbounded parameter maps of `rows` images.

        Args:
          rows: B, a symbol where a program is for any number of images.
          code_of: function from a layer's number and what is above it to its code.
        """
        x = jnp.broadcast_to(self.constant[...], (rows, *self.constant.shape))
        x, number = x.astype(self.dtype), 0
        for stage in coarsest_first(self.stages):
            x = x if stage.entry is None else stage.entry(x)
            for layer in stage.layers:
                x = run_blocks([layer.block], x, self.remat)
                x = layer.join(x, code_of(number, x))
                number += 1
        x = nnx.silu(run_blocks([self.block], x, self.remat))
        maps = from_cosines(mix_channels(self.head, x), self.patch)
        return tuple(jnp.split(maps, self.num_maps, axis=-1))


def parse(spec: str) -> dict[int, int]:
    """Returns what "4:2,8:3" says, {4: 2, 8: 3}, the coarsest resolution first.

    Raises:
      ValueError: see `parse_by_resolution`, or its resolutions do not double.
    """
    found = parse_by_resolution(spec, int)
    doubled = all(2 * a == b for a, b in itertools.pairwise(found))
    if not doubled or min(found) < 1:
        raise ValueError(f"the resolutions of {spec!r} do not double")
    return found


def is_spec(spec: str, least: int, even: bool = False) -> bool:
    """Says whether `parse` takes a text, and no number is below `least`, or odd."""
    try:
        numbers = parse(spec).values()
    except ValueError:
        return False
    return min(numbers) >= least and not (even and any(n % 2 for n in numbers))


def _networks(
    frame: Frame, layers: str, widths: str, depth: int, remat: bool
) -> Networks:
    numbers = parse(layers)
    common = {"remat": remat, "dtype": frame.dtype, "rngs": frame.rngs}
    shared = (frame.image_shape, numbers, parse(widths), frame.latent_dim)
    return Networks(
        tuple(
            (at, at, frame.latent_dim)
            for at, number in numbers.items()
            for _ in range(number)
        ),
        functools.partial(Encoder, *shared, depth=depth, **common),
        functools.partial(Decoder, *shared, **common),
    )


def _check(values: Values) -> Refusal | None:
    if values["model.name"] != "hierarchical":
        return "model.network", "ladder goes with model.name hierarchical"
    layers, size = parse(values["model.layers"]), values["dataset.size"]
    if [*layers] != [*parse(values["model.widths"])]:
        reason = f"the resolutions of model.layers are {', '.join(map(str, layers))}"
        return "model.widths", reason
    if size % max(layers):
        reason = f"images of {size} pixels have no patches at resolution {max(layers)}"
        return "model.layers", reason
    return None


_EXAMPLE = "numbers by resolution, the coarsest first and each twice the one before"
LADDER = Option(
    _networks,
    {
        "layers": text(
            "4:2,8:3,16:4",
            "Latent layers of a ladder at each resolution.",
            f"{_EXAMPLE}, 4:2,8:3,16:4 say",
            lambda spec: is_spec(spec, 1),
        ),
        "widths": text(
            "4:96,8:96,16:64",
            "Channels of a ladder at each resolution.",
            f"{_EXAMPLE}, all of them even, 4:96,8:96,16:64 say",
            lambda spec: is_spec(spec, 2, even=True),
        ),
        "depth": whole(1, "Residual blocks at each resolution.", low=0),
        "remat": switch(
            False, "Blocks are computed again for the gradient, which saves memory."
        ),
    },
    check=_check,
)
