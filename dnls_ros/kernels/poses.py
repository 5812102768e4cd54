"""Residuals and Jacobians of costs between poses, one factor at a time.

Each function takes the flat state ``x`` and the offsets of its variables, the flat data and where
its own begin, writes the residual to ``r`` and, if ``jac``, the Jacobian to ``J`` by rows of
length T, which is all zeros before. The formulas are those of `dnls_ros.costs.pose` and
`dnls_ros.costs.motion`.
"""

from __future__ import annotations

from dnls_ros.kernels.jit import leaf
from dnls_ros.kernels.lie import (
    cross_matrix,
    inverse_jacobian3,
    inverse_jacobian6,
    inverse_jacobian_plane,
    log3,
    log6,
    log_plane,
    multiply,
    product,
    quaternion_at,
    quotient,
    quotient_plane,
    rotate,
    rotation_matrix,
    scale,
    sum_of,
    transposed,
    vector_at,
)


@leaf
def put(J, T, row, column, factor, A):
    """A 3 × 3 block of J."""
    for a in range(3):
        for b in range(3):
            J[(row + a) * T + column + b] = factor * A[3 * a + b]


@leaf
def write3(r, row, v):
    """Three entries of r."""
    r[row], r[row + 1], r[row + 2] = v[0], v[1], v[2]


# -- SE(3) -------------------------------------------------------------------------------------


@leaf
def difference6(x, i, j):
    """(p, q) of x_i⁻¹ x_j."""
    return quotient(
        vector_at(x, i), quaternion_at(x, i + 3), vector_at(x, j), quaternion_at(x, j + 3)
    )


@leaf
def prior6(x, i, z, k, r, J, T, jac):
    """Log(z⁻¹ x)."""
    p, q = quotient(
        vector_at(z, k), quaternion_at(z, k + 3), vector_at(x, i), quaternion_at(x, i + 3)
    )
    v, w = log6(p, q)
    write3(r, 0, v)
    write3(r, 3, w)
    if jac:
        A, B = inverse_jacobian6(v, w)
        put(J, T, 0, 0, 1.0, A)
        put(J, T, 0, 3, 1.0, B)
        put(J, T, 3, 3, 1.0, A)


@leaf
def between6(x, i, j, z, k, r, J, T, jac):
    """Log(z⁻¹ x_i⁻¹ x_j)."""
    p, q = difference6(x, i, j)
    v, w = log6(*quotient(vector_at(z, k), quaternion_at(z, k + 3), p, q))
    write3(r, 0, v)
    write3(r, 3, w)
    if jac:
        put_difference6(J, T, 0, 6, p, q, v, w)


@leaf
def to_held6(x, i, z, k, r, J, T, jac):
    """Log(z⁻¹ x_i⁻¹ y) with y not optimized; the data are z and y."""
    p, q = quotient(
        vector_at(x, i), quaternion_at(x, i + 3), vector_at(z, k + 7), quaternion_at(z, k + 10)
    )
    v, w = log6(*quotient(vector_at(z, k), quaternion_at(z, k + 3), p, q))
    write3(r, 0, v)
    write3(r, 3, w)
    if jac:
        put_difference6(J, T, 0, -1, p, q, v, w)


@leaf
def put_difference6(J, T, i, j, p, q, v, w):
    """J_j = J_r⁻¹(v, ω) and J_i = −J_j Ad((p, q)⁻¹), in the columns from i and j (if j ≥ 0)."""
    A, B = inverse_jacobian6(v, w)
    if j >= 0:
        put(J, T, 0, j, 1.0, A)
        put(J, T, 0, j + 3, 1.0, B)
        put(J, T, 3, j + 3, 1.0, A)
    back = transposed(rotation_matrix(q))
    moved = (
        -(back[0] * p[0] + back[1] * p[1] + back[2] * p[2]),
        -(back[3] * p[0] + back[4] * p[1] + back[5] * p[2]),
        -(back[6] * p[0] + back[7] * p[1] + back[8] * p[2]),
    )
    turned = product(A, back)
    corner = sum_of(product(A, cross_matrix(moved, back)), product(B, back))
    put(J, T, 0, i, -1.0, turned)
    put(J, T, 0, i + 3, -1.0, corner)
    put(J, T, 3, i + 3, -1.0, turned)


@leaf
def partial6(x, i, z, k, r, J, T, jac):
    """(t_y − t_z ; Log(R_y R_zᵀ)), y = x · E; the data are E and z."""
    mount_p, mount_q = vector_at(z, k), quaternion_at(z, k + 3)
    q = quaternion_at(x, i + 3)
    arm = rotate(q, mount_p)
    seen = multiply(q, mount_q)
    aim = quaternion_at(z, k + 10)
    turn = log3(multiply(seen, (-aim[0], -aim[1], -aim[2], aim[3])))[0]
    for a in range(3):
        r[a] = x[i + a] + arm[a] - z[k + 7 + a]
        r[3 + a] = turn[a]
    if jac:
        # In the axes of the world: x Exp(δ) moves y by R_x v − (R_x E_p) × R_x ω and turns it.
        R = rotation_matrix(q)
        put(J, T, 0, 0, 1.0, R)
        put(J, T, 0, 3, -1.0, cross_matrix(arm, R))
        put(J, T, 3, 3, 1.0, product(inverse_jacobian3(scale(-1.0, turn)), R))


