"""What each --mode does with a run: compute, draw, write beside it, return."""
