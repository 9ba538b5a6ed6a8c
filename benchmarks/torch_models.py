"""The models in PyTorch, and the two loops that a PyTorch user would write."""

import math
from collections.abc import Callable, Iterator

import einops
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

ROUNDING_VARIANCE = 1 / (12 * 255**2)


class AE(nn.Module):
    """The notebook's autoencoder; its loss is the mean over pixels."""

    def __init__(self, pixels: int, hidden_dim: int, latent_dim: int):
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = nn.Sequential(
            nn.Linear(pixels, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, latent_dim)
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, pixels)
        )

    def loss(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Returns the mean squared error of images [B,C,H,W] in [0, 1]."""
        flat = images.flatten(1)
        return functional.mse_loss(
            torch.sigmoid(self.decoder(self.encoder(flat))), flat
        )


def negative_elbo(
    images: torch.Tensor,
    mean: torch.Tensor,
    logvar: torch.Tensor,
    decode: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    noise: torch.Tensor,
) -> torch.Tensor:
    """Returns -ELBO in nats an image, of a Gaussian with a learned variance."""
    mean_map, logvar_map = decode(mean + torch.exp(0.5 * logvar) * noise)
    variance = torch.exp(logvar_map) + ROUNDING_VARIANCE
    squared = torch.square(images - torch.sigmoid(mean_map)) / variance
    log_px = -0.5 * (squared + torch.log(variance) + math.log(2 * math.pi))
    kl = -0.5 * (1 + logvar - mean.square() - logvar.exp())
    return (kl.sum() - log_px.sum()) / len(images)


class VAE(nn.Module):
    """The notebook's VAE, with a head for each of mean and log-variance."""

    def __init__(self, pixels: int, hidden_dim: int, latent_dim: int):
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden_dim), nn.ReLU())
        self.mean = nn.Linear(hidden_dim, latent_dim)
        self.logvar = nn.Linear(hidden_dim, latent_dim)
        self.decoder = nn.Sequential(nn.Linear(latent_dim, hidden_dim), nn.ReLU())
        self.mean_map = nn.Linear(hidden_dim, pixels)
        self.logvar_map = nn.Linear(hidden_dim, pixels)

    def decode(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the parameter maps, flat."""
        hidden = self.decoder(z)
        return self.mean_map(hidden), self.logvar_map(hidden)

    def loss(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Returns -ELBO of images [B,C,H,W]; noise [B,D] is the posterior's."""
        flat = images.flatten(1)
        hidden = self.encoder(flat)
        mean, logvar = self.mean(hidden), self.logvar(hidden)
        return negative_elbo(flat, mean, logvar, self.decode, noise)


class Block(nn.Module):
    """A pre-activation bottleneck, as in `vae_jax.models.networks.conv`."""

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.narrow = nn.Conv2d(channels, inner, 1)
        self.spatial = nn.Conv2d(inner, inner, 3, padding=1)
        self.widen = nn.Conv2d(inner, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns x and what the block adds to it."""
        y = functional.silu(self.narrow(functional.silu(x)))
        return x + self.widen(functional.silu(self.spatial(y)))


def pack(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Turns squares of factor x factor pixels into channels, last in the memory."""
    x = einops.rearrange(x, "b c (h i) (w j) -> b h w (i j c)", i=factor, j=factor)
    return x.permute(0, 3, 1, 2)


def unpack(x: torch.Tensor, factor: int) -> torch.Tensor:
    """Turns channels into squares of factor x factor pixels, channels last again."""
    x = einops.rearrange(x, "b (i j c) h w -> b (h i) (w j) c", i=factor, j=factor)
    return x.permute(0, 3, 1, 2)


class ConvVAE(nn.Module):
    """The VAE of `configs/conv_vae.py`, without norm and with one block a stage."""

    def __init__(self, size: int, channels: int, width: int, latent_dim: int):
        super().__init__()
        self.latent_dim = latent_dim
        sizes = [size // 4]
        while sizes[-1] > 7:
            sizes.append(sizes[-1] // 2)
        first = 3 - len(sizes)
        widths = [width * 2 ** min(max(first + i, 0), 2) for i in range(len(sizes))]
        self.coarsest = (widths[-1], sizes[-1], sizes[-1])
        flat = math.prod(self.coarsest)
        pairs = list(zip(widths[:-1], widths[1:], strict=True))
        self.stem = nn.Conv2d(16 * channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in pairs)
        self.encoder = nn.ModuleList(Block(w) for w in widths)
        self.features = nn.Linear(flat, 2 * latent_dim)
        self.project = nn.Linear(latent_dim, flat)
        self.decoder = nn.ModuleList(Block(w) for w in widths[::-1])
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairs[::-1])
        self.head = nn.Conv2d(widths[0], 2 * channels * 16, 3, padding=1)

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the posterior's mean and log-variance."""
        x = self.encoder[0](self.stem(pack(images, 4)))
        for down, block in zip(self.down, self.encoder[1:], strict=True):
            x = block(down(pack(x, 2)))
        # In the order of channels last.
        x = functional.silu(x).permute(0, 2, 3, 1).flatten(1)
        mean, logvar = self.features(x).chunk(2, dim=1)
        return mean, logvar

    def decode(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the parameter maps."""
        channels, height, width = self.coarsest
        x = self.project(z).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        x = self.decoder[0](x)
        for up, block in zip(self.up, self.decoder[1:], strict=True):
            x = block(unpack(up(x), 2))
        mean_map, logvar_map = unpack(self.head(functional.silu(x)), 4).chunk(2, dim=1)
        return mean_map, logvar_map

    def loss(self, images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Returns -ELBO of images [B,C,H,W]; noise [B,D] is the posterior's."""
        mean, logvar = self.encode(images)
        return negative_elbo(images, mean, logvar, self.decode, noise)


def eager_batches(images: np.ndarray, batch_size: int) -> Iterator[torch.Tensor]:
    """Yields shuffled float batches [B,C,H,W] for ever, by a DataLoader."""
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2)
    loader = DataLoader(
        TensorDataset(pictures), batch_size, shuffle=True, drop_last=True
    )
    while True:
        for (batch,) in loader:
            yield batch.float() / 255


def tensor_batches(
    images: np.ndarray, batch_size: int, device: str
) -> Iterator[torch.Tensor]:
    """Yields the same from one tensor in the device's memory."""
    pictures = torch.from_numpy(images).permute(0, 3, 1, 2).to(device).contiguous()
    while True:
        order = torch.randperm(len(pictures), device=device)
        for first in range(0, len(order) - batch_size + 1, batch_size):
            yield pictures[order[first : first + batch_size]].float() / 255


def trainer(
    model: nn.Module,
    batches: Iterator[torch.Tensor],
    *,
    learning_rate: float,
    weight_decay: float,
    best: bool,
    compiled: str | None = None,
    precision: str = "fp32",
) -> Callable[[int], float]:
    """Returns train(num_steps) -> the last loss, with an EMA.

    Args:
      model: a model with a loss, on its device already.
      batches: batches of images.
      learning_rate: learning rate of AdamW, or of Adam where `weight_decay` is 0.
      weight_decay: weight decay of AdamW.
      best: fused optimiser and EMA; otherwise as most people write it.
      compiled: mode of torch.compile, "default" or "reduce-overhead", which is by CUDA
        graphs; None for eager execution.
      precision: "fp32"; "tf32"; "bf16" or "fp16" by autocast, the latter with a
        gradient scaler.
    """
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    parameters = list(model.parameters())
    ema = [p.detach().clone() for p in parameters]
    kind = torch.optim.AdamW if weight_decay else torch.optim.Adam
    optimizer = kind(
        parameters, lr=learning_rate, weight_decay=weight_decay, fused=best or None
    )
    loss_of = torch.compile(model.loss, mode=compiled) if compiled else model.loss
    device = parameters[0].device
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def train(num_steps: int) -> float:
        for _ in range(num_steps):
            images = next(batches).to(device)
            noise = torch.randn(len(images), model.latent_dim, device=device)
            if compiled == "reduce-overhead":
                torch.compiler.cudagraph_mark_step_begin()
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                loss = loss_of(images, noise)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            with torch.no_grad():
                if best:
                    torch._foreach_lerp_(ema, parameters, 1e-3)
                else:
                    for average, parameter in zip(ema, parameters, strict=True):
                        average.mul_(0.999).add_(parameter, alpha=1e-3)
        # Fetching the loss waits for a device.
        return loss.item()

    return train
