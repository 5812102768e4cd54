"""Solvers of symmetric positive definite systems, batched and differentiable (layer 3)."""

from dnls_ros.linear.cholmod import Cholmod
from dnls_ros.linear.dense import Dense
from dnls_ros.linear.solver import Factorization, LinearSolver, Symbolic, solve, solve_with

__all__ = [
    "Cholmod",
    "Dense",
    "Factorization",
    "LinearSolver",
    "Symbolic",
    "solve",
    "solve_with",
]
