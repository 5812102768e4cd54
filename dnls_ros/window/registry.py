"""From configuration to the objects that a step needs: bodies, rules, sensor models, cameras."""

from __future__ import annotations

from dnls_ros.errors import DnlsError
from dnls_ros.window.absorb import Registry
from dnls_ros.window.bodies import Body
from dnls_ros.window.config import TOUCH_TYPES, EstimatorConfig, SensorConfig
from dnls_ros.window.custom import CustomModel
from dnls_ros.window.growth import TrackRules
from dnls_ros.window.images import Camera
from dnls_ros.window.imu import Imu
from dnls_ros.window.landmark_file import read_landmark_map
from dnls_ros.window.landmark_map import LandmarkMap
from dnls_ros.window.pushed import PushedObject, pushed_object
from dnls_ros.window.sensors import (
    AbsolutePose,
    DifferentialPose,
    RangeBearing,
    RelativePose,
    SensorModel,
    Twist,
)
from dnls_ros.window.touch_models import Contact, TactileImage, TactileRelative, WrenchContact


def build_registry(config: EstimatorConfig) -> Registry:
    """All tracks and sensors of a configuration.

    Raises:
        DnlsError: Cameras with different map files, a map file that cannot be read, or a custom
            sensor that cannot be made.
    """
    bodies = {t.name: Body.of(t) for t in config.tracks}
    rules = {
        t.name: TrackRules.of(
            config,
            t,
            tuple(
                s.name
                for s in config.sensors  # a disabled one may be enabled later
                if s.track == t.name and _measures_motion(s, bodies[t.name])
            ),
        )
        for t in config.tracks
    }
    camera_map = _camera_map(config)
    cameras = {
        s.name: Camera(s, bodies[s.track], camera_map)
        for s in config.sensors
        if s.type == "landmarks"
    }
    models = {
        s.name: _model(s, bodies[s.track], config) for s in config.sensors if s.type != "landmarks"
    }
    lag = round(config.window.duration * 1e9)
    return Registry(rules, {s.name: s.track for s in config.sensors}, models, cameras, lag)


def _measures_motion(sensor: SensorConfig, body: Body) -> bool:
    """Whether a sensor's samples make the factors between states."""
    if sensor.type == "imu":
        return Imu(sensor, body, 0, False).integrates
    return sensor.differential or (sensor.measures_twist and not body.moving)


def _model(sensor: SensorConfig, body: Body, config: EstimatorConfig) -> SensorModel:
    if sensor.type == "custom":
        return CustomModel.of(sensor, body)
    if sensor.type in TOUCH_TYPES:
        return _touch(sensor, body, config)
    if sensor.type == "imu":
        others = [s for s in config.sensors if s.track == sensor.track and s.enabled]
        alone = all(s.type == "imu" for s in others)
        return Imu(sensor, body, round(1e9 / config.solver.rate), alone)
    if sensor.measures_twist:
        return Twist(sensor, body)
    if sensor.type == "relative_pose":
        return RelativePose(sensor, body)
    if sensor.type == "range_bearing":
        return RangeBearing(sensor, body, _map(sensor))
    return DifferentialPose(sensor, body) if sensor.differential else AbsolutePose(sensor, body)


def _touch(sensor: SensorConfig, body: Body, config: EstimatorConfig) -> SensorModel:
    track = config.track(sensor.track)
    finger = Body.of(config.track(track.pusher_track))
    if sensor.type == "tactile_relative":
        return TactileRelative(sensor, body, finger)
    thing: PushedObject = pushed_object(track.shape)
    if sensor.type == "tactile_image":
        return TactileImage.of(sensor, body, finger, thing)
    if sensor.type == "contact":
        return Contact(sensor, body, finger, thing)
    return WrenchContact(sensor, body, finger, thing)


def _map(sensor: SensorConfig) -> LandmarkMap:
    return (
        read_landmark_map(sensor.landmarks.map_file)
        if sensor.landmarks.map_file
        else LandmarkMap()
    )


def _camera_map(config: EstimatorConfig) -> LandmarkMap:
    cameras = [s for s in config.sensors if s.type == "landmarks"]
    files = {s.landmarks.map_file for s in cameras}
    if len(files) > 1:
        raise DnlsError(
            f"the landmarks sensors {[s.name for s in cameras]} name different map files "
            f"{sorted(files)}; landmarks are shared by all cameras: put them in one file"
        )
    return _map(cameras[0]) if cameras else LandmarkMap()
