"""Evaluation figures: equal to evo's, and what they must be where the answer is known."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from dnls_ros.errors import DnlsError
from dnls_ros.io.alignment import Alignment, align
from dnls_ros.io.association import nearest
from dnls_ros.io.consistency import consistency, pool, pose_errors, whiten
from dnls_ros.io.evaluation import (
    EvaluationOptions,
    associate,
    ate,
    coverage,
    evaluate,
    interpolate,
    rpe,
)
from dnls_ros.io.trajectory import Trajectory, read_tum, write_tum
from dnls_ros.lie import SE3

sync = pytest.importorskip("evo.core.sync")
metrics = pytest.importorskip("evo.core.metrics")
file_interface = pytest.importorskip("evo.tools.file_interface")
torch = pytest.importorskip("torch")

REFERENCE = "freiburg1_xyz-groundtruth.txt"
ESTIMATES = ("freiburg1_xyz-rgbdslam.txt", "freiburg1_xyz-ORB_kf_mono.txt")


def walk(count: int, seed: int, step: int = 50_000_000) -> Trajectory:
    """A smooth wandering path in space."""
    random = np.random.default_rng(seed)
    stamps = 1_000_000_000 + step * np.arange(count, dtype=np.int64)
    positions = np.cumsum(np.cumsum(random.normal(size=(count, 3)), axis=0), axis=0) * 1e-3
    turns = Rotation.from_rotvec(np.cumsum(random.normal(size=(count, 3)), axis=0) * 0.02)
    return Trajectory(stamps, np.hstack([positions, turns.as_quat()]))


def disturbed(truth: Trajectory, sigma: float, seed: int, covariances: bool = True) -> Trajectory:
    """An estimate whose tangent errors are independent, with the covariances that say so."""
    random = np.random.default_rng(seed)
    sigmas = sigma * np.array([1.0, 2.0, 0.5, 0.2, 0.3, 1.0])
    errors = random.normal(size=(len(truth), 6)) * sigmas
    step = SE3.exp(torch.from_numpy(-errors))
    poses = (SE3(torch.from_numpy(truth.poses)) @ step).tensor.numpy()
    claimed = np.broadcast_to(np.diag(sigmas**2), (len(truth), 6, 6)).copy()
    return Trajectory(truth.stamps, poses, claimed if covariances else None)


def moved(trajectory: Trajectory, scale: float = 1.0) -> Trajectory:
    """The trajectory in another world frame."""
    turn = Rotation.from_rotvec([0.3, -0.8, 1.9]).as_matrix()
    poses = Alignment(turn, np.array([3.0, -2.0, 7.0]), scale).apply(trajectory.poses)
    return Trajectory(trajectory.stamps, poses, trajectory.covariances)


@pytest.fixture(scope="module", params=["generated", "generated_sparse", *ESTIMATES])
def pair(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    dnls_data: Callable[[str], Path],
) -> tuple[Path, Path]:
    """Paths of an estimate and its reference."""
    if request.param in ESTIMATES:
        return tuple(dnls_data(f"traj/evo/{name}") for name in (request.param, REFERENCE))
    folder = tmp_path_factory.mktemp("tum")
    truth = walk(1500, seed=1, step=20_000_000)
    every = 7 if request.param == "generated_sparse" else 2
    kept = Trajectory(truth.stamps[3::every] + 1_234_567, truth.poses[3::every])
    write_tum(folder / "truth.tum", truth)
    write_tum(folder / "est.tum", moved(disturbed(kept, 0.05, 2), 0.7))
    return folder / "est.tum", folder / "truth.tum"


@pytest.fixture(scope="module")
def by_evo(pair: tuple[Path, Path]):
    reference = file_interface.read_tum_trajectory_file(str(pair[1]))
    estimate = file_interface.read_tum_trajectory_file(str(pair[0]))
    return sync.associate_trajectories(reference, estimate, max_diff=0.01)


@pytest.fixture(scope="module")
def by_us(pair: tuple[Path, Path]) -> tuple[Trajectory, Trajectory]:
    return associate(read_tum(pair[0]), read_tum(pair[1]), max_diff=0.01)


def evo_statistics(metric, reference, estimate) -> dict[str, float]:
    metric.process_data((reference, estimate))
    return metric.get_all_statistics()


def same(ours, evo: dict[str, float]) -> None:
    for name in ("rmse", "mean", "median", "max"):
        assert getattr(ours, name) == pytest.approx(evo[name], abs=1e-6, rel=1e-9)


def test_the_same_poses_are_paired_as_in_evo(by_evo, by_us) -> None:
    reference, estimate = by_evo
    assert len(by_us[0]) == estimate.num_poses
    np.testing.assert_allclose(by_us[0].poses[:, :3], estimate.positions_xyz, atol=1e-9)
    np.testing.assert_allclose(by_us[1].poses[:, :3], reference.positions_xyz, atol=1e-9)


@pytest.mark.parametrize("mode", ["none", "se3", "sim3"])
def test_ate_equals_evos(by_evo, by_us, mode: str) -> None:
    reference, estimate = by_evo
    aligned = copy.deepcopy(estimate)
    if mode != "none":
        aligned.align(reference, correct_scale=mode == "sim3")
    relation = metrics.PoseRelation
    same(
        ate(*by_us, mode),
        evo_statistics(metrics.APE(relation.translation_part), reference, aligned),
    )
    whole = evaluate(*by_us, EvaluationOptions(align=mode))
    same(
        whole.translation,
        evo_statistics(metrics.APE(relation.translation_part), reference, aligned),
    )
    same(
        whole.rotation,
        evo_statistics(metrics.APE(relation.rotation_angle_rad), reference, aligned),
    )


@pytest.mark.parametrize("every", [False, True])
@pytest.mark.parametrize(("delta", "unit"), [(1, "f"), (13, "f"), (0.3, "m"), (1.1, "m")])
def test_rpe_equals_evos(by_evo, by_us, delta: float, unit: str, every: bool) -> None:
    reference, estimate = by_evo
    ours = rpe(*by_us, delta, unit, all_pairs=every)
    units = {"f": metrics.Unit.frames, "m": metrics.Unit.meters}
    for mine, relation in (
        (ours.translation, metrics.PoseRelation.translation_part),
        (ours.rotation, metrics.PoseRelation.rotation_angle_rad),
    ):
        theirs = metrics.RPE(relation, delta, units[unit], all_pairs=every)
        same(mine, evo_statistics(theirs, reference, estimate))
        assert mine.count == len(theirs.error)


def test_rpe_in_seconds_is_rpe_in_frames_where_the_rate_is_constant() -> None:
    truth = walk(400, 3)
    estimate = disturbed(truth, 0.02, 4)
    for every in (False, True):
        assert rpe(estimate, truth, 1.0, "s", every) == rpe(estimate, truth, 20, "f", every)


def test_an_estimate_in_another_frame_is_aligned_back() -> None:
    truth = walk(300, 5)
    assert ate(moved(truth), truth, "se3").max < 1e-12
    assert ate(moved(truth, 0.3), truth, "sim3").max < 1e-12
    assert ate(moved(truth), truth, "none").rmse > 1.0
    assert evaluate(
        moved(truth, 0.4), truth, EvaluationOptions(align="sim3")
    ).scale == pytest.approx(2.5)


def test_yaw_alignment_is_the_best_turn_about_the_vertical() -> None:
    truth = walk(300, 6)
    turn = Rotation.from_euler("z", -2.2).as_matrix()
    turned = Alignment(turn, np.array([1.0, 2.0, 3.0])).apply(truth.poses)
    fit = align(turned[:, :3], truth.poses[:, :3], "yaw")
    np.testing.assert_allclose(pose_errors(fit.apply(turned), truth.poses), 0.0, atol=1e-12)
    noisy = disturbed(moved(truth), 0.1, 7).poses[:, :3]
    best = align(noisy, truth.poses[:, :3], "yaw")

    def cost(angle: float) -> float:
        rotation = Rotation.from_euler("z", angle).as_matrix()
        shifted = (noisy - noisy.mean(axis=0)) @ rotation.T
        return float(np.sum((shifted - truth.poses[:, :3] + truth.poses[:, :3].mean(axis=0)) ** 2))

    angle = float(np.arctan2(best.rotation[1, 0], best.rotation[0, 0]))
    assert all(cost(angle) < cost(angle + step) for step in (-1e-4, 1e-4, 1.0, 2.0, 3.0, 4.0, 5.0))


def test_positions_on_a_line_are_refused_by_se3_and_fine_for_yaw() -> None:
    line = np.outer(np.arange(10.0), [1.0, 2.0, 0.0])
    with pytest.raises(DnlsError, match="lie on one line"):
        align(line, line, "se3")
    np.testing.assert_allclose(align(line, line, "yaw").rotation, np.eye(3), atol=1e-12)
    with pytest.raises(DnlsError, match="do not move"):
        align(np.zeros((4, 3)), np.zeros((4, 3)), "yaw")
    with pytest.raises(DnlsError, match="got 'se2', expected one of se3"):
        align(line, line, "se2")  # pyright: ignore[reportArgumentType]


def test_nearest_pairs_are_those_of_a_search_over_all() -> None:
    random = np.random.default_rng(8)
    first = np.unique(random.integers(0, 10**9, 200))
    second = np.unique(random.integers(0, 10**9, 300))
    distance = np.abs(first[:, None] - second)
    expected = np.argmin(distance, axis=1)
    near = distance[np.arange(len(first)), expected] <= 2_000_000
    ids, partners = nearest(first, second, 0.002)
    np.testing.assert_array_equal(ids, np.flatnonzero(near))
    np.testing.assert_array_equal(partners, expected[near])


def test_no_common_stamps_say_both_spans() -> None:
    truth = walk(10, 9)
    late = Trajectory(truth.stamps + 10**12, truth.poses)
    for pairing in (associate, interpolate):
        with pytest.raises(DnlsError, match=r"10 poses from 1001\.000 to 1001\.450 s"):
            pairing(late, truth)
    with pytest.raises(DnlsError, match="use associate"):
        ate(truth, walk(11, 9))


def test_interpolation_takes_the_time_offset_out_of_the_error() -> None:
    truth = walk(500, 10)
    stamps = truth.stamps[1:-1] + 9_000_000
    estimate = Trajectory(stamps, truth.at(stamps))
    assert evaluate(estimate, truth).translation.rmse > 1e-4
    exact = evaluate(estimate, truth, EvaluationOptions(max_diff=0.03, interpolate=True))
    assert exact.translation.max < 1e-12
    assert exact.poses == 498


def test_reference_gaps_are_not_interpolated_over() -> None:
    truth = walk(100, 11)
    kept = np.r_[0:40, 60:100]
    gappy = Trajectory(truth.stamps[kept], truth.poses[kept])
    assert len(interpolate(truth, gappy, 0.03)[0]) == 80
    assert len(interpolate(truth, gappy, 1.0)[0]) == 100


def test_pose_errors_are_the_tangents_that_lead_to_the_reference() -> None:
    random = np.random.default_rng(12)
    estimate = walk(60, 12).poses
    tangents = random.normal(size=(60, 6)) * np.logspace(-9, 0.2, 60)[:, None]
    reference = (SE3(torch.from_numpy(estimate)) @ SE3.exp(torch.from_numpy(tangents))).tensor
    found = pose_errors(estimate, reference.numpy())
    np.testing.assert_allclose(found, tangents, atol=2e-14 * 60, rtol=1e-6)


def test_honest_covariances_have_a_mean_nees_inside_the_interval() -> None:
    inside = 0
    for seed in range(60):
        truth = walk(200, seed)
        result = evaluate(disturbed(truth, 0.01, seed + 100), truth).consistency
        assert result is not None
        assert result.dof == 6
        inside += result.inside
    assert 52 <= inside <= 60  # 95 % of 60, within the 0.5 % tails of the binomial


@pytest.mark.parametrize(("factor", "side"), [(0.5, 4.0), (2.0, 0.25)])
def test_wrong_covariances_are_found_out(factor: float, side: float) -> None:
    truth = walk(500, 13)
    estimate = disturbed(truth, 0.01, 14)
    assert estimate.covariances is not None
    claimed = Trajectory(estimate.stamps, estimate.poses, estimate.covariances * factor**2)
    result = evaluate(claimed, truth).consistency
    assert result is not None
    assert result.mean == pytest.approx(side, rel=0.1)
    assert not result.inside


def test_a_rigid_alignment_leaves_the_nees_alone() -> None:
    truth = walk(300, 15)
    estimate = disturbed(truth, 0.001, 16)
    plain, aligned = evaluate(estimate, truth), evaluate(moved(estimate), moved(truth))
    assert plain.consistency is not None
    assert aligned.consistency is not None
    assert aligned.consistency.mean == pytest.approx(plain.consistency.mean, rel=1e-9)
    assert evaluate(estimate, truth, EvaluationOptions(align="sim3")).consistency is None


def test_correlated_errors_widen_the_interval_as_much_as_they_spread_the_mean() -> None:
    random = np.random.default_rng(17)
    memory, inside, inside_independent = 0.9, 0, 0
    for _ in range(100):
        series = np.zeros((800, 3))
        drive = random.normal(size=(900, 3)) * np.sqrt(1 - memory**2)
        state = random.normal(size=3)
        for k in range(900):
            state = memory * state + drive[k]
            if k >= 100:
                series[k - 100] = state
        result = consistency(series)
        inside += result.inside
        inside_independent += (
            result.interval_independent[0] <= result.mean <= result.interval_independent[1]
        )
    stretch = (1 + memory**2) / (1 - memory**2)
    assert result.equivalent_dof == pytest.approx(2400 / stretch, rel=0.35)
    assert inside >= 87
    assert inside_independent < 60


def test_the_interval_for_independent_instants_is_the_chi_square_one() -> None:
    result = consistency(np.random.default_rng(18).normal(size=(500, 3)))
    low, high = chi2.ppf([0.025, 0.975], 1500) / 1500
    assert result.interval_independent == pytest.approx((low, high))
    assert result.equivalent_dof == pytest.approx(1500, rel=0.1)
    both = pool([result, result])
    assert both.mean == pytest.approx(result.mean)
    assert both.instants == 1000
    assert both.equivalent_dof == pytest.approx(2 * result.equivalent_dof)


def test_a_planar_estimate_is_tested_on_its_three_axes() -> None:
    truth = walk(400, 19)
    poses = truth.poses.copy()
    poses[:, 2:5] = 0.0
    poses[:, 5:] /= np.linalg.norm(poses[:, 5:], axis=1, keepdims=True)
    random, claimed = np.random.default_rng(20), np.zeros((400, 6, 6))
    claimed[:, [0, 1, 5], [0, 1, 5]] = [1e-4, 4e-4, 1e-5]
    errors = random.normal(size=(400, 6)) * np.sqrt(claimed[0].diagonal())
    step = SE3.exp(torch.from_numpy(-errors))
    estimate = Trajectory(
        truth.stamps, (SE3(torch.from_numpy(poses)) @ step).tensor.numpy(), claimed
    )
    result = evaluate(estimate, Trajectory(truth.stamps, poses))
    assert result.consistency is not None
    assert result.consistency.dof == 3
    assert result.consistency.inside
    assert result.yaw.rmse == pytest.approx(np.sqrt(1e-5), rel=0.15)


def test_bad_covariances_are_refused_with_their_axes() -> None:
    errors, good = np.zeros((2, 6)), np.broadcast_to(np.eye(6), (2, 6, 6)).copy()
    for bad in (-1.0, np.nan):
        broken = good.copy()
        broken[1, 2, 2] = bad
        with pytest.raises(DnlsError, match=r"axes \[2\] is not finite and positive definite"):
            whiten(errors, broken, [2])
        assert whiten(errors, broken, [0, 5]).shape == (2, 2)
    with pytest.raises(DnlsError, match="nothing to test"):
        whiten(errors, good, [])


def test_coverage_is_the_share_of_the_time_with_an_estimate() -> None:
    truth = walk(1001, 21, step=10_000_000)
    assert coverage(truth, truth) == 1.0
    half = Trajectory(truth.stamps[:501], truth.poses[:501])
    assert coverage(half, truth) == pytest.approx(0.5)
    kept = np.r_[0:301, 601:1001]
    gap = Trajectory(truth.stamps[kept], truth.poses[kept])
    assert coverage(gap, truth) == pytest.approx(0.699, abs=1e-9)
    assert coverage(gap, truth, max_gap=5.0) == 1.0
    sparse = Trajectory(truth.stamps[::40], truth.poses[::40])
    assert coverage(sparse, truth) == 1.0


@pytest.mark.parametrize(("delta", "unit"), [(0.0, "s"), (1.5, "f"), (1.0, "km"), (-1.0, "m")])
def test_a_wrong_distance_for_the_rpe_is_refused(delta: float, unit: str) -> None:
    truth = walk(10, 22)
    with pytest.raises(DnlsError, match="rpe: got delta"):
        rpe(truth, truth, delta, unit)  # pyright: ignore[reportArgumentType]
    with pytest.raises(DnlsError, match="no two poses are 60 s apart"):
        rpe(truth, truth, 60.0, "s")


def test_the_figures_are_plain_numbers() -> None:
    truth = walk(50, 23)
    figures = evaluate(disturbed(truth, 0.01, 24), truth).as_dict()
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    without = evaluate(disturbed(truth, 0.01, 24, covariances=False), truth).as_dict()
    assert without["nees_per_dof"] is None
    assert without.keys() == figures.keys()
