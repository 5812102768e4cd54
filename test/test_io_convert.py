"""Covariances in ROS's axes and in the tangent, against sampling and the exact map."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from dnls_ros.io.convert import (
    covariance_from_ros,
    covariance_to_ros,
    ns_to_stamp,
    planar_covariance,
    rotation_matrix,
    spatial_covariance,
    stamp_to_ns,
)

POSE = np.array([1.0, -2.0, 0.5, *Rotation.from_rotvec([0.7, -1.9, 0.4]).as_quat()])


def ros_errors_of(deltas):
    """Where body perturbations (n, 6) move the pose, measured in ROS's axes."""
    v, (x, y, z) = deltas[:, :3], deltas[:, 3:].T
    twists = np.zeros((len(deltas), 4, 4))
    twists[:, 2, 1], twists[:, 0, 2], twists[:, 1, 0] = x, y, z
    twists[:, :3, :3] -= np.swapaxes(twists[:, :3, :3], 1, 2)
    twists[:, :3, 3] = v
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = Rotation.from_quat(POSE[3:]).as_matrix(), POSE[:3]
    moved = world @ expm(twists)
    turns = Rotation.from_matrix(moved[:, :3, :3] @ world[:3, :3].T).as_rotvec()
    return np.concatenate([moved[:, :3, 3] - POSE[:3], turns], axis=1)


@pytest.fixture
def covariance():
    square_root = np.random.default_rng(1).normal(size=(6, 6))
    return square_root @ square_root.T


def test_the_conversion_is_the_exact_map_pushed_forward(covariance):
    step = 1e-6
    forward, backward = ros_errors_of(step * np.eye(6)), ros_errors_of(-step * np.eye(6))
    jacobian = (forward - backward).T / (2 * step)
    expected = jacobian @ covariance @ jacobian.T
    assert np.allclose(covariance_to_ros(covariance, POSE), expected, rtol=0, atol=1e-8)


def test_sampled_poses_have_the_ros_covariance_within_three_sigma(covariance):
    covariance = covariance * 1e-6
    rng = np.random.default_rng(2)
    count = 4000
    deltas = rng.multivariate_normal(np.zeros(6), covariance, size=count)
    errors = ros_errors_of(deltas)
    expected = covariance_to_ros(covariance, POSE)
    sampled = errors.T @ errors / count
    variances = np.diag(expected)
    sigma = np.sqrt((np.outer(variances, variances) + expected**2) / count)
    assert (np.abs(sampled - expected) < 3 * sigma).mean() > 0.95
    assert (np.abs(sampled - expected) < 5 * sigma).all()


def test_there_and_back_is_the_same_covariance(covariance):
    back = covariance_from_ros(covariance_to_ros(covariance, POSE), POSE)
    assert np.allclose(back, covariance, rtol=0, atol=1e-13)


def test_the_conversion_works_on_stacks_of_poses(covariance):
    poses = np.tile(POSE, (5, 1))
    poses[:, 3:] = Rotation.random(5, random_state=0).as_quat()
    stacked = covariance_to_ros(np.tile(covariance, (5, 1, 1)), poses)
    for pose, matrix in zip(poses, stacked, strict=True):
        assert np.allclose(matrix, covariance_to_ros(covariance, pose), rtol=0, atol=1e-14)


def test_a_yaw_only_pose_keeps_the_planar_block_planar():
    planar = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 1.0]])
    yaw = 0.8
    pose = np.array([0, 0, 0, 0, 0, np.sin(yaw / 2), np.cos(yaw / 2)])
    ros = covariance_to_ros(spatial_covariance(planar, 0.1), pose)
    turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    assert np.allclose(planar_covariance(ros), turn @ planar @ turn.T)
    assert np.allclose(np.diag(ros)[[2, 3, 4]], 0.1)


def test_rotations_agree_with_scipy_for_any_quaternion_length():
    quaternions = np.random.default_rng(3).normal(size=(100, 4)) * 7.0
    assert np.allclose(
        rotation_matrix(quaternions), Rotation.from_quat(quaternions).as_matrix(), atol=1e-14
    )


def test_values_that_are_not_finite_pass_without_a_warning():
    matrix = np.eye(6)
    matrix[0, 0] = np.inf
    assert not np.isfinite(covariance_from_ros(matrix, POSE)).all()


@pytest.mark.parametrize("stamp", [0, 1, 10**9, 1527206741075612384, -1, -1500000000])
def test_stamps_split_and_join_exactly(stamp):
    seconds, nanoseconds = ns_to_stamp(stamp)
    assert 0 <= nanoseconds < 10**9
    assert stamp_to_ns(seconds, nanoseconds) == stamp
