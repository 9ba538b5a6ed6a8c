"""Autoencoders and variational autoencoders of faces, in JAX and Flax."""

from typing import Any


def load(folder: Any) -> Any:
    """Opens what `python -m vae_jax.export` has written, see `export.loading`."""
    # Here, as importing the package is to take no time.
    from vae_jax.export import loading

    return loading.load(folder)
