"""Compiled arithmetic on plain arrays; modules here are imported where they are used.

What numba compiles has no annotations: types are those of the arrays it is called with.
"""
