"""Tactile images in; contact, features and relative poses of the finger out.

The gel untouched is the background: a mean and a variance per pixel, learned from the first images
and followed slowly while nothing touches. A pixel further from it than ``z_threshold`` standard
deviations is touched; where more than ``area_fraction`` of them are, for ``hysteresis`` images in
a row, there is contact. A model, if there is one, sees each image of a contact once; pairs are
made of the features that it kept. The same object serves the node of its own and the estimator.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dnls_ros.errors import DnlsError
from dnls_ros.window.bodies import Array, pose_of_rpy
from dnls_ros.window.config import ImageConfig, SensorConfig
from dnls_ros.window.measurements import (
    TactileFrame,
    TactileImageMeasurement,
    TactileRelativeMeasurement,
)

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

LEARNING = 10
"""Images of which the first background is made; the gel must be free then."""
FORGETTING = 0.02
"""Weight of a new image in the background."""
NOISE_FLOOR = 2.0 / 255.0
"""Least standard deviation of a pixel, of images in 0..1."""
UNMEASURED = 1e6
"""Variance of axes without a measurement, as drivers write it."""


class TactileModel(Protocol):
    """What the front end needs of a trained model."""

    @property
    def hash(self) -> str:
        """Of its weights."""
        ...

    @property
    def measured(self) -> tuple[str, ...]:
        """Which axes its pairs measure, some of x, y, yaw."""
        ...

    def feature(self, image: Floats) -> Array:
        """(F,) of one image (3, H, W), 0..1 less the background."""
        ...

    def pairs(self, earlier: Array, later: Array) -> tuple[Array, Array]:
        """Motions (K, 3) x y yaw [m, rad] between features (K, F), and their sigmas (K, 3)."""
        ...


@dataclass(frozen=True)
class FrontEndOptions:
    """What counts as contact, and which images are paired.

    Attributes:
        z_threshold: Of a touched pixel [σ].
        area_fraction: Of touched pixels in a contact.
        hysteresis: Images in a row that change the state.
        pair_offsets: How many images before an image its partners are.
        image: Which part of an image is used, and its size.
    """

    z_threshold: float
    area_fraction: float
    hysteresis: int
    pair_offsets: tuple[int, ...]
    image: ImageConfig

    @classmethod
    def of(cls, config: SensorConfig) -> FrontEndOptions:
        """Those of a sensor."""
        c = config.contact
        thresholds = c.z_threshold, c.area_fraction, c.hysteresis
        return cls(*thresholds, config.pair_offsets, config.image)


@dataclass(frozen=True, eq=False)
class Pair:
    """The finger's motion from an earlier image as the object sees it.

    Attributes:
        stamp: Of the earlier image [ns].
        motion: (3,) x y yaw [m, rad].
        sigma: (3,) standard deviations.
    """

    stamp: int
    motion: Array
    sigma: Array


@dataclass(frozen=True, eq=False)
class Seen:
    """What one image says.

    Attributes:
        stamp: [ns].
        learning: The background is not known yet.
        in_contact: Whether it touches.
        area: Share of touched pixels.
        confidence: 0.5 at the threshold, 1 far from it.
        episode: How many contacts began so far.
        since: Stamp of the first image of those that showed it so [ns]; 0: it never changed.
        feature: (F,) by the model; None without one, or out of contact.
        pairs: With earlier images of the same contact.
        measured: Axes of the pairs.
        model_hash: Of the model that made them.
        failure: Why the model said nothing, if it failed.
        seconds: Spent in the model.
        touched: (H, W) the touched pixels.
    """

    stamp: int
    learning: bool
    in_contact: bool
    area: float
    confidence: float
    episode: int
    since: int
    touched: NDArray[np.bool_]
    feature: Array | None = None
    pairs: tuple[Pair, ...] = ()
    measured: tuple[str, ...] = ()
    model_hash: str = ""
    failure: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class _Kept:
    """One image of the past: its count, stamp, contact and feature."""

    count: int
    stamp: int
    episode: int
    feature: Array


class _Background:
    """Mean and variance of every pixel (H, W, 3) without contact."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Floats = np.zeros(0, dtype=np.float32)
        self._variance: Floats = self.mean
        self._inverse: Floats = self.mean

    @property
    def known(self) -> bool:
        return self.count >= LEARNING

    def learn(self, image: Floats) -> None:
        """With one image more: an average of the first ones, then a slow follower."""
        if not self.count:
            self.mean, self._variance = image.copy(), np.zeros_like(image)
        self.count += 1
        weight = np.float32(max(1.0 / self.count, FORGETTING))
        off = image - self.mean
        self.mean += weight * off
        self._variance += weight * ((1 - weight) * off * off - self._variance)
        self._inverse = np.reciprocal(np.sqrt(self._variance + np.float32(NOISE_FLOOR**2)))

    def distance(self, image: Floats) -> Floats:
        """(H, W) how far each pixel is from its background, its worst channel [σ]."""
        return np.abs((image - self.mean) * self._inverse).max(-1)


