"""A simulated finger pushes an object; a front end sees its gel, an estimator follows the object.

    ros2 launch dnls_ros demo_sim_push.launch.py model:=run/model.pt
    ros2 launch dnls_ros demo_sim_push.launch.py scene:=push_disc fault:=drop fault_p:=0.2

Everything ends with the simulator. Watch it with ``rviz:=true`` or `ros2 topic echo
/odometry/filtered`; the truth is on ``truth/object``.
"""

from typing import Any

from launch import LaunchDescription
from launch.actions import EmitEvent, RegisterEventHandler
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown

from dnls_ros.io.faults import KEYS
from dnls_ros.io.push_scene import push_scene
from dnls_ros.ros.launching import (
    Argument,
    Given,
    common,
    companions,
    describe,
    estimator,
    front_end,
    grouped,
    plain_node,
)

GEL = {"image.size": [32, 24], "qos.reliability": "reliable", "qos.depth": 100}
"""Of the front end: what models of config/train_push.yaml see."""
FINGER = {
    "sensor.contact.contact.radius": 0.012,
    "sensor.contact.throttle": 0.16,  # every fifth image makes a state, as in training
    "sensor.tactile.throttle": 0.16,
    "sensor.tactile.axes": ["x", "y", "yaw"],
    "sensor.ee_pose.throttle": 0.05,
    "window.duration": 3.2,
}
"""Of the estimator: the simulated finger."""
FAULTS = ("none", *(kind for kind, keys in KEYS.items() if keys == ("p",)))
ARGUMENTS = [
    Argument("scene", "push_rect", "push_disc, push_rect, push_ellipse, push_polygon or a file"),
    Argument("model", "", "trained model; empty: the images say only whether it touches"),
    Argument("fault", "none", f"{', '.join(FAULTS)}: what happens to tactile images", FAULTS),
    Argument("fault_p", "0.1", "how likely it is, 0 … 1"),
    Argument("seed", "0", "of everything random"),
    Argument("duration", "60", "of the whole [s]"),
]


def generate_launch_description() -> LaunchDescription:
    shared = common(__file__, "tactile_pushing_rect.yaml")
    return describe(__file__, [*shared, *ARGUMENTS], _start)


def _start(given: Given) -> list[Any]:
    """Simulator, front end and estimator of the scene's object."""
    scene = push_scene(given["scene"])
    share = given.number("fault_p")
    faults = [] if given["fault"] == "none" else [f"{given['fault']}:digit/image_raw:p={share:g}"]
    simulator = plain_node(
        given,
        "sim_push_node",
        "sim_push",
        {
            "scene": given["scene"],
            "seed": given.number("seed"),
            "duration": given.number("duration", least=1.0),
            **({"faults": faults} if faults else {}),
        },
    )
    shape = {
        **FINGER,
        "track.object.shape.type": scene.shape,
        "track.object.shape.size": [float(s) for s in scene.size],
    }
    model = {"model": str(given.file("model"))} if given["model"] else {}
    nodes = [
        simulator,
        front_end(given, [("image_raw", "digit/image_raw")], {**GEL, **model}, "tactile_frontend"),
        estimator(given, shape),
        *companions(given),
    ]
    end = OnProcessExit(target_action=simulator, on_exit=[EmitEvent(event=Shutdown())])
    return [RegisterEventHandler(end), grouped(given, nodes)]
