"""Solvers of symmetric positive definite systems, batched and differentiable (layer 3)."""

from dnls_ros.linear.cholmod import Cholmod
from dnls_ros.linear.choose import SOLVER_NAMES, choose_device, choose_solver
from dnls_ros.linear.dense import Dense
from dnls_ros.linear.fitting import Fitting
from dnls_ros.linear.marginals import marginal_covariance, tangent_indices
from dnls_ros.linear.schur import Schur
from dnls_ros.linear.solver import Factorization, LinearSolver, Symbolic, solve, solve_with

__all__ = [
    "SOLVER_NAMES",
    "Cholmod",
    "Dense",
    "Factorization",
    "Fitting",
    "LinearSolver",
    "Schur",
    "Symbolic",
    "choose_device",
    "choose_solver",
    "marginal_covariance",
    "solve",
    "solve_with",
    "tangent_indices",
]
