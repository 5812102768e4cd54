"""From the gradient that autograd leaves on a storage tensor to the one in the tangent space.

The storage has more coordinates than the group has dimensions, so that a gradient by the storage
depends on how f happens to be written off the manifold. The gradient by the perturbation does not:

    ∂f(x ⊞ δ)/∂δ = Dᵀ ∂f/∂storage,      D = ∂(x ⊞ δ)/∂δ at δ = 0

which drops what points off the manifold (Absil, Mahony and Sepulchre, *Optimization Algorithms on
Matrix Manifolds*, 2008, §3.6.1). Each group knows its own Dᵀ in closed form.
"""

from __future__ import annotations

from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.lie.manifold import Element, LieGroup


def tangent_gradient(x: Element, gradient: Tensor) -> Tensor:
    """∂f(x ⊞ δ)/∂δ at δ = 0, (…, t), from ∂f/∂storage at x; differentiable in both.

    Leading axes broadcast: ``tangent_gradient(x[..., None], jacobian)`` turns the rows of a
    Jacobian by the storage (…, r, s) into those by the perturbation (…, r, t).

    Args:
        x: An element with storage (…, s) of unit length where it must be, or a plain tensor.
        gradient: (…, s).

    Raises:
        DnlsError: The last axis is not that of the storage.
    """
    width = x.storage_dim if isinstance(x, LieGroup) else x.shape[-1]
    if gradient.shape[-1:] != (width,):
        raise DnlsError(
            f"tangent_gradient: got a gradient of shape {tuple(gradient.shape)}, expected "
            f"(…, {width}) as the storage of {type(x).__name__}"
        )
    return x.pull_back(gradient) if isinstance(x, LieGroup) else gradient
