"""The notebook's autoencoder: 4096-2048-256-2048-4096, 17,834,240 parameters."""

from vae_jax.config import default_config


def get_config():
    config = default_config()
    config.model.name = "ae"
    config.model.latent_dim = 256
    config.model.hidden_dim = 2048
    config.objective.name = "mse"
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.weight_decay = 0.0
    # Adam's first updates at the full rate move the weights of a hidden unit all one
    # way, on pixels that are all positive: without a warm-up 97% of the encoder's
    # units end up dead.
    config.optimizer.warmup_steps = 500
    # Twice what the norm is once trained: without a bound the loss may jump, and takes
    # a thousand updates to come back.
    config.optimizer.clip_norm = 0.1
    # Three epochs of CelebA's 162,770 training pictures.
    config.train.num_steps = 7630
    return config
