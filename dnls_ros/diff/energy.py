"""Learning from energies: samples from the Gaussian that the objective is at its minimum.

The model e^(−S(x; θ)/T) puts more probability on the truth the lower its energy is against the
energies of samples. At the minimum it is N(x*, T H⁻¹) in the tangent, which needs no Markov chain:
with g ~ N(0, H), drawn factor by factor from the products of the normal equations, δ = √T H⁻¹ g.
Any linear solver will do, all samples and batch elements are solved for at once.

Sodhi, Dexheimer, Mukadam, Anderson, Kaess, *LEO: learning energy-based models in factor graph
optimization*, CoRL 2021. Papandreou and Yuille, *Gaussian sampling by local perturbations*, 2010.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dnls_ros.errors import DnlsError
from dnls_ros.optim import Solution
from dnls_ros.problem import Values


def local_samples(
    solution: Solution,
    count: int,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Samples of N(0, T H⁻¹) in the tangent at the solution, (B, K, n); they carry no gradients.

    Args:
        solution: Where H = JᵀWJ is taken.
        count: K.
        temperature: T ≥ 0.
        generator: Of the random numbers, on the solution's device.

    Returns:
        Steps δ for ``values.retract``, in the dtype of the values; NaN for elements whose H is
        singular.

    Raises:
        DnlsError: A count below one, or a negative temperature.
    """
    if count < 1 or not temperature >= 0:
        raise DnlsError(
            f"samples need count ≥ 1 and temperature ≥ 0, got {count} and {temperature}"
        )
    assembly = solution.assembly
    structure, values = assembly.structure, solution.values.detach()
    parts: list[Tensor] = []
    with torch.no_grad():
        for name, group in assembly.problem.items():
            products = group.products(values, structure.slots[name]).hessian
            root = _square_root(products.expand(values.batch, *products.shape[1:]))
            shape = (values.batch, count, *root.shape[1:3])
            noise = torch.randn(shape, generator=generator, dtype=root.dtype, device=root.device)
            parts.append((root[:, None] @ noise[..., None])[..., 0].flatten(2))
        flat = torch.cat(parts, 2)
        where = structure.gradient_positions.expand(flat.shape)
        pulls = flat.new_zeros(values.batch, count, structure.n).scatter_add(2, where, flat)
        return temperature**0.5 * solution.factorization().solve(pulls.mT.contiguous()).mT


def _square_root(matrix: Tensor) -> Tensor:
    """A with A Aᵀ = positive semidefinite matrices (…, T, T)."""
    sizes, vectors = torch.linalg.eigh(matrix)
    return vectors * sizes.clamp(min=0).sqrt().unsqueeze(-2)


def energy_loss(
    solution: Solution,
    truth: Values,
    count: int = 16,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """S(truth) − mean of S over samples around the solution, (B,); LEO's surrogate.

    Its derivative in the problem's tensors is that of the negative log-likelihood of the truth,
    times T, with the expectation over the model replaced by the mean over samples. The solution
    itself is not differentiated: solve under ``torch.no_grad()``.

    Args:
        solution: At the problem's current parameters.
        truth: (B|1, N, …) of the same variables.
        count: Samples per element.
        temperature: T.
        generator: Of the samples.

    Raises:
        DnlsError: As `local_samples`, or the truth has other variables.
    """
    found = solution.values.detach()
    if [(b.name, b.count) for b in truth.layout()] != [(b.name, b.count) for b in found.layout()]:
        raise DnlsError(
            f"the truth holds {[(b.name, b.count) for b in truth.layout()]}, the solution "
            f"{[(b.name, b.count) for b in found.layout()]}: they must be the same variables"
        )
    steps = local_samples(solution, count, temperature, generator)
    sampled = solution.assembly.costs(found, steps).mean(1)
    return solution.assembly.cost(truth) - sampled
