"""The one table of parameters: declared by the node, checked against, printed as documentation.

A row says name, type, default, unit, allowed values, and what it means. Names in ``TRACK`` and
``SENSOR`` are relative to their block: the row ``sigma`` of sensor ``gps`` is the parameter
``sensor.gps.sigma``. What depends on more than one row (lengths, required combinations) is checked
in ``dnls_ros.window.parameter_checks``; seconds, metres and radians are as in the unit column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dnls_ros.window.config import CONTACT_AXES, POSE_AXES, QUASI_STATIC, TWIST_AXES

Value = bool | int | float | str | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]

NAME = r"[a-z][a-z0-9_]*"
FRAME = r"[^/\s]\S*"
TOPIC = r"(~/|/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*"
CLASS = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
DEVICE = r"auto|cpu|cuda(:\d+)?"
PATH = r"\S.*"
PATH_ROWS = ("landmarks.map_file", "camera.calibration_file", "shape.sdf_file", "model")


@dataclass(frozen=True)
class Range:
    """An interval of numbers; ``open`` excludes the lower end."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def __contains__(self, value: float) -> bool:
        """Whether a number lies in the interval."""
        above = value > self.low if self.open else value >= self.low
        return above and value <= self.high

    def __str__(self) -> str:
        """The interval as people write it: ``0.1..60``, ``> 0``."""
        if math.isinf(self.high):
            return f"{'>' if self.open else '>='} {self.low:g}"
        return f"{'above ' if self.open else ''}{self.low:g}..{self.high:g}"


@dataclass(frozen=True)
class Row:
    """One parameter.

    Attributes:
        name: Dotted name, relative to its block.
        type: ``bool``, ``int``, ``double``, ``string``, ``int[]``, ``double[]`` or
            ``string[]``.
        default: Value when nothing is given; None means that it must be given.
        meaning: One sentence.
        unit: Unit of the number or of each entry.
        range: Allowed numbers (of each entry).
        choices: Allowed words (of each entry).
        pattern: Regular expression that the whole word (or each entry) matches.
        dynamic: Whether it may change while the node is active, between two solves.
        by_type: Other defaults for some types of sensor.
    """

    name: str
    type: str
    default: Value | None
    meaning: str
    unit: str = ""
    range: Range | None = None
    choices: tuple[str, ...] = ()
    pattern: str = ""
    dynamic: bool = False
    by_type: tuple[tuple[str, Value], ...] = ()


POSITIVE = Range(0.0, open=True)
RANGE_AXES = ("range", "bearing")

INIT = (
    Row("init.mode", "string", "first_measurement", "where the first pose comes from: a sensor, "
        "init.pose, the set_pose service or topic, or tf (parent_frame to child_frame)",
        choices=("first_measurement", "params", "set_pose", "tf")),
    Row("init.pose", "double[]", (0.0,) * 6, "x y z roll pitch yaw; x y yaw for se2",
        unit="m, rad"),
    Row("init.sigma", "double[]", (0.01, 0.01, 0.01, 0.02, 0.02, 0.02),
        "standard deviations of the first pose given by params or tf", unit="m, rad",
        range=POSITIVE),
)  # fmt: skip

