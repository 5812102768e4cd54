"""Differentiable nonlinear least squares on poses: a library, a sliding window and a ROS 2 node.

``import dnls_ros`` needs torch, NumPy and SciPy only: ROS, CHOLMOD and OpenCV are loaded where
they are used. The path is extended so that in a checkout the generated messages
(``dnls_ros.msg``, ``dnls_ros.srv``) are found in the installed copy while the checkout's own
Python files win.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"
