"""Robust losses of one squared norm; `dnls_ros.problem.weighting` defines them."""

from __future__ import annotations

import math

from dnls_ros.kernels.jit import leaf

NONE, HUBER, CAUCHY, GEMAN_MCCLURE, TUKEY, WELSCH, DCS, HINGE = range(8)


@leaf
def loss(kind, s, radius):
    """(ρ, ρ') at s."""
    if kind == NONE:
        return s, 1.0
    r2 = radius * radius
    if kind == HUBER:
        if s > r2:
            root = math.sqrt(r2 * s)
            return 2 * root - r2, math.sqrt(r2 / s)
        return s, 1.0
    if kind == CAUCHY:
        return r2 * math.log1p(s / r2), 1 / (1 + s / r2)
    if kind == GEMAN_MCCLURE:
        shrink = 1 / (1 + s / r2)
        return s * shrink, shrink * shrink
    if kind == TUKEY:
        left = max(1 - s / r2, 0.0) if s == s else s
        return r2 / 3 * (1 - left * left * left), left * left
    if kind == WELSCH:
        return -r2 * math.expm1(-s / r2), math.exp(-s / r2)
    if kind == DCS:
        if s > r2:
            shrink = 2 * r2 / (r2 + s)
            return r2 * (3 - 4 * r2 / (r2 + s)), shrink * shrink
        return s, 1.0
    if s > r2:  # HINGE
        root = math.sqrt(s) - radius
        return root * root, 1 - math.sqrt(r2 / s)
    return 0.0 * s, 0.0


@leaf
def curvature(kind, s, radius):
    """ρ'' at s."""
    if kind == NONE:
        return 0.0
    r2 = radius * radius
    if kind == HUBER:
        return -0.5 * math.sqrt(r2 / s) / s if s > r2 else 0.0
    if kind == CAUCHY:
        shrink = 1 / (1 + s / r2)
        return -shrink * shrink / r2
    if kind == GEMAN_MCCLURE:
        shrink = 1 / (1 + s / r2)
        return -2 * shrink * shrink * shrink / r2
    if kind == TUKEY:
        return -2 / r2 * max(1 - s / r2, 0.0) if s == s else s
    if kind == WELSCH:
        return -math.exp(-s / r2) / r2
    if kind == DCS:
        if s > r2:
            shrink = 2 * r2 / (r2 + s)
            return -2 * shrink * shrink / (r2 + s)
        return 0.0
    return 0.5 * math.sqrt(r2 / s) / s if s > r2 else 0.0  # HINGE
