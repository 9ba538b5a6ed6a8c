"""The hierarchical VAE of `configs/hvae.py` in PyTorch."""

import itertools
import math

import torch
from torch import nn
from torch.nn import functional

from benchmarks.torch_models import Block, pack, unpack
from vae_jax.models.likelihoods import ROUNDING_STD
from vae_jax.models.networks.cosines import cosine_basis
from vae_jax.models.networks.latent_layers import (
    FARTHEST,
    LARGEST_GAIN,
    NARROWEST,
    WIDEST,
)


def _mix(channels: int, features: int) -> nn.Conv2d:
    return nn.Conv2d(channels, features, 1)


class LatentLayer(nn.Module):
    """A block on the way down, the posterior after it, and what adds its code."""

    def __init__(self, width: int, dims: int):
        super().__init__()
        inner = width // 2
        self.block = Block(width)
        self.narrow = _mix(2 * width, inner)
        self.spatial = nn.Conv2d(inner, inner, 3, padding=1)
        self.head = _mix(inner, 2 * dims)
        self.scale = _mix(width, dims)
        self.joining = _mix(dims, width)

    def posterior(
        self, x: torch.Tensor, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns its mean and log-variance, bounded; the prior is N(0, I)."""
        y = functional.silu(self.narrow(functional.silu(torch.cat([x, features], 1))))
        mean, width = self.head(functional.silu(self.spatial(y))).chunk(2, dim=1)
        span = WIDEST - NARROWEST
        start = math.log(math.expm1(span * math.atanh(WIDEST / span)))
        falls = functional.softplus(width + start)
        return (
            FARTHEST * torch.tanh(mean / FARTHEST),
            WIDEST - span * torch.tanh(falls / span),
        )

    def forward(
        self, x: torch.Tensor, features: torch.Tensor, noise: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns what the layer makes of x, and its KL, summed over the batch."""
        x = self.block(x)
        mean, logvar = self.posterior(x, features)
        # In the order of channels last.
        noise = noise.unflatten(1, (*x.shape[2:], -1)).permute(0, 3, 1, 2)
        code = mean + torch.exp(0.5 * logvar) * noise
        wanted = self.scale(functional.silu(x)) - math.log(LARGEST_GAIN - 1)
        kl = -0.5 * (1 + logvar - mean.square() - logvar.exp())
        return x + self.joining(LARGEST_GAIN * wanted.sigmoid() * code), kl.sum()


def log_mixture_mass(images: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """Returns the log-probability of images [B,1,H,W] under mixtures of logistics.

    Args:
      images: pixels in [0, 1], on the grid of 256 levels.
      maps: [B,3K,H,W], the weight, the location and the scale of each component.
    """
    weight, location, scale = maps.unflatten(1, (-1, 3)).unbind(2)
    scale = 255 * (torch.exp(scale - 2) + ROUNDING_STD)
    level = torch.round(255 * images)
    centre, half_width = (level - 255 * (0.5 + location / 4)) / scale, 0.5 / scale
    below = functional.logsigmoid(centre + half_width)
    above = functional.logsigmoid(half_width - centre)
    inside = below + above + torch.log(-torch.expm1(-2 * half_width))
    # The levels at the ends are open.
    mass = torch.where(level < 1, below, torch.where(level > 254, above, inside))
    return torch.logsumexp(mass + functional.log_softmax(weight, 1), 1).sum()


class Ladder(nn.Module):
    """The ladder for gray images, with one block a resolution on the way up.

    Args:
      size: side of the images in pixels.
      layers: number of layers at each resolution, the coarsest first.
      widths: channels at each.
      dims: numbers in a code at each place.
      num_components: logistics in each of the likelihood's mixtures.
    """

    def __init__(
        self,
        size: int,
        layers: dict[int, int],
        widths: dict[int, int],
        dims: int,
        num_components: int,
    ):
        super().__init__()
        self.patch = size // max(layers)
        basis = torch.from_numpy(cosine_basis(self.patch))
        self.register_buffer("basis", basis, persistent=False)
        # Numbers in the code of each layer, and of all of them.
        self.sizes = [
            at**2 * dims for at, count in layers.items() for _ in range(count)
        ]
        self.latent_dim = sum(self.sizes)
        channels, pixels = list(widths.values()), self.patch**2
        entries = [pixels, *(4 * c for c in channels[:0:-1])]
        self.entries = nn.ModuleList(map(_mix, entries, channels[::-1]))
        self.encoder = nn.ModuleList(map(Block, channels[::-1]))
        self.constant = nn.Parameter(torch.zeros(1, channels[0], *[min(layers)] * 2))
        self.up = nn.ModuleList(_mix(a, 4 * b) for a, b in itertools.pairwise(channels))
        self.decoder = nn.ModuleList(
            nn.ModuleList(LatentLayer(width, dims) for _ in range(count))
            for width, count in zip(channels, layers.values(), strict=True)
        )
        self.block = Block(channels[-1])
        self.head = _mix(channels[-1], 3 * num_components * pixels)

    def encode(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Returns the features at each resolution, the coarsest first."""
        dual = self.basis / self.basis.square().sum(1, keepdim=True)
        patches = pack(4 * (images - 0.5), self.patch)
        x, found = functional.conv2d(patches, dual[:, :, None, None]), []
        for entry, block in zip(self.entries, self.encoder, strict=True):
            x = block(entry(pack(x, 2) if found else x))
            found.append(x)
        return found[::-1]

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the likelihood's maps, from cosines of patches."""
        head = self.head(functional.silu(self.block(x)))
        cosines = head.unflatten(1, (len(self.basis), -1))
        patches = torch.einsum("bfmhw,fp->bpmhw", cosines, self.basis)
        return unpack(patches.flatten(1, 2), self.patch)

    def loss(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Returns -ELBO of images [B,1,H,W]; noise [B,D] is that of all posteriors."""
        x = self.constant.expand(len(images), -1, -1, -1)
        kl, noises = 0, iter(noise.split(self.sizes, dim=1))
        for place, features in enumerate(self.encode(images)):
            x = unpack(self.up[place - 1](x), 2) if place else x
            for layer in self.decoder[place]:
                x, cost = layer(x, features, next(noises))
                kl = kl + cost
        return (kl - log_mixture_mass(images, self.maps(x))) / len(images)
