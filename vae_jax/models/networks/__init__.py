"""Encoders and decoders, and the layers that they share."""
