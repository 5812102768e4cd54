"""Minimization: assembly, the one loop, and its methods (layer 4)."""

from dnls_ros.optim.assembly import Assembly
from dnls_ros.optim.damping import DampingRule, Fixed, GainRatio, Geometric
from dnls_ros.optim.dogleg import Dogleg
from dnls_ros.optim.gauss_newton import GaussNewton, OneShot
from dnls_ros.optim.graduated import minimize_graduated
from dnls_ros.optim.history import Callback, History, Iteration
from dnls_ros.optim.levenberg_marquardt import LevenbergMarquardt
from dnls_ros.optim.method import Method, Model, Outcome, Proposal
from dnls_ros.optim.minimize import minimize
from dnls_ros.optim.observability import Direction, unobservable
from dnls_ros.optim.on_device import OnDevice
from dnls_ros.optim.sampling import CrossEntropy
from dnls_ros.optim.solution import Solution
from dnls_ros.optim.status import Status, Tolerances

__all__ = [
    "Assembly",
    "Callback",
    "CrossEntropy",
    "DampingRule",
    "Direction",
    "Dogleg",
    "Fixed",
    "GainRatio",
    "GaussNewton",
    "Geometric",
    "History",
    "Iteration",
    "LevenbergMarquardt",
    "Method",
    "Model",
    "OnDevice",
    "OneShot",
    "Outcome",
    "Proposal",
    "Solution",
    "Status",
    "Tolerances",
    "minimize",
    "minimize_graduated",
    "unobservable",
]
