"""What the parameters of pushed objects and of sensors of touch must satisfy together."""

from __future__ import annotations

from dnls_ros.errors import DnlsError
from dnls_ros.window.config import (
    QUASI_STATIC,
    TOUCH_TYPES,
    EstimatorConfig,
    ImageConfig,
    SensorConfig,
    TrackConfig,
)
from dnls_ros.window.parameter_blocks import Problems

PAIR_MARGIN = 0.1
"""By how much the window is longer than the span of any pair of images [s]."""


def check_touch(config: EstimatorConfig, problems: Problems) -> None:
    """Notes every violation."""
    tracks = {track.name: track for track in config.tracks}
    for track in config.tracks:
        _check_pusher(track, tracks, problems)
        _check_shape(track, problems)
    for sensor in config.sensors:
        if sensor.type in TOUCH_TYPES:
            _check_sensor(sensor, tracks[sensor.track], problems)
        if sensor.type == "tactile_image":
            _check_images(sensor, config.window.duration, problems)


def _check_pusher(track: TrackConfig, tracks: dict[str, TrackConfig], problems: Problems) -> None:
    """A pushed track and its pusher are two bodies on one plane."""
    where = f"track.{track.name}.pusher_track"
    if not track.pusher_track:
        if track.motion == QUASI_STATIC:
            problems.add(where, "is required for motion 'quasi_static_push': who pushes")
        return
    pusher = tracks.get(track.pusher_track)
    others = [name for name, other in tracks.items() if other is not track]
    if pusher is None or pusher is track:
        problems.add(where, f"got '{track.pusher_track}'; expected one of {others}")
    elif pusher.pusher_track:
        problems.add(where, f"'{pusher.name}' is pushed itself, by '{pusher.pusher_track}'")
    elif not (track.planar and pusher.planar):
        problems.add(where, "both tracks must have manifold se2: pushing is on a plane")
    elif track.parent_frame != pusher.parent_frame:
        text = f"'{pusher.name}' has parent_frame '{pusher.parent_frame}'"
        problems.add(where, f"{text}, this track '{track.parent_frame}'; they must be the same")


def _check_shape(track: TrackConfig, problems: Problems) -> None:
    """The shape, if there is one, can be made."""
    where, shape = f"track.{track.name}.shape", track.shape
    if not shape.type:
        if track.motion == QUASI_STATIC:
            text = "is required for motion 'quasi_static_push'"
            problems.add(f"{where}.type", f"{text}: disc, rect, ellipse, polygon or sdf")
        if shape.size or shape.sdf_file:
            problems.add(f"{where}.type", "is required where a size or a file is given")
        return
    if shape.sdf_file and shape.type != "sdf":
        text = f"applies to shape.type 'sdf' only, which is '{shape.type}'"
        problems.add(f"{where}.sdf_file", text)
    if shape.type == "sdf" and not shape.sdf_file:
        problems.add(f"{where}.sdf_file", "is required for shape.type 'sdf'")
        return
    from dnls_ros.window.pushed import pushed_object  # brings torch, which nothing else here needs

    try:
        pushed_object(shape)
    except DnlsError as error:
        row = "sdf_file" if shape.type == "sdf" else "size"
        problems.add(f"{where}.{row}", str(error))


def _check_sensor(sensor: SensorConfig, track: TrackConfig, problems: Problems) -> None:
    """A sensor of touch measures a pushed track whose surface is known."""
    where = f"sensor.{sensor.name}"
    if not track.pusher_track:
        text = f"track.{track.name}.pusher_track: the finger that touches it"
        problems.add(f"{where}.track", f"a {sensor.type} sensor needs {text}")
    if sensor.type != "tactile_relative" and not track.shape.type:
        text = f"a {sensor.type} sensor needs track.{track.name}.shape"
        problems.add(f"{where}.track", text)
    if sensor.force_threshold_on <= sensor.force_threshold_off:
        problems.add(
            f"{where}.force_threshold_on",
            f"got {sensor.force_threshold_on:g} N; expected more than force_threshold_off = "
            f"{sensor.force_threshold_off:g} N",
        )


def _check_images(sensor: SensorConfig, duration: float, problems: Problems) -> None:
    """Pairs fit the window, and numbers of an image are as many as they must be."""
    where, offsets = f"sensor.{sensor.name}.", sensor.pair_offsets
    check_images(where, offsets, sensor.image, problems)
    if not sensor.model or not sensor.expected_rate or not offsets:
        return
    needed = max(offsets) / sensor.expected_rate + PAIR_MARGIN
    if duration < needed:
        text = f"got {duration:g} s; sensor '{sensor.name}' pairs images up to {max(offsets)} "
        text += f"frames apart at {sensor.expected_rate:g} Hz: expected at least {needed:g} s"
        problems.add("window.duration", text)


def check_images(
    where: str, offsets: tuple[int, ...], image: ImageConfig, problems: Problems
) -> None:
    """Numbers about images are as many as they must be; ``where`` ends with a dot."""
    if list(offsets) != sorted(set(offsets)):
        text = f"got {list(offsets)}; expected ascending numbers"
        problems.add(f"{where}pair_offsets", text)
    if len(image.crop) not in (0, 4):
        problems.add(f"{where}image.crop", f"has {len(image.crop)} numbers; expected 4, or none")
    if len(image.size) != 2:
        text = f"has {len(image.size)} numbers; expected width and height"
        problems.add(f"{where}image.size", text)
