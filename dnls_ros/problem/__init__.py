"""Variables, costs, factor groups and the normal equations they make (layer 1)."""

from dnls_ros.problem.axes import Shared
from dnls_ros.problem.cost import Cost, check_jacobians, cost
from dnls_ros.problem.differentiation import (
    BackwardNetwork,
    DenseAutodiff,
    Differentiation,
    Loop,
    Vectorized,
)
from dnls_ros.problem.factors import FactorGroup, Group, Products
from dnls_ros.problem.instances import Memory
from dnls_ros.problem.normal import NormalEquations, normal_equations
from dnls_ros.problem.prior import DensePrior
from dnls_ros.problem.problem import Problem, cost_of, requires_grad, zero_step
from dnls_ros.problem.structure import Pattern, Structure, StructureCache
from dnls_ros.problem.variables import Block, Ref, Values, Variables
from dnls_ros.problem.weighting import (
    DCS,
    Barron,
    Cauchy,
    Diagonal,
    GemanMcClure,
    Hinge,
    Huber,
    Isotropic,
    Loss,
    Noise,
    SquareRootInformation,
    Tukey,
    Welsch,
)

__all__ = [
    "DCS",
    "BackwardNetwork",
    "Barron",
    "Block",
    "Cauchy",
    "Cost",
    "DenseAutodiff",
    "DensePrior",
    "Diagonal",
    "Differentiation",
    "FactorGroup",
    "GemanMcClure",
    "Group",
    "Hinge",
    "Huber",
    "Isotropic",
    "Loop",
    "Loss",
    "Memory",
    "Noise",
    "NormalEquations",
    "Pattern",
    "Problem",
    "Products",
    "Ref",
    "Shared",
    "SquareRootInformation",
    "Structure",
    "StructureCache",
    "Tukey",
    "Values",
    "Variables",
    "Vectorized",
    "Welsch",
    "check_jacobians",
    "cost",
    "cost_of",
    "normal_equations",
    "requires_grad",
    "zero_step",
]
