"""The estimator's configuration after every check, in frozen values.

Field names equal the parameter names of ``parameter_table`` (``solver.rate`` is
``config.solver.rate``); defaults that depend on other values (axes, noise, frames, ignition) are
already filled in. Times are seconds, as in the files.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Vector = tuple[float, ...]
QUASI_STATIC = "quasi_static_push"
"""The motion of a track that another one pushes."""

POSE_TYPES = ("pose", "pose_stamped", "odometry", "tf_pose")
"""Types of sensor that measure a pose, absolutely unless they are differential."""
POSE_AXES = ("x", "y", "z", "roll", "pitch", "yaw")
TWIST_AXES = ("vx", "vy", "vz", "vroll", "vpitch", "vyaw")
CONTACT_AXES = ("distance", "normal")
"""What a contact measures of an object's surface: that it is here, and which way it faces."""
TOUCH_TYPES = ("contact", "tactile_relative", "tactile_image", "wrench_contact")
"""Types of sensor that sit on a pusher and measure what it pushes."""


@dataclass(frozen=True)
class WindowConfig:
    """Which states the window keeps; duration, min_state_gap, max_gap [s]."""

    duration: float
    max_states: int
    max_landmarks: int
    min_state_gap: float
    max_gap: float
    prior_fej: bool


@dataclass(frozen=True)
class HistoryConfig:
    """How long solved poses are kept: duration [s]."""

    duration: float


@dataclass(frozen=True)
class SolverConfig:
    """When and how the window is solved; rate [Hz], time_budget [s]."""

    trigger: str
    rate: float
    max_iterations: int
    time_budget: float
    lambda_init: float
    lambda_factor: float
    lambda_max: float
    cost_tolerance: float
    step_tolerance: float
    gradient_tolerance: float
    linear_solver: str


@dataclass(frozen=True)
class TimeConfig:
    """Which stamps are believed, and what a jump of time does.

    stamp_future_limit, jump_threshold [s].
    """

    stamp_future_limit: float
    on_jump_back: str
    jump_threshold: float
    on_jump_forward: str


@dataclass(frozen=True)
class TfConfig:
    """How long a measurement waits for its transform, and how long transforms are kept [s]."""

    timeout: float
    cache: float


@dataclass(frozen=True)
class InitConfig:
    """Where a track's first pose comes from; pose and sigma [m, rad] have 6 or 3 entries."""

    mode: str
    pose: Vector
    sigma: Vector


@dataclass(frozen=True)
class NodeInitConfig(InitConfig):
    """What tracks inherit, and what holds for all of them; timeout [s], 0 = wait for ever."""

    listen_initialpose: bool
    timeout: float


@dataclass(frozen=True)
class GateConfig:
    """When a gated sensor is believed again: reopen_after [s], with what factor on its noise."""

    reopen_after: float
    reopen_inflation: float


@dataclass(frozen=True)
class PublishConfig:
    """What is published how often.

    Rates [Hz], 0 = not at all; tf_offset [s]; greatest slews of map to odom [m/s, rad/s], 0 = any.
    """

    tf: bool
    tf_offset: float
    predicted_rate: float
    path_rate: float
    path_max_poses: int
    window_rate: float
    marker_rate: float
    max_slew_linear: float
    max_slew_angular: float


@dataclass(frozen=True)
class HealthConfig:
    """When a sensor or the estimate is not as it should be; stale_after, max_prediction [s]."""

    stale_after: float
    required_sensors: tuple[str, ...]
    max_prediction: float
    max_reject_ratio: float


@dataclass(frozen=True)
class RecoveryConfig:
    """What counts as divergence, and what is done; max_speed [m/s], max_turn_rate [rad/s].

    cost_jump is a factor on the median of recent costs.
    """

    enabled: bool
    cost_jump: float
    max_speed: float
    max_turn_rate: float
    attempts: int
    dump: bool


@dataclass(frozen=True)
class DiagnosticsConfig:
    """How often diagnostics are published: rate [Hz]."""

    rate: float


@dataclass(frozen=True)
class DumpConfig:
    """How many window dumps are kept."""

    max_files: int


@dataclass(frozen=True)
class LogConfig:
    """Shortest time between two log lines of one kind: throttle [s]."""

    throttle: float


@dataclass(frozen=True)
class ShapeConfig:
    """The outline of a pushed object; type '' has none, size [m], sdf_file an absolute path."""

    type: str
    size: Vector
    sdf_file: str


@dataclass(frozen=True)
class TrackConfig:
    """One estimated body; motion_sigma has one density per degree of freedom (see the table).

    rest_sigma is that of a pushed body while nothing touches it; () for others.
    """

    name: str
    manifold: str
    child_frame: str
    parent_frame: str
    motion: str
    motion_sigma: Vector
    rest_sigma: Vector
    pusher_track: str
    shape: ShapeConfig
    publish: bool
    init: InitConfig

    @property
    def planar(self) -> bool:
        """Whether the body moves on a plane."""
        return self.manifold == "se2"


@dataclass(frozen=True)
class QosConfig:
    """How a topic is subscribed."""

    reliability: str
    depth: int


