"""Speed against PyTorch and against the machine's limit; never imported by vae_jax."""
