"""The notebook's VAE with a Laplace likelihood and a KL that is annealed in cycles."""

from configs import vae


def get_config():
    config = vae.get_config()
    config.model.likelihood = "laplace"
    config.model.largest_scale = 0.4
    config.objective.name = "cyclical"
    config.objective.period = 1000
    return config
