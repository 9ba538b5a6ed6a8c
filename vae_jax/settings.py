"""Every setting: its default, its meaning, which values it takes and beside which."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vae_jax import local_paths, processes
from vae_jax.data.cache import DATASETS
from vae_jax.data.crops import CROPS
from vae_jax.data.decoding import RESAMPLERS
from vae_jax.models import build
from vae_jax.models.networks import conv, layers
from vae_jax.sharding import STATE_SHARDINGS


@dataclass(frozen=True)
class Setting:
    """One setting: its default, its meaning, and which values it takes.

    `optional_type` is the type of a value other than None, where None is the default.
    """

    default: Any
    meaning: str
    allowed: str
    accepts: Callable[[Any], bool]
    optional_type: type | None = None


def _optional(setting: Setting, value_type: type) -> Setting:
    return Setting(
        None,
        setting.meaning,
        f"{setting.allowed}, or None",
        lambda v: v is None or setting.accepts(v),
        value_type,
    )


def _whole(default, meaning, low=1, high=2**31 - 1):
    bound = f"of at least {low}" if high == 2**31 - 1 else f"from {low} to {high}"
    return Setting(
        default,
        meaning,
        f"a whole number {bound}",
        lambda v: isinstance(v, int) and low <= v <= high,
    )


def _real(default, meaning, allowed, accepts):
    return Setting(default, meaning, allowed, lambda v: math.isfinite(v) and accepts(v))


def _choice(default, meaning, options):
    options = tuple(options)
    return Setting(
        default, meaning, "one of " + ", ".join(options), options.__contains__
    )


def _switch(default, meaning):
    return Setting(default, meaning, "True or False", lambda v: isinstance(v, bool))


def _path(meaning):
    setting = Setting("", meaning, local_paths.ALLOWED, local_paths.is_local)
    return _optional(setting, str)


SETTINGS: dict[str, Setting] = {
    "seed": _whole(0, "of parameters, order of pictures and noise", low=0),
    "distributed": Setting(
        "auto",
        "over several processes; auto is as SLURM or GKE started them",
        "one of auto, on, off, or HOST:PORT,COUNT,INDEX of this process",
        lambda v: v in processes.WORDS or processes.is_address(v),
    ),
    "precision": _choice(
        "auto",
        "of activations; auto is bf16 on a GPU or TPU and fp32 on a CPU",
        ("auto", *build.PRECISIONS),
    ),
    "init_from": _path("workdir of a run whose EMA parameters start this one"),
    "dataset.name": _choice(
        "auto",
        "auto is celeb_a where it has been prepared, synthetic_faces otherwise",
        ("auto", *DATASETS),
    ),
    "dataset.data_dir": _path(
        "tfds' folder, None is tfds' own; of folder, the folder or zip of pictures"
    ),
    "dataset.size": _whole(64, "height and width in pixels", low=8, high=512),
    "dataset.channels": Setting(
        1, "1 is gray (luma), 3 is RGB", "1 or 3", lambda v: v in (1, 3)
    ),
    "dataset.crop": _choice(
        "auto",
        "box in a 178x218 picture, or centre square; auto is centre for folder, "
        "otherwise notebook",
        ("auto", *CROPS),
    ),
    "dataset.resampler": _choice("bilinear", "filter of the resizing", RESAMPLERS),
    "dataset.feed": _choice(
        "auto",
        "where batches come from; auto is the device's memory if the data set fits",
        ("auto", "device", "stream"),
    ),
    "model.name": _choice(
        "vae",
        "autoencoder, variational autoencoder, or classifier of attributes",
        build.MODELS,
    ),
    "model.network": _choice(
        "mlp",
        "fully connected, convolutional, or a classifier's strided convolutions",
        build.NETWORKS,
    ),
    "model.latent_dim": _whole(
        100, "dimensions of the code; of a classifier, its features"
    ),
    "model.code_size": _optional(
        _whole(
            4,
            "of conv: side of a spatial code, latent_dim numbers at each place; "
            "None is a vector",
            low=2,
        ),
        int,
    ),
    "model.hidden_dim": _whole(512, "of mlp: width of the hidden layers"),
    "model.width": Setting(
        64,
        "of conv: channels at a quarter of the size, up to 4 times as many below; "
        "of strided: at half the size, up to 8 times as many",
        "an even number of at least 2",
        lambda v: isinstance(v, int) and v >= 2 and v % 2 == 0,
    ),
    "model.width_from": _choice(
        "coarsest",
        "of conv: whether four times the width are at the coarsest stage, and half of "
        "it with each finer one, or the width at the finest, and twice with each "
        "coarser one, as in earlier versions; the same at 64 pixels",
        conv.WIDTHS_FROM,
    ),
    "model.depth": _whole(1, "of conv: residual blocks at each resolution", low=0),
    "model.norm": _choice("none", "of conv: before each block", layers.NORMS),
    "model.upsampling": _choice(
        "subpixel", "of conv: in the decoder", conv.UPSAMPLINGS
    ),
    "model.remat": _switch(
        False, "of conv: compute blocks again for the gradient, to save memory"
    ),
    "model.likelihood": _choice("gaussian", "p(x|z) of the VAE", build.LIKELIHOODS),
    "model.std": _real(
        0.1,
        "of fixed_gaussian: its standard deviation; pixels are in [0, 1]",
        "a number above 0",
        lambda v: v > 0,
    ),
    "model.prior": _choice("normal", "p(z) of the VAE", build.PRIORS),
    "model.prior_components": _whole(64, "of mixture and vamp: how many"),
    "model.attributes": Setting(
        "",
        "that a VAE is conditioned on, or a classifier predicts; auto is all there are",
        "names of the data set's attributes with commas between, auto, or nothing",
        lambda v: isinstance(v, str),
    ),
    "model.attribute_dropout": _real(
        0.1,
        "of vae: share of pictures without labels in training, and of labels left out "
        "of the others",
        "a number of at least 0 and below 1",
        lambda v: 0 <= v < 1,
    ),
    "objective.name": _choice("elbo", "what training minimises", build.OBJECTIVES),
    "objective.beta": _real(
        1.0,
        "of elbo and mmd: weight of the KL; of tc: of the total correlation",
        "a number of at least 0",
        lambda v: v >= 0,
    ),
    "objective.kl_warmup_steps": _whole(
        0, "of elbo: the KL's weight rises from 0 over so many", low=0
    ),
    "objective.free_bits": _real(
        0.0,
        "of elbo: nats of each dimension's mean KL that cost nothing",
        "a number of at least 0",
        lambda v: v >= 0,
    ),
    "objective.num_samples": _whole(
        1, "of elbo and iwae: samples of z for each picture in training"
    ),
    "objective.capacity": _real(
        25.0,
        "of capacity: nats at which the mean KL is held in the end",
        "a number of at least 0",
        lambda v: v >= 0,
    ),
    "objective.capacity_steps": _whole(
        5000, "of capacity: it rises from 0 over so many", low=0
    ),
    "objective.gamma": _real(
        100.0,
        "of capacity: weight of the distance to it",
        "a number of at least 0",
        lambda v: v >= 0,
    ),
    "objective.mmd_weight": _real(
        1000.0, "of mmd: weight of the MMD", "a number of at least 0", lambda v: v >= 0
    ),
    "objective.code_weight": _real(
        1e-6,
        "of rae: weight of half the code's squared norm",
        "a number of at least 0",
        lambda v: v >= 0,
    ),
    "objective.decoder_penalty": _choice(
        "l2",
        "of rae: the decoder's squared parameters, or its Jacobian's",
        ("l2", "gradient"),
    ),
    "objective.decoder_weight": _real(
        1e-8,
        "of rae: weight of that penalty",
        "a number of at least 0",
        lambda v: v >= 0,
    ),
    "optimizer.name": _choice("adamw", "optax optimiser", ("adam", "adamw")),
    "optimizer.learning_rate": _real(
        2e-4, "its peak, where it has a schedule", "a number above 0", lambda v: v > 0
    ),
    "optimizer.weight_decay": _real(
        1e-4, "of adamw, on every parameter", "a number of at least 0", lambda v: v >= 0
    ),
    "optimizer.schedule": _choice(
        "constant", "cosine falls to 0 at num_steps", ("constant", "cosine")
    ),
    "optimizer.warmup_steps": _whole(0, "linear warm-up of the learning rate", low=0),
    "optimizer.clip_norm": _optional(
        _real(
            1.0,
            "bound on the gradients' global norm",
            "a number above 0",
            lambda v: v > 0,
        ),
        float,
    ),
    "ema.decay": _real(
        0.999,
        "of the average of the parameters, after its warm-up",
        "a number of at least 0 and below 1",
        lambda v: 0 <= v < 1,
    ),
    "train.batch_size": _whole(64, "pictures in an update"),
    "train.mirror": _switch(False, "mirror half of the pictures, drawn anew each time"),
    "train.num_epochs": _real(
        3.0, "passes over the training split", "a number above 0", lambda v: v > 0
    ),
    "train.num_steps": _optional(_whole(1, "updates; where set, it wins"), int),
    "train.sharding": _choice(
        "data_parallel",
        "of several devices: each holds the whole state, or its part of it",
        STATE_SHARDINGS,
    ),
    "train.steps_per_dispatch": _whole(10, "updates in one compiled program"),
    "log.every_steps": _whole(50, "between lines of metrics.jsonl"),
    "log.tensorboard": _switch(False, "write TensorBoard's event files as well"),
    "eval.every_steps": _whole(1000, "between evaluations on the validation split"),
    "eval.batch_size": _whole(250, "pictures evaluated at a time"),
    "eval.importance_samples": _whole(64, "k of the importance-weighted bound"),
    "eval.samples_per_chunk": _whole(8, "of those k, how many at a time"),
    "checkpoint.every_steps": _whole(1000, "between checkpoints"),
}

# Settings that mean something under some choices alone; elsewhere they stay put.
ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "model.hidden_dim": ("model.network", ("mlp",)),
    "model.width": ("model.network", ("conv", "strided")),
    "model.code_size": ("model.network", ("conv",)),
    "model.width_from": ("model.network", ("conv",)),
    "model.depth": ("model.network", ("conv",)),
    "model.norm": ("model.network", ("conv",)),
    "model.upsampling": ("model.network", ("conv",)),
    "model.remat": ("model.network", ("conv",)),
    "model.likelihood": ("model.name", ("vae",)),
    "model.std": ("model.likelihood", ("fixed_gaussian",)),
    "model.prior": ("model.name", ("vae",)),
    "model.prior_components": ("model.prior", ("mixture", "vamp")),
    "model.attributes": ("model.name", ("vae", "classifier")),
    "model.attribute_dropout": ("model.name", ("vae",)),
    "objective.beta": ("objective.name", ("elbo", "mmd", "tc")),
    "objective.kl_warmup_steps": ("objective.name", ("elbo",)),
    "objective.free_bits": ("objective.name", ("elbo",)),
    "objective.num_samples": ("objective.name", ("elbo", "iwae")),
    "objective.capacity": ("objective.name", ("capacity",)),
    "objective.capacity_steps": ("objective.name", ("capacity",)),
    "objective.gamma": ("objective.name", ("capacity",)),
    "objective.mmd_weight": ("objective.name", ("mmd",)),
    "objective.code_weight": ("objective.name", ("rae",)),
    "objective.decoder_penalty": ("objective.name", ("rae",)),
    "objective.decoder_weight": ("objective.name", ("rae",)),
}

# What may change when a run is resumed; `train.num_steps` may only grow.
RESUMABLE = (
    "distributed",
    "dataset.data_dir",
    "dataset.feed",
    "log.every_steps",
    "log.tensorboard",
    "eval.every_steps",
    "checkpoint.every_steps",
    "train.num_epochs",
    "train.num_steps",
    "train.sharding",
)
