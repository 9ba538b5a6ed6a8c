"""What each --mode does with a run: compute, draw, write beside it, return.

What draws or writes returns the files, and raises UserError where the operating system
refuses one.
"""
