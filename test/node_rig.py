"""What the tests of the node share: an arc to drive on, messages of it, and waiting."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rclpy.qos import QoSProfile, ReliabilityPolicy

from dnls_ros.io.compose import Composer
from dnls_ros.ros.live import NodeProcess
from dnls_ros.ros.types import message_class

COMPOSE = Composer(message_class)
START = 1_700_000_000 * 10**9
SPEED, TURN = 0.5, 0.4  # m/s, rad/s: an arc, on which interpolation between states is exact
SERVICE_NAME = "dnls_estimator/get_pose_at"


def truth(seconds: float) -> np.ndarray:
    """x, y, yaw on the arc."""
    yaw = TURN * seconds
    return np.array([SPEED / TURN * np.sin(yaw), SPEED / TURN * (1.0 - np.cos(yaw)), yaw])


def spatial(planar: np.ndarray) -> np.ndarray:
    x, y, yaw = planar
    return np.array([x, y, 0.0, 0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)])


def planar_of(pose: Any) -> np.ndarray:
    yaw = 2.0 * np.arctan2(pose.orientation.z, pose.orientation.w)
    return np.array([pose.position.x, pose.position.y, yaw])


def error(estimate: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Tangent of true⁻¹ · estimate to first order, (x, y, yaw) in the body's axes."""
    delta = estimate - true
    cos, sin = np.cos(true[2]), np.sin(true[2])
    yaw = (delta[2] + np.pi) % (2 * np.pi) - np.pi
    return np.array([cos * delta[0] + sin * delta[1], -sin * delta[0] + cos * delta[1], yaw])


def stamp_of(seconds: float) -> int:
    return START + round(seconds * 1e9)


def write_params(path: Path, parameters: dict[str, Any], node: str = "dnls_estimator") -> Path:
    content = {node: {"ros__parameters": parameters}}
    path.write_text(yaml.safe_dump(json.loads(json.dumps(content))))  # ROS reads no YAML aliases
    return path


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)


def wait_for_subscriptions(process: NodeProcess, publishers: list[Any]) -> None:
    """Waits until the node listens to everything."""

    def ready() -> bool:
        assert process.running, process.log()
        return all(publisher.get_subscription_count() for publisher in publishers)

    wait_for(ready, 60.0, "the node to subscribe")
    time.sleep(0.3)


def reliable_publisher(node: Any, type_name: str, topic: str) -> Any:
    qos = QoSProfile(depth=2000, reliability=ReliabilityPolicy.RELIABLE)
    return node.create_publisher(message_class(type_name), topic, qos)


def call(client: Any, request: Any) -> Any:
    assert client.wait_for_service(10.0)
    future = client.call_async(request)
    wait_for(future.done, 10.0, "a service's answer")
    return future.result()


def pose_at(client: Any, seconds: float, track: str = "", ahead: float = -1.0) -> Any:
    request = message_class("dnls_ros/srv/GetPoseAt").Request()
    request.stamp = COMPOSE.time(stamp_of(seconds))
    request.track, request.with_covariance, request.max_extrapolation = track, True, ahead
    return call(client, request)


def accounts(log: str) -> dict[str, Counter[str]]:
    """The last account of each sensor that the node printed."""
    found: dict[str, Counter[str]] = {}
    for line in log.splitlines():
        if "sensor '" in line and ": received " in line:
            name, _, text = line.partition("sensor '")[2].partition("': ")
            parts = [part.rsplit(" ", 1) for part in text.split("; ")[0].split(", ")]
            found[name] = Counter({key: int(count) for key, count in parts})
    return found