NODE: tuple[Row, ...] = (
    Row("autostart", "bool", True,
        "configure and activate without waiting for a lifecycle manager"),
    Row("world_frame", "string", "world", "frame in which poses are published", pattern=FRAME),
    Row("map_frame", "string", "map",
        "REP-105: the track from here to base_link_frame is broadcast as map to odom",
        pattern=FRAME),
    Row("odom_frame", "string", "odom", "REP-105: frame of the odometry that drifts",
        pattern=FRAME),
    Row("base_link_frame", "string", "base_link", "REP-105: frame of the robot", pattern=FRAME),
    Row("sensors", "string[]", (), "names of the sensors; each has a block sensor.<name>",
        pattern=NAME),
    Row("tracks", "string[]", ("object",),
        "names of the estimated bodies; track.<name> configures one", pattern=NAME),
    Row("device", "string", "auto",
        "where the window is solved; auto probes once and says what it chose",
        pattern=DEVICE),
    Row("num_threads", "int", 1,
        "threads of one solve; more slow a window down and starve the node", range=Range(1, 64)),
    Row("deterministic", "bool", False,
        "no time budget, no result that depends on the wall clock"),
    Row("window.duration", "double", 2.0, "lag: older states are marginalized, a few at a time",
        unit="s", range=Range(0.1, 60.0)),
    Row("window.max_states", "int", 200,
        "states per track before the oldest is marginalized early", range=Range(4, 5000)),
    Row("window.max_landmarks", "int", 200, "landmarks kept in window and prior",
        range=Range(0, 10000)),
    Row("window.min_state_gap", "double", 0.001, "measurements closer than this share a state",
        unit="s", range=Range(0.0, 0.1)),
    Row("window.max_gap", "double", 0.5,
        "a longer gap between states cuts or inflates the motion factor", unit="s",
        range=Range(0.05, 10.0)),
    Row("window.prior_fej", "bool", False,
        "linearize at first estimates what touches the marginal prior"),
    Row("history.duration", "double", 60.0, "how long solved poses are kept for the path",
        unit="s", range=Range(0.0, 3600.0)),
    Row("solver.trigger", "string", "rate",
        "solve at multiples of 1/rate of data time, or per measurement",
        choices=("rate", "measurement")),
    Row("solver.rate", "double", 20.0, "solves per second of data time", unit="Hz",
        range=Range(0.5, 500.0), dynamic=True),
    Row("solver.max_iterations", "int", 10, "iterations of one solve", range=Range(1, 200),
        dynamic=True),
    Row("solver.time_budget", "double", 0.035,
        "stop iterating after this long (at most 1/rate; ignored when deterministic)", unit="s",
        range=Range(0.001, 10.0), dynamic=True),
    Row("solver.lambda_init", "double", 1e-5, "first damping", range=POSITIVE, dynamic=True),
    Row("solver.lambda_factor", "double", 10.0, "growth of the damping after a rejected step",
        range=Range(1.0, open=True), dynamic=True),
    Row("solver.lambda_max", "double", 1e7, "damping at which a solve gives up", range=POSITIVE,
        dynamic=True),
    Row("solver.cost_tolerance", "double", 1e-6, "converged when the cost falls by less, relative",
        range=Range(0.0, 1.0), dynamic=True),
    Row("solver.step_tolerance", "double", 1e-7, "converged when the step is smaller",
        range=Range(0.0, 1.0), dynamic=True),
    Row("solver.gradient_tolerance", "double", 1e-8, "converged when the gradient is smaller",
        range=Range(0.0, 1.0), dynamic=True),
    Row("solver.linear_solver", "string", "auto", "how the normal equations are solved",
        choices=("auto", "sparse_cpu", "dense_cpu", "sparse_cuda", "dense_cuda")),
    Row("time.stamp_future_limit", "double", 0.1, "stamps further ahead of the clock are rejected",
        unit="s", range=Range(0.0, 10.0)),
        Row("time.on_jump_back", "string", "reset",
        "data time jumped back (looped bag): start again, pause, or take it as late data",
        choices=("reset", "pause", "ignore"), dynamic=True),
    Row("time.jump_threshold", "double", 0.5, "a smaller step of the clock is no jump", unit="s",
        range=POSITIVE),
    Row("time.on_jump_forward", "string", "reinit",
        "data time jumped ahead: start again from the next measurement, or predict across",
        choices=("reinit", "continue")),
    Row("tf.timeout", "double", 0.1,
        "how long a measurement waits for its transform before it is rejected", unit="s",
        range=Range(0.0, 10.0), dynamic=True),
    Row("tf.cache", "double", 30.0,
        "how long transforms are kept; at least window.duration + 1", unit="s",
        range=Range(1.1, 3600.0)),
    *INIT,
    Row("init.listen_initialpose", "bool", False,
        "the topic initialpose (RViz) is a set_pose as well"),
    Row("init.timeout", "double", 0.0,
        "LOST and an error when no track starts within this long of the first data; 0 = waits",
        unit="s", range=Range(0.0, 3600.0)),
    Row("health.stale_after", "double", 0.5,
        "a sensor silent for this long, and for several of its own periods, is stale", unit="s",
        range=Range(0.0, 3600.0, open=True), dynamic=True),
    Row("health.required_sensors", "string[]", (),
        "sensors without which the state is DEGRADED when they are stale", pattern=NAME,
        dynamic=True),
    Row("health.max_prediction", "double", 0.5,
        "furthest extrapolation past the newest state; then LOST", unit="s",
        range=Range(0.0, 10.0), dynamic=True),
    Row("health.max_reject_ratio", "double", 0.5,
        "share of a sensor's measurements rejected in 2 s above which it counts as rejecting",
        range=Range(0.0, 1.0), dynamic=True),
    Row("recovery.enabled", "bool", True,
        "a failed or diverged solve is rolled back and repaired; false: whatever solves counts",
        dynamic=True),
    Row("recovery.cost_jump", "double", 10.0,
        "a cost above this many times its recent median is a divergence", unit="× median",
        range=Range(1.0, open=True), dynamic=True),
    Row("recovery.max_speed", "double", 5.0, "a faster estimate is a divergence", unit="m/s",
        range=POSITIVE, dynamic=True),
    Row("recovery.max_turn_rate", "double", 10.0, "a faster turning estimate is a divergence",
        unit="rad/s", range=POSITIVE, dynamic=True),
    Row("recovery.attempts", "int", 3, "steps in a row that cannot be repaired before LOST",
        range=Range(0, 20), dynamic=True),
    Row("recovery.dump", "bool", True, "write the failing window to a file in output_dir",
        dynamic=True),
    Row("gate.reopen_after", "double", 1.0,
        "a sensor gated for this long is believed again; 0 = never", unit="s",
        range=Range(0.0, 3600.0), dynamic=True),
    Row("gate.reopen_inflation", "double", 10.0,
        "factor on its covariance while it is being believed again", range=Range(1.0),
        dynamic=True),
    Row("publish.tf", "bool", False, "broadcast the transform of each published track"),
    Row("publish.tf_offset", "double", 0.0, "added to the stamp of a broadcast transform",
        unit="s", range=Range(-1.0, 1.0), dynamic=True),
    Row("publish.predicted_rate", "double", 0.0, "odometry/predicted per second; 0 = none",
        unit="Hz", range=Range(0.0, 1000.0), dynamic=True),
    Row("publish.path_rate", "double", 5.0, "path messages per second; 0 = none", unit="Hz",
        range=Range(0.0, 100.0), dynamic=True),
    Row("publish.path_max_poses", "int", 1000, "poses in a path message; older are dropped",
        range=Range(2, 100000), dynamic=True),
    Row("publish.window_rate", "double", 5.0, "window messages per second; 0 = none", unit="Hz",
        range=Range(0.0, 100.0), dynamic=True),
    Row("publish.marker_rate", "double", 5.0, "marker messages per second; 0 = none", unit="Hz",
        range=Range(0.0, 60.0), dynamic=True),
    Row("publish.max_slew_linear", "double", 0.0,
        "fastest change of the broadcast map to odom; 0 = no limit", unit="m/s",
        range=Range(0.0), dynamic=True),
    Row("publish.max_slew_angular", "double", 0.0,
        "fastest turn of the broadcast map to odom; 0 = no limit", unit="rad/s",
        range=Range(0.0), dynamic=True),
    Row("diagnostics.rate", "double", 1.0, "diagnostics per second", unit="Hz",
        range=Range(0.1, 10.0), dynamic=True),
    Row("log.throttle", "double", 5.0, "shortest time between two log lines of one kind", unit="s",
        range=Range(0.1, 60.0), dynamic=True),
    Row("output_dir", "string", "~/.ros/dnls",
        "directory of dumps and saved trajectories; made when the node is configured",
        unit="path", pattern=PATH),
    Row("dump.max_files", "int", 20, "window dumps kept in output_dir; the oldest is removed",
        range=Range(0, 1000)),
)  # fmt: skip

