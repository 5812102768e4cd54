"""A robot that drives laps on a plane, and what its sensors say about it.

The simulator is the estimator's opponent: it shares no residual, camera or Lie-group code with it,
only NumPy and SciPy. Truth is a smooth closed curve known at any time. Each sensor draws from its
own random stream, so that one sensor's settings do not change another's noise. What a covariance
claims is what the noise is: the absolute poses' and the corners' exactly, the odometry's with its
biases and slips counted as if they were white.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from dnls_ros.errors import DnlsError
from dnls_ros.io.scene import Array, CameraSensor, OdometrySensor, Route, Scene, Tag

Stamps = NDArray[np.int64]

START_STAMP = (
    1_700_000_000_000_000_000  # any fixed time: recordings must not depend on the clock [ns]
)


@dataclass(frozen=True, eq=False)
class OdometryLog:
    """Planar odometry: poses (n, 3) = (x, y, yaw) and twists (n, 3) = (vx, vy, yaw rate).

    Poses are in the odom frame, ``pose_covariances`` (n, 3, 3) in its fixed axes,
    ``twist_covariance`` (3, 3) in body axes. The twist of a message is the mean over the interval
    that ends at its stamp; the first one repeats the second.
    """

    stamps: Stamps
    poses: Array
    pose_covariances: Array
    twists: Array
    twist_covariance: Array


@dataclass(frozen=True, eq=False)
class Detection:
    """One tag in one image: corners (4, 2) in the detector's order [px] and a decision margin."""

    id: int
    corners: Array
    margin: float


@dataclass(frozen=True, eq=False)
class ImageLog:
    """What the tag detector found in each image."""

    stamps: Stamps
    detections: tuple[tuple[Detection, ...], ...]


@dataclass(frozen=True, eq=False)
class AbsoluteLog:
    """Absolute planar poses (n, 3) with one covariance (3, 3) of (x, y, yaw) in world axes."""

    stamps: Stamps
    poses: Array
    covariance: Array


@dataclass(frozen=True, eq=False)
class Recording:
    """One simulated run.

    ``truth`` (n, 3) = (x, y, yaw) at ``truth_stamps``: the regular grid ``truth_grid`` and every
    sensor's stamps.
    """

    seed: int
    duration: float
    scene: Scene
    odometry: OdometryLog
    images: ImageLog
    absolute: AbsoluteLog
    truth_grid: Stamps
    truth_stamps: Stamps
    truth: Array


@dataclass(frozen=True, eq=False)
class Lap:
    """The true motion: distance along a closed curve over time, and the pose from distance."""

    curve: CubicSpline
    parameter_of_distance: CubicSpline
    length: float
    route: Route
    offset: float

    def at(self, seconds: Array) -> Array:
        """(x, y, yaw) at the given times (n,) [s] since the start, yaw in (-π, π]."""
        route = self.route
        rate = 2 * np.pi / route.speed_period
        ripple = route.speed_variation / rate * (1 - np.cos(rate * seconds))
        distance = self.offset + route.speed * (seconds + ripple)
        parameter = self.parameter_of_distance(np.mod(distance, self.length))
        position, tangent = self.curve(parameter), self.curve(parameter, 1)
        return np.column_stack([position, np.arctan2(tangent[:, 1], tangent[:, 0])])


def make_lap(route: Route, start: float) -> Lap:
    """The motion along a route that starts at the fraction ``start`` of its length."""
    points = np.array([*route.waypoints, route.waypoints[0]])
    curve = CubicSpline(np.arange(len(points)), points, bc_type="periodic")
    parameter = np.linspace(0.0, len(points) - 1.0, 200 * len(points))
    speed = np.linalg.norm(curve(parameter, 1), axis=1)
    distance = CubicSpline(parameter, speed).antiderivative()(parameter)
    length = float(distance[-1])
    return Lap(curve, CubicSpline(distance, parameter), length, route, start * length)


def simulate(seed: int, duration: float, scene: Scene) -> Recording:
    """A recording of ``duration`` seconds; the same seed gives the same numbers.

    Raises:
        DnlsError: ``duration`` is shorter than one second or not finite, or the seed is negative.
    """
    if not np.isfinite(duration) or duration < 1.0 or seed < 0:
        raise DnlsError(
            f"simulate: got seed={seed}, duration={duration}; expected seed >= 0, duration >= 1 s"
        )
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(4)]
    lap = make_lap(scene.route, streams[0].uniform())
    odometry = _odometry(lap, duration, scene.odometry, streams[1])
    images = _images(lap, duration, scene, streams[2])
    absolute = _absolute(lap, duration, scene, streams[3])
    grid = _stamps(_times(duration, scene.truth_rate))
    stamps = np.unique(np.concatenate([grid, odometry.stamps, images.stamps, absolute.stamps]))
    truth = lap.at(_seconds(stamps))
    return Recording(seed, duration, scene, odometry, images, absolute, grid, stamps, truth)


