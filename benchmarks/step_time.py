"""Time of one estimator step: 60 SE(2) states; 20 SE(3) states and 100 landmarks.

    python benchmarks/step_time.py [--steps 200]

Prints percentiles of wall time per step, measurements in to poses out, and of its stages. One
thread. Compare figures of one run only: machines differ and drift.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from dnls_ros.io.feeds import ReplayOptions, read_feed
from dnls_ros.io.recording import write_recording
from dnls_ros.io.scene import load_scene
from dnls_ros.io.simulate import simulate
from dnls_ros.optim.warmup import settle_memory
from dnls_ros.window.estimator import Estimator
from dnls_ros.window.measurements import (
    CameraIntrinsics,
    LandmarkMeasurement,
    LandmarkObservation,
    Measurement,
)
from dnls_ros.window.parameters import load_parameters
from dnls_ros.window.results import StepResult
from dnls_ros.window.schedule import Ticker

SECOND = 1_000_000_000
CONFIG = Path(__file__).resolve().parents[1] / "config" / "localization_2d.yaml"


def timed(step: Callable[[], StepResult | None]) -> tuple[float, StepResult | None]:
    """Wall seconds of a call."""
    began = time.perf_counter()
    result = step()
    return time.perf_counter() - began, result


def planar_steps(count: int) -> Iterator[tuple[float, StepResult]]:
    """The demo's recording at its default settings: 20 Hz odometry, 10 Hz images, 2 s of lag."""
    config = replace(load_parameters(CONFIG), deterministic=True)
    with tempfile.TemporaryDirectory() as folder:
        files = write_recording(simulate(0, count / 20 + 4, load_scene()), folder)
        feeds, _ = read_feed(files.bag, config, ReplayOptions())
    estimator, ticker = Estimator(config), Ticker(config.solver.rate)
    for feed in feeds:
        if isinstance(feed.item, CameraIntrinsics):
            estimator.set_intrinsics(feed.sensor, feed.item)
        elif isinstance(feed.item, Measurement):
            for tick in ticker.due(feed.stamp):
                seconds, result = timed(lambda now=tick: estimator.step(now))
                if result is not None and result.states > 55:
                    yield seconds, result
            estimator.feed(feed.item)


def spatial_steps(count: int) -> Iterator[tuple[float, StepResult]]:
    """A camera along a wall of tags at unknown places, ten images a second, 12 tags in each."""
    config = load_parameters(
        {
            "deterministic": True,
            "tracks": ["camera"],
            "sensors": ["tags"],
            "window": {"duration": 1.95, "max_landmarks": 200},
            "track": {
                "camera": {
                    "manifold": "se3",
                    "motion": "none",
                    "init": {"mode": "params", "pose": [0] * 6, "sigma": [0.01] * 6},
                }
            },
            "sensor": {
                "tags": {
                    "type": "landmarks",
                    "topic": "t",
                    "camera_info_topic": "i",
                    "sigma": [0.5],
                }
            },
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "map.yaml").write_text("default_size: 0.16\n")
        sensor = config.sensors[0]
        landmarks = replace(sensor.landmarks, map_file=str(Path(folder) / "map.yaml"))
        config = config.with_sensors((replace(sensor, landmarks=landmarks),))
        estimator = Estimator(config)
    lens = CameraIntrinsics(focal=(500.0, 500.0), center=(320.0, 240.0), width=640, height=480)
    estimator.set_intrinsics("tags", lens)
    generator = np.random.default_rng(0)
    for k in range(count + 90):
        image = wall_image(k, lens, generator)
        estimator.feed(image)
        seconds, result = timed(lambda now=image.stamp: estimator.step(now))
        if result is not None and result.landmarks >= 95:
            yield seconds, result


def wall_image(
    k: int, lens: CameraIntrinsics, generator: np.random.Generator
) -> LandmarkMeasurement:
    """The k-th image: the camera sways before a wall with 5 × 25 tags, which it faces."""
    sway = 2 * np.pi * k / 60
    position = np.array([2.5 * np.sin(sway), 0.3 * np.sin(2 * sway), 0.2 * np.cos(sway)])
    turn = Rotation.from_rotvec([0.1 * np.sin(sway), 0.25 * np.cos(sway), 0.05 * np.sin(3 * sway)])
    square = 0.08 * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    facing = Rotation.from_euler("x", np.pi)
    seen = []
    for tag in range(125):
        centre = np.array([-3.84 + 0.32 * (tag % 25), -0.8 + 0.4 * (tag // 25), 2.0])
        points = turn.inv().apply(facing.apply(square) + centre - position)
        pixels = lens.focal[0] * points[:, :2] / points[:, 2:] + np.array(lens.center)
        inside = (pixels > 0).all() and (pixels < [640, 480]).all()
        if inside:
            noise = 0.3 * generator.normal(size=(4, 2))
            seen.append((np.linalg.norm(pixels.mean(0) - lens.center), tag, pixels + noise))
    nearest = sorted(seen, key=lambda s: s[0])[:: max(1, len(seen) // 12)][:12]
    observations = tuple(
        LandmarkObservation(id=f"tag36h11:{tag}", pixels=pixels) for _, tag, pixels in nearest
    )
    return LandmarkMeasurement(
        sensor="tags",
        stamp=1000 * SECOND + k * SECOND // 10,
        frame="camera",
        observations=observations,
    )


def summary(name: str, steps: list[tuple[float, StepResult]]) -> dict[str, object]:
    """Percentiles of the wall time [ms] and the window's size."""
    seconds = np.array([s for s, _ in steps])
    last = steps[-1][1]
    stages = {
        key: 1e3 * float(np.median([r.seconds[key] for _, r in steps])) for key in last.seconds
    }
    return {
        "name": name,
        "steps": len(steps),
        "states": float(np.mean([r.states for _, r in steps])),
        "landmarks": last.landmarks,
        "factors": float(np.mean([r.factors for _, r in steps])),
        "iterations": float(np.mean([r.iterations for _, r in steps])),
        "p50_ms": 1e3 * float(np.percentile(seconds, 50)),
        "p95_ms": 1e3 * float(np.percentile(seconds, 95)),
        "stages_ms": {key: round(value, 2) for key, value in stages.items()},
    }


def main() -> None:
    """Runs both scenarios and prints one JSON object each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    settle_memory()  # as the node and the command line do
    print(json.dumps(summary("60 SE(2) states", list(planar_steps(steps)))))
    print(json.dumps(summary("20 SE(3) states, 100 landmarks", list(spatial_steps(steps)))))


if __name__ == "__main__":
    main()
