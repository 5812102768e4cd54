"""Differentiation of solutions (layer 5)."""

from dnls_ros.diff.adjoint import Adjoint, Implicit, Unroll, solve

__all__ = ["Adjoint", "Implicit", "Unroll", "solve"]
