"""Pose graphs: files in and out, first values, known minima, and what is wrong with bad files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.reference_table import GRAPHS
from dnls_ros.costs.point import seen_point
from dnls_ros.errors import DnlsError, UnreadableInputError
from dnls_ros.io.g2o import read_g2o, write_g2o
from dnls_ros.io.pose_graph import PoseGraph, square_root
from dnls_ros.lie import SE2, SE3, retract
from dnls_ros.linear import Dense, choose_solver
from dnls_ros.optim import LevenbergMarquardt, Solution, Tolerances, minimize
from dnls_ros.problem import Values, check_jacobians

F64 = torch.float64


def minimum(graph: PoseGraph, initial: Values) -> Solution:
    free = graph.free(initial)
    order = free.layout()[-1].stop
    linear = choose_solver("auto", order, torch.device("cpu"))[0]
    stop = Tolerances(cost=1e-10, step=0, gradient=0, iterations=100)
    return minimize(graph.problem(), free, LevenbergMarquardt(), linear, stop)


@pytest.mark.parametrize("name", GRAPHS)
def test_known_graphs_reach_their_minima_from_chordal_initialization(dnls_data, name):
    known = GRAPHS[name]
    graph = read_g2o(dnls_data(f"g2o/{name}.g2o"))
    if known.at_file is not None:
        given = graph.problem().objective(graph.free(graph.initial("file")))
        assert float(given) == pytest.approx(known.at_file, rel=1e-9)
    else:
        with pytest.raises(DnlsError, match="no pose vertices"):
            graph.initial("file")
    found = minimum(graph, graph.initial("chordal"))
    assert float(found.initial_cost) == pytest.approx(known.at_chordal, rel=1e-8)
    assert found.status[0].converged
    assert float(found.cost) == pytest.approx(known.minimum, rel=1e-10)


def noisy_loop(kind: type[SE2 | SE3], tmp_path: Path, seed: int = 0) -> Path:
    """A closed tour with correlated noise, two landmarks and a mounted sensor, as a file."""
    torch.manual_seed(seed)
    count, t = 12, kind.tangent_dim
    step: Any = torch.zeros(count, t, dtype=F64)
    step[:, 0], step[:, -1] = 1.0, 2 * torch.pi / count
    poses = [kind.exp(torch.randn(t, dtype=F64))]
    for k in range(count - 1):
        poses.append(poses[-1] @ kind.exp(step[k]))
    pairs = [(k, (k + 1) % count) for k in range(count)] + [(2, 7), (9, 4)]
    space = kind is SE3
    d = 3 if space else 2
    mount = kind.exp(0.3 * torch.randn(t, dtype=F64)) if space else SE2.identity(dtype=F64)
    points = 4 * torch.randn(2, d, dtype=F64)
    lines = []
    if space:
        lines.append("PARAMS_SE3OFFSET 3 " + numbers(mount.tensor))
    for k, pose in enumerate(poses):
        given = retract(pose, 0.1 * torch.randn(t, dtype=F64)) if k else pose
        tag = "VERTEX_SE3:QUAT" if space else "VERTEX_SE2"
        lines.append(f"{tag} {10 * k} " + numbers(given.tensor if space else given.xyt()))
    for k, point in enumerate(points):
        tag = "VERTEX_TRACKXYZ" if space else "VERTEX_XY"
        lines.append(f"{tag} {1000 + k} " + numbers(point + 0.1))
    lines += ["# who stays where it is", "FIX 0"]
    for i, j in pairs:
        z = retract(poses[i].between(poses[j]), 0.01 * torch.randn(t, dtype=F64))
        tag = "EDGE_SE3:QUAT" if space else "EDGE_SE2"
        measured = numbers(z.tensor if space else z.xyt())
        lines.append(f"{tag} {10 * i} {10 * j} {measured} {upper(t)}")
    for k in range(0, count, 2):
        for which in range(2):
            z = (poses[k] @ mount).inverse().act(points[which]) + 0.01 * torch.randn(d, dtype=F64)
            tag = "EDGE_SE3_TRACKXYZ" if space else "EDGE_SE2_XY"
            sensor = " 3" if space else ""
            lines.append(f"{tag} {10 * k} {1000 + which}{sensor} {numbers(z)} {upper(d)}")
    path = tmp_path / "tour.g2o"
    path.write_text("\n".join(lines) + "\n")
    return path


def numbers(tensor: torch.Tensor) -> str:
    return " ".join(map(repr, tensor.tolist()))


def upper(t: int) -> str:
    root = 10 * torch.eye(t, dtype=F64) + torch.randn(t, t, dtype=F64)
    rows, columns = torch.triu_indices(t, t)
    return numbers((root.mT @ root)[rows, columns])


@pytest.mark.parametrize("kind", [SE2, SE3])
def test_all_initializations_lead_to_the_same_minimum_with_landmarks(kind, tmp_path):
    graph = read_g2o(noisy_loop(kind, tmp_path))
    costs = []
    for how in ("file", "odometry", "tree", "chordal"):
        initial = graph.initial(how)
        anchor = initial["pose"].tensor[:, 0]
        assert torch.allclose(anchor, graph.poses["pose"].tensor[:, 0], atol=1e-12)
        found = minimum(graph, initial)
        assert found.status[0].converged
        assert found.initial_cost > 1.5 * found.cost
        costs.append(float(found.cost))
    assert costs == pytest.approx([costs[0]] * 4, rel=1e-9)
    m = 14 * kind.tangent_dim + 12 * (3 if kind is SE3 else 2)
    assert costs[0] < m  # the noise of 0.01 has about σ = 0.1 in the whitened residuals


@pytest.mark.parametrize("kind", [SE2, SE3])
def test_what_is_written_is_read_again(kind, tmp_path):
    graph = read_g2o(noisy_loop(kind, tmp_path))
    again = tmp_path / "again.g2o"
    write_g2o(again, graph)
    copy = read_g2o(again)
    assert torch.equal(copy.held, graph.held)
    for a, b in ((copy.poses, graph.poses), (copy.landmarks, graph.landmarks)):
        (name,) = a
        assert torch.equal(a.ids[name], b.ids[name])
        assert torch.allclose(*(getattr(v[name], "tensor", v[name]) for v in (a, b)), atol=1e-15)
    for one, other in ((copy.edges, graph.edges), (copy.sightings, graph.sightings)):
        assert torch.equal(one.information, other.information)
    assert torch.allclose(copy.edges.z.tensor, graph.edges.z.tensor, atol=1e-15)
    objective = [float(g.problem().objective(g.free(g.initial("file")))) for g in (graph, copy)]
    assert objective[0] == pytest.approx(objective[1], rel=1e-13)


def test_a_solved_graph_holds_its_anchor_and_starts_at_the_minimum(tmp_path):
    graph = read_g2o(noisy_loop(SE3, tmp_path))
    found = minimum(graph, graph.initial("chordal"))
    write_g2o(tmp_path / "solved.g2o", graph.moved(found.values))
    solved = read_g2o(tmp_path / "solved.g2o")
    cost = solved.problem().objective(solved.free(solved.initial("file")))
    assert float(cost) == pytest.approx(float(found.cost), rel=1e-12)
    first = [g.poses["pose"].tensor[0, 0] for g in (graph, solved)]
    assert torch.equal(*first)


def test_every_fixed_pose_is_a_constant(tmp_path):
    graph = read_g2o(noisy_loop(SE2, tmp_path))
    both = replace(graph, held=torch.tensor([0, 60]))
    initial = both.free(both.initial("chordal"))
    assert initial.ids["pose"].tolist() == [k for k in range(0, 120, 10) if k not in (0, 60)]
    names = {name.removeprefix("edges") for name in both.problem()}
    assert {"", "_held_0", "_held_1"} <= names
    assert float(minimum(both, both.initial("file")).cost) > float(
        minimum(graph, graph.initial("file")).cost
    )


def test_information_of_the_quaternion_is_four_times_that_of_the_angle(tmp_path):
    path = noisy_loop(SE3, tmp_path)
    plain, other = (read_g2o(path, r).edges.information for r in ("tangent", "quaternion"))
    torch.testing.assert_close(other[..., 3:, 3:], plain[..., 3:, 3:] / 4)
    torch.testing.assert_close(other[..., :3, 3:], plain[..., :3, 3:] / 2)
    assert torch.equal(other[..., :3, :3], plain[..., :3, :3])


def test_semidefinite_information_has_a_square_root():
    vectors = torch.linalg.qr(torch.randn(3, 3, dtype=F64))[0]
    omega = vectors @ torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=F64)) @ vectors.mT
    root = square_root(torch.stack([omega, torch.eye(3, dtype=F64)]))
    torch.testing.assert_close(root.mT @ root, torch.stack([omega, torch.eye(3, dtype=F64)]))


@pytest.mark.parametrize("kind", [SE2, SE3])
def test_jacobians_of_seen_points(kind):
    torch.manual_seed(3)
    n = 3 if kind is SE3 else 2
    for scale in (1.0, 1e-7, 1e-12):
        x, mount = (kind.exp(scale * torch.randn(kind.tangent_dim, dtype=F64)) for _ in range(2))
        p, z = (torch.randn(n, dtype=F64) for _ in range(2))
        worst = check_jacobians(seen_point, x, p, mount, z)
        assert worst["autodiff"] < 1e-12
        assert worst["numeric"] < 1e-8


SQUARE = """VERTEX_SE2 0 0 0 0
VERTEX_SE2 1 1 0 0
VERTEX_SE2 2 1 1 0
EDGE_SE2 0 1 1 0 0 1 0 0 1 0 1
EDGE_SE2 1 2 0 1 0 1 0 0 1 0 1
"""
BAD = {
    "truncated": (SQUARE[:-12], ":5: EDGE_SE2 has 9 numbers, got 3; the file may be truncated"),
    "too long": (SQUARE.replace("0 1\nEDGE", "0 1 7\nEDGE"), ":4: EDGE_SE2 has 9 numbers, got 10"),
    "not a number": (SQUARE.replace("1 1 0\n", "1 nan 0\n"), ":3: VERTEX_SE2: nan is not finite"),
    "no number": (
        SQUARE.replace("2 1 1 0\n", "2 1 one 0\n"),
        ":3: VERTEX_SE2: 'one' is no number",
    ),
    "tag": ("VERTEX_SIM3 0 1\n" + SQUARE, ":1: unknown tag 'VERTEX_SIM3'; known are EDGE_SE2"),
    "twice": (SQUARE + "VERTEX_SE2 1 0 0 0\n", ":6: id 1 is there already, in line 2"),
    "missing": (SQUARE + "EDGE_SE2 2 9 1 0 0 1 0 0 1 0 1\n", ":6: there is no pose vertex 9"),
    "itself": (SQUARE.replace("EDGE_SE2 1 2", "EDGE_SE2 2 2"), ":5: an edge from vertex 2 to its"),
    "fixed": (SQUARE + "FIX 5\n", ":6: there is no pose vertex 5"),
    "fix": (SQUARE + "FIX\n", ":6: FIX names no vertex"),
    "id": (SQUARE.replace("SE2 2 1 1 0", "SE2 2.5 1 1 0"), ":3: an id: '2.5' is no whole number"),
    "indefinite": (SQUARE.replace("1 0 0 1 0 1\nE", "1 0 0 1 0 -1\nE"), ":4: the information mat"),
    "mixed": (
        SQUARE + "VERTEX_SE3:QUAT 7 0 0 0 0 0 0 1\n",
        ":6: VERTEX_SE3:QUAT in a file of SE2",
    ),
    "unseen": (SQUARE + "VERTEX_XY 7 0 0\n", ":6: landmark 7 is seen by no edge"),
    "empty": ("", ": no edge between poses"),
    "vertices only": (SQUARE.split("EDGE")[0], ": no edge between poses"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_error_with_its_line(case, tmp_path):
    path = tmp_path / "bad.g2o"
    text, expected = BAD[case]
    path.write_text(text)
    with pytest.raises(UnreadableInputError) as caught:
        read_g2o(path)
    assert str(caught.value).startswith(f"{path}{expected}")


def test_a_quaternion_far_from_unit_length_and_an_unknown_sensor_are_refused(tmp_path):
    text = noisy_loop(SE3, tmp_path).read_text()
    for old, new, what in (
        ("PARAMS_SE3OFFSET 3", "PARAMS_SE3OFFSET 4", "sensor 3 has no PARAMS_SE3OFFSET line"),
        ("FIX 0", "VERTEX_SE3:QUAT 5 0 0 0 0 0 0 0", "the quaternion has length 0, expected 1"),
    ):
        path = tmp_path / "bad.g2o"
        path.write_text(text.replace(old, new))
        with pytest.raises(UnreadableInputError, match=what):
            read_g2o(path)


def test_graphs_in_pieces_and_chains_with_gaps_are_refused(tmp_path):
    path = tmp_path / "pieces.g2o"
    path.write_text(SQUARE + "EDGE_SE2 5 6 1 0 0 1 0 0 1 0 1\n".replace("5 6", "0 2"))
    graph = read_g2o(path)
    gap = replace(graph, edges=graph.edges.where(torch.tensor([False, True, True])))
    with pytest.raises(DnlsError, match="consecutive poses need an edge"):
        gap.initial("odometry")
    assert gap.initial("tree").ids["pose"].tolist() == [0, 1, 2]
    pieces = replace(
        graph, poses=None, edges=graph.edges.where(torch.tensor([True, False, False]))
    )
    pieces = replace(pieces, held=torch.tensor([0]), poses=graph.poses)
    with pytest.raises(DnlsError, match=r"1 poses have no edge to another pose, first ids \[2\]"):
        pieces.initial("chordal")
    path.write_text("\n".join(SQUARE.splitlines()[3:4]) + "\nEDGE_SE2 5 6 1 0 0 1 0 0 1 0 1\n")
    with pytest.raises(DnlsError, match=r"2 of 4 poses cannot be reached .* \[5, 6\]"):
        read_g2o(path).initial("chordal")


def test_two_fixed_poses_need_vertices(tmp_path):
    path = tmp_path / "fixed.g2o"
    path.write_text("\n".join(SQUARE.splitlines()[3:]) + "\nFIX 0 2\n")
    with pytest.raises(DnlsError, match="2 poses are fixed but the file has no vertices"):
        read_g2o(path).initial("chordal")
    only = tmp_path / "only.g2o"
    only.write_text("\n".join([*SQUARE.splitlines()[:2], *SQUARE.splitlines()[3:4], "FIX 0 1"]))
    with pytest.raises(DnlsError, match="nothing to optimize"):
        read_g2o(only).problem()


def test_the_dense_solver_agrees(dnls_data):
    graph = read_g2o(dnls_data("g2o/tinyGrid3D.g2o"))
    free = graph.free(graph.initial("chordal"))
    found = minimize(graph.problem(), free, LevenbergMarquardt(), Dense(), Tolerances(cost=1e-12))
    assert float(found.cost) == pytest.approx(GRAPHS["tinyGrid3D"].minimum, rel=1e-10)
