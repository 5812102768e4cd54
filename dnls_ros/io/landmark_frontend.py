"""Tag detections and a camera's calibration in, observations of landmarks out; no ROS in here.

A detector says which tags are where in the image; the estimator also needs the camera, and, where
no map tells it, how large the tags are. The front end puts all of it in one message, so that many
estimators and recordings can read it without the camera's other topics.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from dnls_ros.io.cameras import camera_from_info
from dnls_ros.io.compose import Composer
from dnls_ros.io.messages import adapt
from dnls_ros.io.origin import stamp_and_frame
from dnls_ros.window.landmark_map import LandmarkMap, tag_corners
from dnls_ros.window.measurements import (
    CameraIntrinsics,
    LandmarkMeasurement,
    LandmarkObservation,
    Reason,
    Rejection,
)

NAME = "landmark_frontend"


@dataclass(frozen=True)
class FrontendOptions:
    """What is done to the detections.

    Attributes:
        rectified: They were made in the rectified image: P is the camera, without distortion.
        min_quality: Least decision margin; others are left out.
        sigma: Noise of each corner coordinate [px]; 0: as the estimator is configured.
        stamp_source: ``header`` or ``arrival``.
        stamp_offset: Added to every stamp [s].
        frame_override: Instead of header.frame_id; '' keeps it.
    """

    rectified: bool = False
    min_quality: float = 0.0
    sigma: float = 0.0
    stamp_source: str = "header"
    stamp_offset: float = 0.0
    frame_override: str = ""


@dataclass
class LandmarkFrontend:
    """Detections to observations, one image at a time, with an account of what was refused.

    Attributes:
        options: What is done.
        landmarks: Sizes of the tags; tags that it does not know keep no points.
        camera: The calibration; None until one was set.
        received, passed: Images.
        refused: Images by reason.
    """

    options: FrontendOptions
    landmarks: LandmarkMap = field(default_factory=LandmarkMap)
    camera: CameraIntrinsics | None = None
    received: int = 0
    passed: int = 0
    refused: Counter[Reason] = field(default_factory=Counter[Reason])

    def set_camera(self, info: Any) -> str:
        """Takes a sensor_msgs/CameraInfo; a sentence if it cannot be used, else ''."""
        camera = camera_from_info(info, self.options.rectified)
        if isinstance(camera, Rejection):
            return camera.text
        self.camera = camera
        return ""

    def translate(
        self, type_name: str, message: Any, arrival: int
    ) -> LandmarkMeasurement | Rejection:
        """One image's detections as a measurement, or a counted rejection; never raises.

        Args:
            type_name: ROS type of the detections.
            message: The detections.
            arrival: When they came [ns].
        """
        self.received += 1
        seen = self._seen(adapt(NAME, type_name, message, self.received - 1), arrival)
        if isinstance(seen, Rejection):
            self.refused[seen.reason] += 1
        else:
            self.passed += 1
        return seen

    def _seen(self, m: Any, arrival: int) -> LandmarkMeasurement | Rejection:
        options = self.options
        if isinstance(m, Rejection):
            return m
        if not isinstance(m, LandmarkMeasurement):
            return Rejection(NAME, m.stamp, Reason.BAD_SHAPE, "these are no detections of tags")
        placed = stamp_and_frame(m, options, arrival)
        if isinstance(placed, Rejection):
            return placed
        stamp, frame = placed
        camera = m.intrinsics or self.camera
        if camera is None:
            text = "no calibration has arrived on camera_info, and calibration_file is not set"
            return Rejection(NAME, stamp, Reason.MODEL_FAILED, text)
        return replace(
            m,
            stamp=stamp,
            frame=frame,
            intrinsics=camera,
            observations=tuple(
                self._sized(one) for one in m.observations if one.quality >= options.min_quality
            ),
        )

    def _sized(self, one: LandmarkObservation) -> LandmarkObservation:
        """With the corners in the tag's own frame where its size is known, and the noise."""
        number = self.landmarks.tag_number(one.id)
        tag = None if number is None else self.landmarks.tag(number)
        points = one.points
        if points is None and tag is not None and len(one.pixels) == 4:
            points = tag_corners(tag.size)
        return replace(one, points=points, sigma=one.sigma or self.options.sigma)


def observation_array(compose: Composer, m: LandmarkMeasurement) -> Any:
    """Make a dnls_ros/LandmarkObservationArray; without intrinsics its matrix is zero."""
    camera = m.intrinsics
    matrix = np.zeros(9)
    if camera is not None:
        (fx, fy), (cx, cy) = camera.focal, camera.center
        matrix = np.array([fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0])
    one = compose.find("dnls_ros/msg/LandmarkObservation")
    return compose.find("dnls_ros/msg/LandmarkObservationArray")(
        header=compose.header(m.stamp, m.frame),
        k=matrix,
        distortion_model="" if camera is None else camera.distortion_model,
        d=np.array(() if camera is None else camera.coefficients, dtype=np.float64),
        observations=[
            one(
                id=seen.id,
                pixels=np.asarray(seen.pixels, dtype=np.float64).reshape(-1),
                points=np.zeros(0) if seen.points is None else seen.points.reshape(-1),
                sigma_px=float(seen.sigma),
                quality=float(seen.quality),
            )
            for seen in m.observations
        ],
    )
