"""Shapes of pushed objects: distances, limit surfaces, outlines."""

import numpy as np
import pytest
import torch

from dnls_ros.costs import Disc, Ellipse, Polygon, Rectangle, Shape, distance_field_of, shape_of
from dnls_ros.errors import DnlsError

L_SHAPE = Polygon(np.array([[0, 0], [3, 0], [3, 1], [1, 1], [1, 2], [0, 2]]) * 0.05)
SHAPES: dict[str, Shape] = {
    "disc": Disc(0.07),
    "rect": Rectangle(0.24, 0.16),
    "ellipse": Ellipse(0.05, 0.11),
    "long ellipse": Ellipse(0.2, 0.01),
    "triangle": Polygon(np.array([[-0.05, -0.04], [0.08, -0.03], [0.0, 0.09]])),
    "L": L_SHAPE,
}
every = pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))


@every
def test_the_outline_has_distance_zero_and_inside_is_negative(shape: Shape) -> None:
    points = shape.outline(400)
    assert np.abs(shape.signed_distance(points)).max() < 1e-12
    forward = np.roll(points, -1, 0) - np.roll(points, 1, 0)
    normal = np.stack([forward[:, 1], -forward[:, 0]], 1)  # to the right of counter-clockwise
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    assert (shape.signed_distance(points + 1e-4 * normal) > 0).mean() > 0.97  # but for corners
    assert (shape.signed_distance(points - 1e-4 * normal) < 0).mean() > 0.97


@every
def test_distances_are_those_to_the_nearest_point_of_the_outline(shape: Shape) -> None:
    random = np.random.default_rng(0)
    points = random.uniform(-0.3, 0.3, (300, 2))
    points[0], points[1], points[2] = (0, 0), (0.001, 0), (0, 0.02)
    outline = shape.outline(20000)
    nearest = np.linalg.norm(points[:, None] - outline, axis=2).min(1)
    np.testing.assert_allclose(np.abs(shape.signed_distance(points)), nearest, atol=4e-5)


@every
def test_the_friction_ratio_is_the_mean_distance_under_uniform_pressure(shape: Shape) -> None:
    random = np.random.default_rng(1)
    reach = np.abs(shape.outline(200)).max(0)
    points = random.uniform(-reach, reach, (400_000, 2))
    inside = points[shape.signed_distance(points) < 0]
    mean = np.linalg.norm(inside, axis=1).mean()
    assert shape.friction_ratio() == pytest.approx(mean, rel=3e-3)


def test_friction_ratios_in_closed_form() -> None:
    assert Disc(0.3).friction_ratio() == pytest.approx(0.2, rel=1e-14)
    assert Ellipse(0.3, 0.3).friction_ratio() == pytest.approx(0.2, rel=1e-14)
    # A square of side 1: (√2 + asinh 1)/6.
    square = (np.sqrt(2) + np.arcsinh(1)) / 6
    assert Rectangle(1.0, 1.0).friction_ratio() == pytest.approx(square, rel=1e-14)
    moved = Polygon(Rectangle(1.0, 1.0).vertices + np.array([5.0, 0.0]))  # about another point
    assert moved.friction_ratio() == pytest.approx(5.0, rel=0.01)
    np.testing.assert_allclose(moved.centroid, [5.0, 0.0], atol=1e-14)


@every
def test_the_distance_field_is_that_of_the_shape(shape: Shape) -> None:
    field = distance_field_of(shape, 0.001, 0.03)
    outline = shape.outline(99)
    points = np.random.default_rng(2).uniform(outline.min(0), outline.max(0), (200, 2))
    found = field.at(torch.from_numpy(points))[0].numpy()
    np.testing.assert_allclose(found, shape.signed_distance(points), atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "size", "told"),
    [
        ("cube", [1], "no shape 'cube'"),
        ("rect", [0.1], "expected 2"),
        ("disc", [-0.1], "positive"),
        ("ellipse", [0.1, float("nan")], "positive"),
        ("polygon", [0, 0, 1, 0], "x and y of each"),
        ("polygon", [0, 0, 0, 1, 1, 0], "reverse"),
        ("polygon", [0, 0, 1, 0, float("inf"), 0], "finite"),
    ],
)
def test_no_shape_can_be_made_of_it(kind: str, size: list[float], told: str) -> None:
    with pytest.raises(DnlsError, match=told):
        shape_of(kind, size)


def test_shapes_by_name() -> None:
    assert shape_of("disc", [0.1]) == Disc(0.1)
    assert shape_of("ellipse", [0.1, 0.2]) == Ellipse(0.1, 0.2)
    made = shape_of("rect", [0.2, 0.1]), shape_of("polygon", [-1, -1, 1, -1, 1, 1])
    assert all(isinstance(shape, Polygon) for shape in made)
