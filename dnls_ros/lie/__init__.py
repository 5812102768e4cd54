"""Lie groups SO(2), SE(2), SO(3), SE(3) and Euclidean spaces, batched and differentiable."""

from dnls_ros.lie.gradient import tangent_gradient as tangent_gradient
from dnls_ros.lie.manifold import Element as Element
from dnls_ros.lie.manifold import Euclidean as Euclidean
from dnls_ros.lie.manifold import LieGroup as LieGroup
from dnls_ros.lie.manifold import cat as cat
from dnls_ros.lie.manifold import hat3 as hat3
from dnls_ros.lie.manifold import local as local
from dnls_ros.lie.manifold import retract as retract
from dnls_ros.lie.manifold import stack as stack
from dnls_ros.lie.manifold import tangent_dim as tangent_dim
from dnls_ros.lie.optimizers import ManifoldAdam as ManifoldAdam
from dnls_ros.lie.optimizers import ManifoldSGD as ManifoldSGD
from dnls_ros.lie.se2 import SE2 as SE2
from dnls_ros.lie.se3 import SE3 as SE3
from dnls_ros.lie.se3 import lift as lift
from dnls_ros.lie.se3 import project as project
from dnls_ros.lie.so2 import SO2 as SO2
from dnls_ros.lie.so3 import SO3 as SO3
