"""Figures from a trained model."""
