"""Minimization: assembly, the one loop, and its methods (layer 4)."""

from dnls_ros.optim.assembly import Assembly
from dnls_ros.optim.dogleg import Dogleg
from dnls_ros.optim.gauss_newton import GaussNewton
from dnls_ros.optim.graduated import minimize_graduated
from dnls_ros.optim.levenberg_marquardt import LevenbergMarquardt
from dnls_ros.optim.method import Method, Model, Outcome, Proposal
from dnls_ros.optim.minimize import Solution, Status, Tolerances, minimize

__all__ = [
    "Assembly",
    "Dogleg",
    "GaussNewton",
    "LevenbergMarquardt",
    "Method",
    "Model",
    "Outcome",
    "Proposal",
    "Solution",
    "Status",
    "Tolerances",
    "minimize",
    "minimize_graduated",
]