@dataclass(frozen=True)
class LandmarksConfig:
    """The landmark map of a sensor; map_file is an absolute path or ''."""

    map_file: str


@dataclass(frozen=True)
class CameraConfig:
    """Calibration of a landmarks sensor; extrinsic_sigma [m, rad] only counts if estimated."""

    calibration_file: str
    estimate_extrinsic: bool
    extrinsic_sigma: Vector


@dataclass(frozen=True)
class ContactConfig:
    """How a finger touches: radius [m], z_threshold [σ], area_fraction, hysteresis [frames]."""

    radius: float
    z_threshold: float
    area_fraction: float
    hysteresis: int


@dataclass(frozen=True)
class ImageConfig:
    """What of an image is used: crop (left, top, width, height) or (), size (width, height)."""

    crop: tuple[int, ...]
    size: tuple[int, ...]


@dataclass(frozen=True)
class SensorConfig:
    """One sensor.

    Attributes:
        axes: Measured axes, never empty except for landmarks.
        sigma: One standard deviation per axis, or empty when only the message's noise is used; a
            density per √s when ``differential``; one number [px] for landmarks.
        sigma_floor: One least standard deviation per axis (landmarks: one [px]).
        extrinsic: body_T_sensor as x y z roll pitch yaw [m, rad]; empty: not given, so that tf
            says where the sensor is.
        ignition: Whether it may start its track.
        target_frame: Frame whose pose is measured; '' for the usual one of the type.
        model: Absolute path of a tactile_image's model, or ''.
        pair_offsets: How many frames before an image its partners are, ascending.
        force_threshold_on, force_threshold_off: [N].
        cost: ``pkg.module:Class`` of a custom sensor, else ''.
        stamp_offset, throttle, stale_after: [s] (stale_after 0: that of all);
            ``expected_rate`` [Hz].
    """

    name: str
    type: str
    track: str
    topic: str
    qos: QosConfig
    enabled: bool
    differential: bool
    axes: tuple[str, ...]
    covariance: str
    sigma: Vector
    sigma_floor: Vector
    covariance_scale: float
    on_zero_covariance: str
    robust: str
    robust_scale: float
    gate_probability: float
    stamp_source: str
    stamp_offset: float
    frame_override: str
    target_frame: str
    model: str
    pair_offsets: tuple[int, ...]
    contact: ContactConfig
    image: ImageConfig
    force_threshold_on: float
    force_threshold_off: float
    cost: str
    expected_rate: float
    throttle: float
    stale_after: float
    ignition: bool
    extrinsic: Vector
    landmarks: LandmarksConfig
    camera_info_topic: str
    camera: CameraConfig

    @property
    def measures_twist(self) -> bool:
        """Whether its measurements are twists: of a twist sensor, or an odometry's velocities."""
        velocities = any(axis in TWIST_AXES for axis in self.axes)
        return self.type == "twist" or (self.type == "odometry" and velocities)

    def measures_pose(self, track: TrackConfig) -> bool:
        """Whether one message gives the whole pose of the track in a frame that does not drift."""
        needed = {"x", "y", "yaw"} if track.planar else {"x", "y", "z", "roll", "pitch", "yaw"}
        absolute = self.type in POSE_TYPES and not self.differential
        return absolute and needed <= set(self.axes)

    @property
    def mount(self) -> Vector:
        """The configured body_T_sensor as x y z roll pitch yaw [m, rad]; identity if not given."""
        return self.extrinsic or (0.0,) * 6

    def with_ignition(self, ignition: bool) -> SensorConfig:
        """The same sensor that may, or may not, start its track."""
        return replace(self, ignition=ignition)


@dataclass(frozen=True)
class EstimatorConfig:
    """Everything the estimator, the replay and the node are told."""

    autostart: bool
    world_frame: str
    map_frame: str
    odom_frame: str
    base_link_frame: str
    sensors: tuple[SensorConfig, ...]
    tracks: tuple[TrackConfig, ...]
    device: str
    num_threads: int
    deterministic: bool
    window: WindowConfig
    history: HistoryConfig
    solver: SolverConfig
    time: TimeConfig
    tf: TfConfig
    init: NodeInitConfig
    health: HealthConfig
    recovery: RecoveryConfig
    gate: GateConfig
    publish: PublishConfig
    diagnostics: DiagnosticsConfig
    log: LogConfig
    output_dir: str
    dump: DumpConfig

    def track(self, name: str = "") -> TrackConfig:
        """The track of a name; '' is the first. Raises KeyError for an unknown one."""
        if not name:
            return self.tracks[0]
        return {t.name: t for t in self.tracks}[name]

    def sensor(self, name: str) -> SensorConfig:
        """The sensor of a name. Raises KeyError for an unknown one."""
        return {s.name: s for s in self.sensors}[name]

    def stale_after(self, sensor: SensorConfig) -> float:
        """How long a sensor may be silent [s]: its own value, or that of all."""
        return sensor.stale_after or self.health.stale_after

    def with_sensors(self, sensors: tuple[SensorConfig, ...]) -> EstimatorConfig:
        """The same configuration with other sensors."""
        return replace(self, sensors=sensors)