def _times(duration: float, rate: float, phase: float = 0.0) -> Array:
    return phase + np.arange(int(np.floor((duration - phase) * rate + 1e-9)) + 1) / rate


def _stamps(seconds: Array) -> Stamps:
    return START_STAMP + np.round(seconds * 1e9).astype(np.int64)


def _seconds(stamps: Stamps) -> Array:
    return np.multiply(stamps - START_STAMP, 1e-9, dtype=np.float64)


def wrap(angle: Array) -> Array:
    """The angle in (-π, π] [rad]."""
    return -np.mod(np.pi - angle, 2 * np.pi) + np.pi


def _mean_twists(poses: Array, interval: float) -> Array:
    """The constant twists (n-1, 3) that carry each planar pose (n, 3) to the next."""
    step = np.diff(poses, axis=0)
    turn = wrap(step[:, 2])
    cos, sin = np.cos(poses[:-1, 2]), np.sin(poses[:-1, 2])
    forward = cos * step[:, 0] + sin * step[:, 1]
    lateral = -sin * step[:, 0] + cos * step[:, 1]
    half = turn / 2
    stretch = 1 / np.sinc(half / np.pi)  # half / sin(half)
    along = stretch * (np.cos(half) * forward + np.sin(half) * lateral)
    aside = stretch * (-np.sin(half) * forward + np.cos(half) * lateral)
    return np.column_stack([along, aside, turn]) / interval


def _integrate(twists: Array, interval: float) -> Array:
    """Planar poses (n+1, 3) from the origin on by constant twists (n, 3)."""
    yaw = np.concatenate([[0.0], np.cumsum(twists[:, 2] * interval)])
    half = twists[:, 2] * interval / 2
    chord = np.sinc(half / np.pi)[:, None] * twists[:, :2] * interval
    direction = yaw[:-1] + half
    cos, sin = np.cos(direction), np.sin(direction)
    step = np.column_stack(
        [cos * chord[:, 0] - sin * chord[:, 1], sin * chord[:, 0] + cos * chord[:, 1]]
    )
    position = np.vstack([np.zeros(2), np.cumsum(step, axis=0)])
    return np.column_stack([position, wrap(yaw)])


def _slip_mask(
    count: int, sensor: OdometrySensor, random: np.random.Generator
) -> tuple[Array, Array]:
    """For each interval 1 or 0 (slipping or not), and the sign of its slip in yaw."""
    mask, sign = np.zeros(count), np.zeros(count)
    time = random.exponential(sensor.slip.mean_interval)
    while time < count / sensor.rate:
        first = int(time * sensor.rate)
        last = first + round(sensor.slip.duration * sensor.rate)
        mask[first:last], sign[first:last] = 1.0, random.choice([-1.0, 1.0])
        time += sensor.slip.duration + random.exponential(sensor.slip.mean_interval)
    return mask, sign


def _biases(sensor: OdometrySensor, random: np.random.Generator) -> tuple[float, float]:
    """This recording's forward scale error and yaw-rate bias [rad/s], of random sign."""
    signs = random.choice([-1.0, 1.0], size=2)
    spread = random.uniform(0.8, 1.2, size=2)
    scale_error, bias = signs * spread * [sensor.scale_error, sensor.yaw_bias]
    return float(scale_error), float(bias)


def _claimed_twist_covariance(sensor: OdometrySensor, speed: float) -> Array:
    """The mean square error (3, 3) of a twist: noise, with biases and slips as if white."""
    slip = sensor.slip
    share = slip.duration / (slip.duration + slip.mean_interval)
    bias = np.array([sensor.scale_error * speed, 0.0, sensor.yaw_bias])
    slipping = share * np.array([slip.magnitude * speed, 0.0, slip.yaw_rate]) ** 2
    return np.diag(np.square(sensor.sigma) + bias**2 + slipping)


def _odometry(
    lap: Lap, duration: float, sensor: OdometrySensor, random: np.random.Generator
) -> OdometryLog:
    seconds, interval = _times(duration, sensor.rate), 1 / sensor.rate
    true_twists = _mean_twists(lap.at(seconds), interval)
    count = len(true_twists)
    scale_error, bias = _biases(sensor, random)
    slipping, sign = _slip_mask(count, sensor, random)
    twists = true_twists + random.normal(size=(count, 3)) * sensor.sigma
    twists[:, 0] += true_twists[:, 0] * (scale_error + sensor.slip.magnitude * slipping)
    twists[:, 2] += bias + sensor.slip.yaw_rate * sign
    covariance = _claimed_twist_covariance(sensor, lap.route.speed)
    poses = _integrate(twists, interval)
    return OdometryLog(
        _stamps(seconds),
        poses,
        _pose_covariances(poses, covariance * interval**2),
        np.vstack([twists[:1], twists]),
        covariance,
    )