class TactileFrontEnd:
    """Sees one image after another, in the order of their arrival.

    Args:
        options: What counts as contact, and which images are paired.
        model: Makes features and pairs; None: contact only.
    """

    def __init__(self, options: FrontEndOptions, model: TactileModel | None = None) -> None:
        self.options = options
        self._model = model
        self.forget()

    @property
    def model(self) -> TactileModel | None:
        """The model in use."""
        return self._model

    def take_model(self, model: TactileModel | None) -> None:
        """Goes on with another model; pairs begin anew, since features of two do not compare."""
        self._model = model
        self._kept.clear()

    def forget(self) -> None:
        """Begins anew, with an unknown background."""
        self._background = _Background()
        self._kept: deque[_Kept] = deque()
        self._count = self._episode = self._against = 0
        self._contact = False
        self._since = self._first_against = 0

    def see(self, stamp: int, pixels: Pixels) -> Seen:
        """What an image (H, W, 3) of any size says; never raises for what its model does."""
        image = fitted(pixels, self.options.image).astype(np.float32) / np.float32(255.0)
        self._count += 1
        if not self._background.known:
            self._background.learn(image)
            nothing = np.zeros(image.shape[:2], dtype=np.bool_)
            return Seen(stamp, True, False, 0.0, 0.0, self._episode, 0, nothing)
        touched = self._background.distance(image) > self.options.z_threshold
        area = float(touched.mean())
        self._follow(stamp, area > self.options.area_fraction)
        if not self._contact and not self._against:
            self._background.learn(image)
        state = self._contact, area, self._confidence(area), self._episode, self._since
        found = Seen(stamp, False, *state, touched)
        return self._modelled(found, image)

    def _follow(self, stamp: int, touches: bool) -> None:
        """The state of contact after one image more."""
        self._against = self._against + 1 if touches != self._contact else 0
        if self._against == 1:
            self._first_against = stamp
        if self._against >= self.options.hysteresis:
            self._contact, self._against, self._since = touches, 0, self._first_against
            self._episode += touches

    def _confidence(self, area: float) -> float:
        """0.5 where the area is at its threshold, 1 at none and at twice of it."""
        ratio = area / max(self.options.area_fraction, 1e-9)
        return float(min(0.5 + 0.5 * abs(ratio - 1.0), 1.0))

    def _modelled(self, found: Seen, image: Floats) -> Seen:
        model = self._model
        if model is None or not found.in_contact:
            return found
        begin = time.perf_counter()
        found = replace(found, model_hash=model.hash, measured=model.measured)
        try:
            difference = np.ascontiguousarray((image - self._background.mean).transpose(2, 0, 1))
            feature = np.asarray(model.feature(difference), dtype=np.float64)
            if not np.isfinite(feature).all():
                return replace(found, failure="the feature is not finite")
            earlier = self._partners()
            self._keep(found, feature)
            pairs = _pairs(model, earlier, feature)
        except Exception as error:  # a model may raise anything
            return replace(found, failure=f"{type(error).__name__}: {error}")
        seconds = time.perf_counter() - begin
        return replace(found, feature=feature, pairs=pairs, seconds=seconds)

    def _partners(self) -> list[_Kept]:
        """The images of this contact with which the present one is paired."""
        wanted = {self._count - offset for offset in self.options.pair_offsets}
        return [k for k in self._kept if k.count in wanted and k.episode == self._episode]

    def _keep(self, found: Seen, feature: Array) -> None:
        self._kept.append(_Kept(self._count, found.stamp, found.episode, feature))
        oldest = self._count - max(self.options.pair_offsets, default=0)
        while self._kept and self._kept[0].count < oldest:
            self._kept.popleft()


