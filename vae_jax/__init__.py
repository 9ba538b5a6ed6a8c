"""Autoencoders and variational autoencoders of faces, in JAX and Flax."""