def _pose_covariances(poses: Array, step_covariance: Array) -> Array:
    """First-order growth (n, 3, 3) of the integrated pose's covariance, in fixed odom axes."""
    covariances = np.zeros((len(poses), 3, 3))
    covariances[0] = 1e-12 * np.eye(
        3
    )  # exact, but a singular covariance would be refused by its readers
    for k in range(1, len(poses)):
        step = poses[k, :2] - poses[k - 1, :2]
        carry = np.array([[1.0, 0.0, -step[1]], [0.0, 1.0, step[0]], [0.0, 0.0, 1.0]])
        cos, sin = np.cos(poses[k - 1, 2]), np.sin(poses[k - 1, 2])
        turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        covariances[k] = carry @ covariances[k - 1] @ carry.T + turn @ step_covariance @ turn.T
    return covariances


def _absolute(lap: Lap, duration: float, scene: Scene, random: np.random.Generator) -> AbsoluteLog:
    sensor = scene.absolute
    seconds = _times(duration, sensor.rate, sensor.phase)
    poses = lap.at(seconds) + random.normal(size=(len(seconds), 3)) * sensor.sigma
    poses[:, 2] = wrap(poses[:, 2])
    return AbsoluteLog(_stamps(seconds), poses, np.diag(np.square(sensor.sigma)))


def _images(lap: Lap, duration: float, scene: Scene, random: np.random.Generator) -> ImageLog:
    camera = scene.camera
    seconds = _times(duration, camera.rate, camera.phase)
    jitter = np.clip(
        random.normal(0.0, camera.jitter, len(seconds)), -3 * camera.jitter, 3 * camera.jitter
    )
    stamps = _stamps(np.clip(seconds + jitter, 0.0, duration))
    poses = lap.at(_seconds(stamps))
    return ImageLog(stamps, tuple(_detect(pose, scene, random) for pose in poses))


def _detect(pose: Array, scene: Scene, random: np.random.Generator) -> tuple[Detection, ...]:
    """The tags that the detector reports in an image taken at a planar pose (3,)."""
    camera = scene.camera
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    world_R_base = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
    world_R_camera = world_R_base @ camera.base_R_camera
    world_p_camera = np.array([pose[0], pose[1], 0.0]) + world_R_base @ camera.base_p_camera
    found: list[Detection] = []
    for tag in scene.tags:
        pixels = _visible_corners(tag, world_R_camera, world_p_camera, camera)
        if pixels is None:
            continue
        # Drawn for every visible tag: one missed tag does not change the noise of the others.
        noise, luck = random.normal(0.0, camera.corner_sigma, (4, 2)), random.uniform()
        if luck >= camera.miss_probability:
            found.append(Detection(tag.id, pixels + noise, _shortest_side(pixels)))
    return tuple(found)


def _visible_corners(
    tag: Tag, rotation: Array, position: Array, camera: CameraSensor
) -> Array | None:
    """The exact corners (4, 2) [px] of a tag, or None where a detector would not find it."""
    sight = position - tag.position
    if tag.rotation[:, 2] @ sight <= np.cos(camera.max_view) * np.linalg.norm(sight):
        return None
    points = (tag.corners() - position) @ rotation
    # Far outside the image the distortion polynomial folds back into it.
    if np.any(points[:, 2] < 0.1) or np.any(np.abs(points[:, :2]) > 1.1 * points[:, 2:]):
        return None
    pixels = project(points, camera)
    upper = np.array(camera.size) - camera.border
    if (
        np.any(pixels < camera.border)
        or np.any(pixels > upper)
        or _shortest_side(pixels) < camera.min_side
    ):
        return None
    return pixels


def _shortest_side(pixels: Array) -> float:
    return float(np.min(np.linalg.norm(pixels - np.roll(pixels, 1, axis=0), axis=1)))


def project(points: Array, camera: CameraSensor) -> Array:
    """Pixels (n, 2) of points (n, 3) in the optical frame: pinhole with plumb_bob distortion."""
    k1, k2, p1, p2, k3 = camera.distortion
    x, y = points[:, 0] / points[:, 2], points[:, 1] / points[:, 2]
    square = x * x + y * y
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    bent_x = x * radial + 2 * p1 * x * y + p2 * (square + 2 * x * x)
    bent_y = y * radial + p1 * (square + 2 * y * y) + 2 * p2 * x * y
    return np.column_stack([bent_x, bent_y]) * camera.focal + camera.center