def _pairs(model: TactileModel, earlier: list[_Kept], feature: Array) -> tuple[Pair, ...]:
    """What the model says of pairs; ValueError if that cannot be used."""
    if not earlier:
        return ()
    stacked = np.stack([k.feature for k in earlier])
    motions, sigmas = model.pairs(stacked, np.broadcast_to(feature, stacked.shape))
    shape = (len(earlier), 3)
    if np.shape(motions) != shape or np.shape(sigmas) != shape:
        text = f"{np.shape(motions)} and {np.shape(sigmas)}, expected {shape}"
        raise ValueError(f"motions and sigmas of pairs have shapes {text}")
    if not (np.isfinite(motions).all() and np.isfinite(sigmas).all() and (sigmas > 0).all()):
        raise ValueError("a relative pose is not finite, or its sigma not positive")
    return tuple(
        Pair(k.stamp, motion, sigma)
        for k, motion, sigma in zip(earlier, motions, sigmas, strict=True)
    )


def checked(model: TactileModel, image: ImageConfig) -> TactileModel:
    """The model, if one image and one pair of it can be used.

    Raises:
        DnlsError: It fails on them.
    """
    width, height = image.size
    black = np.zeros((3, height, width), dtype=np.float32)
    try:
        feature = np.asarray(model.feature(black), dtype=np.float64)
        if feature.ndim != 1 or not np.isfinite(feature).all():
            raise ValueError(f"the feature of a black image has shape {feature.shape}: {feature}")
        _pairs(model, [_Kept(0, 0, 0, feature)], feature)
    except Exception as error:  # a model may raise anything
        raise DnlsError(
            f"the model {model.hash} fails its test on a black image of {width} × {height} "
            f"pixels: {type(error).__name__}: {error}"
        ) from error
    return model


def fitted(pixels: Pixels, image: ImageConfig) -> Pixels:
    """The part of an image that is used, in the size that is wanted."""
    if image.crop:
        left, top, width, height = image.crop
        pixels = pixels[top : top + height, left : left + width]
    width, height = image.size
    if pixels.shape[:2] == (height, width):
        return pixels
    import cv2

    shrink = pixels.shape[0] > height
    how = cv2.INTER_AREA if shrink else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=how), dtype=np.uint8)


def measurement_of(frame: TactileFrame, seen: Seen) -> TactileImageMeasurement:
    """What was seen in a frame, for the estimator."""
    head: Mapping[str, object] = {
        "sensor": frame.sensor,
        "frame": frame.frame,
        "sequence": frame.sequence,
        "extrinsic": frame.extrinsic,
    }
    return TactileImageMeasurement(
        **head,  # type: ignore[arg-type]
        stamp=frame.stamp,
        in_contact=seen.in_contact,
        since=seen.since,
        failure=seen.failure,
        relatives=tuple(
            TactileRelativeMeasurement(
                **head,  # type: ignore[arg-type]
                stamp=frame.stamp,
                stamp_from=pair.stamp,
                relative=planar_pose(pair.motion),
                covariance=planar_covariance(pair.sigma),
                measured=seen.measured,
            )
            for pair in seen.pairs
        ),
    )


def planar_pose(motion: Array) -> Array:
    """x y yaw as a pose (7,)."""
    return pose_of_rpy((float(motion[0]), float(motion[1]), float(motion[2])))


def planar_covariance(sigma: Array) -> Array:
    """(6, 6) of sigmas (3,) of x, y and yaw; the other axes say nothing."""
    variance = np.full(6, UNMEASURED)
    variance[[0, 1, 5]] = np.square(sigma)
    return np.diag(variance)
