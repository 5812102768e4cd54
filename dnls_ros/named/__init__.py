"""Objectives of named variables, and a torch module that solves them (layer 5)."""

from dnls_ros.named.bound import Bound
from dnls_ros.named.layer import Layer
from dnls_ros.named.objective import Objective
from dnls_ros.named.row import Exp, Named

__all__ = ["Bound", "Exp", "Layer", "Named", "Objective"]