TRACK: tuple[Row, ...] = (
    Row("manifold", "string", "se2", "se2: a body on a plane; se3: a body in space",
        choices=("se2", "se3")),
    Row("child_frame", "string", "", "frame of the body; default: the track's name",
        pattern=FRAME + "|"),
    Row("parent_frame", "string", "", "frame of its poses; default: world_frame",
        pattern=FRAME + "|"),
    Row("motion", "string", "constant_velocity", "what ties consecutive states together",
        choices=("none", "random_walk", "constant_velocity", QUASI_STATIC)),
    Row("motion_sigma", "double[]", (),
        "noise density, one number per degree of freedom: of the pose for random_walk and "
        "quasi_static_push (default 0.001), of the velocity for constant_velocity (default 0.5)",
        unit="m, rad per √s; m/s, rad/s per √s", range=POSITIVE),
    Row("rest_sigma", "double[]", (),
        "noise density of a pushed body while nothing touches it, one number per degree of "
        "freedom; default: a tenth of motion_sigma",
        unit="m, rad per √s", range=POSITIVE),
    Row("pusher_track", "string", "",
        "the track of the finger that pushes this one; required for quasi_static_push and for "
        "sensors of touch", pattern=f"{NAME}|"),
    Row("shape.type", "string", "",
        "outline of a pushed object, its origin the centre of friction; required for "
        "quasi_static_push and contact",
        choices=("disc", "rect", "ellipse", "polygon", "sdf", "")),
    Row("shape.size", "double[]", (),
        "disc: its radius; rect: its sides x y; ellipse: half of them; polygon: x y of each "
        "vertex, counter-clockwise", unit="m"),
    Row("shape.sdf_file", "string", "",
        "signed distances of an sdf: an .npz with grid (H, W) [m], origin (2) [m], resolution [m]",
        unit="path"),
    Row("publish", "bool", True, "whether its topics are published"),
    *INIT,
)  # fmt: skip

