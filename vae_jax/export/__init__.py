"""Writes the model of a run to a folder that stands alone.

  python -m vae_jax.export --workdir=runs/vae --to=DIR [--format=onnx]

The folder has model.safetensors (the EMA of the parameters), config.json, a model card
(README.md) with a picture of samples, and codes.safetensors: directions of attributes,
the density of codes and the order of their dimensions. It is laid out as model hubs
expect. `vae_jax.load(DIR)` opens it. With --format=onnx encoder.onnx and decoder.onnx,
which need onnxruntime alone, are there as well; with --format=stablehlo
encoder.stablehlo and decoder.stablehlo, which need JAX alone.
"""