@leaf
def constant_velocity6(x, i, v_i, j, v_j, dt, r, J, T, jac):
    """(Log(x_i⁻¹ x_j) − v_i dt ; v_j − v_i)."""
    p, q = difference6(x, i, j)
    v, w = log6(p, q)
    for a in range(3):
        r[a] = v[a] - x[v_i + a] * dt
        r[3 + a] = w[a] - x[v_i + 3 + a] * dt
    for a in range(6):
        r[6 + a] = x[v_j + a] - x[v_i + a]
    if jac:
        put_difference6(J, T, 0, 12, p, q, v, w)
        put_velocities(J, T, 6, dt)


@leaf
def put_velocities(J, T, t, dt):
    """The columns of v_i and v_j: −dt, −1 and 1."""
    for a in range(t):
        J[a * T + t + a] = -dt
        J[(t + a) * T + t + a] = -1.0
        J[(t + a) * T + 3 * t + a] = 1.0


# -- SE(2) -------------------------------------------------------------------------------------


@leaf
def prior_plane(x, i, z, k, r, J, T, jac):
    """Log(z⁻¹ x)."""
    xi = log_plane(quotient_plane(quaternion_at(z, k), quaternion_at(x, i)))
    write3(r, 0, xi)
    if jac:
        put(J, T, 0, 0, 1.0, inverse_jacobian_plane(xi))


@leaf
def between_plane(x, i, j, z, k, r, J, T, jac):
    """Log(z⁻¹ x_i⁻¹ x_j)."""
    d = quotient_plane(quaternion_at(x, i), quaternion_at(x, j))
    xi = log_plane(quotient_plane(quaternion_at(z, k), d))
    write3(r, 0, xi)
    if jac:
        put_difference_plane(J, T, 0, 3, d, xi)


@leaf
def to_held_plane(x, i, z, k, r, J, T, jac):
    """Log(z⁻¹ x_i⁻¹ y) with y not optimized; the data are z and y."""
    d = quotient_plane(quaternion_at(x, i), quaternion_at(z, k + 4))
    xi = log_plane(quotient_plane(quaternion_at(z, k), d))
    write3(r, 0, xi)
    if jac:
        put_difference_plane(J, T, 0, -1, d, xi)


@leaf
def put_difference_plane(J, T, i, j, d, xi):
    """J_j = J_r⁻¹(ξ) and J_i = −J_j Ad(d⁻¹), in the columns from i and j (if j ≥ 0)."""
    A = inverse_jacobian_plane(xi)
    if j >= 0:
        put(J, T, 0, j, 1.0, A)
    c, s = d[2], d[3]
    # d⁻¹ = (Rᵀ, −Rᵀ t), and Ad = [[R, (t_y, −t_x)ᵀ], [0, 1]] of that.
    u, v = -(c * d[0] + s * d[1]), s * d[0] - c * d[1]
    put(J, T, 0, i, -1.0, product(A, (c, s, v, -s, c, -u, 0.0, 0.0, 1.0)))


@leaf
def partial_plane(x, i, z, k, r, J, T, jac):
    """(t_y − t_z ; the angle of R_y R_zᵀ), y = x · E; the data are E and z."""
    c, s = x[i + 2], x[i + 3]
    arm_x, arm_y = c * z[k] - s * z[k + 1], s * z[k] + c * z[k + 1]
    cosine, sine = c * z[k + 2] - s * z[k + 3], s * z[k + 2] + c * z[k + 3]
    turn = (0.0, 0.0, cosine * z[k + 6] + sine * z[k + 7], sine * z[k + 6] - cosine * z[k + 7])
    r[0] = x[i] + arm_x - z[k + 4]
    r[1] = x[i + 1] + arm_y - z[k + 5]
    r[2] = log_plane(turn)[2]
    if jac:
        put(J, T, 0, 0, 1.0, (c, -s, -arm_y, s, c, arm_x, 0.0, 0.0, 1.0))


@leaf
def constant_velocity_plane(x, i, v_i, j, v_j, dt, r, J, T, jac):
    """(Log(x_i⁻¹ x_j) − v_i dt ; v_j − v_i)."""
    d = quotient_plane(quaternion_at(x, i), quaternion_at(x, j))
    xi = log_plane(d)
    for a in range(3):
        r[a] = xi[a] - x[v_i + a] * dt
        r[3 + a] = x[v_j + a] - x[v_i + a]
    if jac:
        put_difference_plane(J, T, 0, 6, d, xi)
        put_velocities(J, T, 3, dt)


# -- vectors -----------------------------------------------------------------------------------


@leaf
def prior_vector(x, i, n, z, k, r, J, T, jac):
    """X − z."""
    for a in range(n):
        r[a] = x[i + a] - z[k + a]
        if jac:
            J[a * T + a] = 1.0


@leaf
def between_vector(x, i, j, n, z, k, r, J, T, jac):
    """x_j − x_i − z."""
    for a in range(n):
        r[a] = x[j + a] - x[i + a] - z[k + a]
        if jac:
            J[a * T + a] = -1.0
            J[a * T + n + a] = 1.0