SENSOR: tuple[Row, ...] = (
    Row("type", "string", None, "kind of measurement",
        choices=("pose", "pose_stamped", "odometry", "twist", "imu", "tf_pose", "landmarks",
                 "range_bearing", "relative_pose", "contact", "tactile_relative",
                 "tactile_image", "wrench_contact", "custom")),
    Row("track", "string", "", "track that is measured; default: the first"),
    Row("topic", "string", "", "topic that is read; required for every type but tf_pose",
        pattern=f"({TOPIC})|"),
    Row("qos.reliability", "string", "best_effort", "best_effort matches every publisher",
        choices=("best_effort", "reliable")),
    Row("qos.depth", "int", 10, "messages kept before the executor takes them",
        range=Range(1, 5000), by_type=(("imu", 200), ("tactile_image", 5), ("wrench_contact", 50),
                                       ("contact", 50), ("tactile_relative", 50))),
    Row("enabled", "bool", True, "false: every message is counted as SENSOR_DISABLED",
        dynamic=True),
    Row("differential", "bool", False,
        "use the motion between two messages instead of the pose (imu: orientation) itself"),
    Row("axes", "string[]", (),
        "measured axes; default: all of the type that the manifold has; odometry: its pose, while "
        "velocities (vx vyaw …) make it a twist; imu: all but yaw, whose zero is rarely that of "
        "the world; a differential imu: its angles",
        choices=(*POSE_AXES, *TWIST_AXES, *RANGE_AXES, *CONTACT_AXES)),
    Row("covariance", "string", "message",
        "whose noise is believed: the message's (learned: as a model made it), sigma, or the "
        "message's scaled",
        choices=("message", "fixed", "scaled", "learned")),
    Row("sigma", "double[]", (),
        "standard deviation per axis; for a differential sensor a density per √s [m/√s, rad/√s]; "
        "for landmarks one number [px], default 1; of a contact distance 0.001, normal 0.3",
        unit="m, rad, m/s, rad/s, px", range=POSITIVE, dynamic=True),
    Row("sigma_floor", "double[]", (1e-4,),
        "least standard deviation: one number, or one per axis", unit="as sigma", range=POSITIVE,
        dynamic=True),
    Row("covariance_scale", "double", 1.0, "factor on the message's covariance when scaled",
        range=POSITIVE, dynamic=True),
    Row("on_zero_covariance", "string", "",
        "a covariance of zeros: take sigma or reject; default: use_fixed if sigma is set, else "
        "reject",
        choices=("use_fixed", "reject", "")),
    Row("robust", "string", "none", "robust loss",
        choices=("none", "huber", "cauchy", "geman_mcclure", "tukey", "welsch", "dcs"),
        dynamic=True),
    Row("robust_scale", "double", 1.345, "whitened residual at which the loss bends", unit="σ",
        range=POSITIVE, dynamic=True),
    Row("gate_probability", "double", 0.0,
        "χ² probability of the gate; 0 = off, else 0.5..0.999999", range=Range(0.0, 0.999999),
        dynamic=True),
    Row("stamp_source", "string", "header", "the message's stamp or its arrival",
        choices=("header", "arrival")),
    Row("stamp_offset", "double", 0.0, "added to every stamp", unit="s", range=Range(-5.0, 5.0),
        dynamic=True),
    Row("frame_override", "string", "",
        "replaces header.frame_id, or the child_frame_id of an odometry's velocities",
        pattern=FRAME + "|"),
    Row("target_frame", "string", "",
        "frame whose pose or velocity is measured; required for tf_pose; default: the message's "
        "for odometry, else child_frame", pattern=FRAME + "|"),
    Row("model", "string", "",
        "model of a tactile_image sensor; without one its images say only whether it touches",
        unit="path"),
    Row("pair_offsets", "int[]", (10, 15, 20, 25, 30, 35, 40),
        "how many frames before an image its partners are (tactile_image), ascending",
        unit="frames", range=Range(1, 200)),
    Row("contact.radius", "double", 0.0,
        "of a round fingertip about the origin of its frame; 0: it touches with the origin",
        unit="m", range=Range(0.0, 1.0)),
    Row("contact.z_threshold", "double", 4.0,
        "a pixel further from its background than this is touched", unit="σ", range=POSITIVE,
        dynamic=True),
    Row("contact.area_fraction", "double", 0.01, "touched share of an image that is a contact",
        range=Range(0.0, 1.0), dynamic=True),
    Row("contact.hysteresis", "int", 3, "images in a row that change the state of contact",
        unit="frames", range=Range(1, 100), dynamic=True),
    Row("image.crop", "int[]", (),
        "part of a tactile image that is used: left, top, width, height; default: all", unit="px",
        range=Range(0, 100000)),
    Row("image.size", "int[]", (320, 240), "width and height to which images are brought",
        unit="px", range=Range(8, 4096)),
    Row("force_threshold_on", "double", 0.5, "a larger force is a contact (wrench_contact)",
        unit="N", range=POSITIVE, dynamic=True),
    Row("force_threshold_off", "double", 0.2, "a smaller force ends a contact (wrench_contact)",
        unit="N", range=POSITIVE, dynamic=True),
    Row("cost", "string", "", "class of a custom sensor as pkg.module:Class",
        pattern=f"({CLASS})|"),
    Row("expected_rate", "double", 0.0, "declared rate; 0 = undeclared", unit="Hz",
        range=Range(0.0, 10000.0), dynamic=True),
    Row("throttle", "double", 0.0, "least data time between two used measurements", unit="s",
        range=Range(0.0, 3600.0), dynamic=True),
    Row("ignition", "bool", False,
        "may start its track; if no sensor of a track says so, every absolute pose sensor may"),
    Row("stale_after", "double", 0.0,
        "silent for this long it is stale; 0 = health.stale_after", unit="s",
        range=Range(0.0, 3600.0), dynamic=True),
    Row("extrinsic", "double[]", (),
        "body_T_sensor as x y z roll pitch yaw; default: from tf, child_frame to the sensor's "
        "frame", unit="m, rad"),
    Row("landmarks.map_file", "string", "",
        "landmark map (YAML: sizes, poses, boards); default: estimate them", unit="path"),
    Row("camera_info_topic", "string", "", "CameraInfo of a landmarks sensor",
        pattern=f"({TOPIC})|"),
    Row("camera.calibration_file", "string", "",
        "ROS camera-calibration YAML instead of CameraInfo", unit="path"),
    Row("camera.estimate_extrinsic", "bool", False,
        "estimate body_T_sensor, starting from extrinsic"),
    Row("camera.extrinsic_sigma", "double[]", (0.05, 0.05, 0.05, 0.05, 0.05, 0.05),
        "prior on an estimated extrinsic", unit="m, rad", range=POSITIVE),
)  # fmt: skip
