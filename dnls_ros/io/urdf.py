"""Robot descriptions (URDF) as kinematic trees.

Joints are read by urdf_parser_py, ROS' own parser (package urdfdom_py). It is handed them one by
one, and of each only what kinematics needs: an error can name its joint, and meshes, transmissions
and what simulators add, for some of which the parser refuses whole files, are not looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import torch

from dnls_ros.costs import Joint, KinematicTree, Mimic
from dnls_ros.costs.joints import KINDS
from dnls_ros.errors import DnlsError, UnavailableError, UnreadableInputError
from dnls_ros.lie import SE3
from dnls_ros.window.bodies import pose_of_rpy

KEPT = ("origin", "axis", "parent", "child", "limit", "mimic")


def read_urdf(path: Path | str) -> KinematicTree:
    """Read a URDF file, in float64.

    Limits are those of ``<limit>``; safety controllers are not looked at.

    Raises:
        UnreadableInputError: Names file, joint and what is expected: no such file, no XML, xacro
            that is not expanded, a floating, planar or unknown joint, a joint without limits that
            needs them, several roots, a cycle, a mimic of an unknown joint.
        UnavailableError: urdf_parser_py is not installed.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise UnreadableInputError(f"cannot read {path}: {error}") from error
    return parse_urdf(text, str(path))


def parse_urdf(text: str | bytes, where: str = "robot_description") -> KinematicTree:
    """The same of a URDF's text, such as the topic /robot_description carries.

    Args:
        text: The XML.
        where: What errors call it.
    """
    robot = _robot(text, where)
    links = [link.get("name", "") for link in robot.findall("link")]
    joints = [_joint(element, where) for element in robot.findall("joint")]
    try:
        return KinematicTree.of(joints, links)
    except DnlsError as error:
        _fail(where, str(error))


def _robot(text: str | bytes, where: str) -> Element:
    try:
        robot = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UnreadableInputError(f"{where} is no XML: {error}; expected a URDF") from error
    if any(
        "wiki/xacro" in element.tag for element in robot.iter() if isinstance(element.tag, str)
    ):
        _fail(where, "holds xacro macros; expand it first: xacro FILE > robot.urdf")
    if robot.tag != "robot":
        _fail(where, f"has <{robot.tag}> as its top element, expected <robot>: a URDF")
    return robot


def _joint(element: Element, where: str) -> Joint:
    kind, name = element.get("type"), element.get("name")
    if kind not in KINDS:
        _fail(where, f"joint '{name}' is of type '{kind}', expected one of {', '.join(KINDS)}")
    kept = Element("joint", element.attrib)
    kept.extend(child for child in element if child.tag in KEPT)
    joint = _parsed(kept, where)
    try:
        return _ours(joint)
    except DnlsError as error:
        _fail(where, str(error))


def _parsed(element: Element, where: str) -> Any:
    try:
        from urdf_parser_py import urdf
    except ImportError as error:
        raise UnavailableError(
            f"{where}: reading a URDF needs urdf_parser_py ({error}); install dnls_ros[kinematics]"
            " by pip, or the ROS package urdfdom_py"
        ) from error
    try:
        return urdf.Joint.from_xml_string(ElementTree.tostring(element))
    except Exception as error:  # the parser lets through what its conversions raise
        raise UnreadableInputError(
            f"{where}: joint '{element.get('name')}' is not as the URDF format says: "
            + " ".join(str(error).split())
        ) from error


def _ours(joint: Any) -> Joint:
    """A joint of the parser as ours."""
    xyz, rpy = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
    if joint.origin is not None:
        xyz, rpy = joint.origin.xyz, joint.origin.rpy
    mimic = joint.mimic
    if mimic is not None:
        multiplier = 1.0 if mimic.multiplier is None else mimic.multiplier
        mimic = Mimic(mimic.joint, multiplier, mimic.offset or 0.0)
    return Joint(
        joint.name,
        joint.type,
        joint.parent,
        joint.child,
        SE3(torch.from_numpy(pose_of_rpy((*xyz, *rpy)))),
        (1.0, 0.0, 0.0) if joint.axis is None else tuple(joint.axis),
        None if joint.limit is None else (joint.limit.lower, joint.limit.upper),
        mimic,
    )


def _fail(where: str, text: str) -> NoReturn:
    raise UnreadableInputError(f"{where}: {text}")
