"""The loop, which knows no model."""
