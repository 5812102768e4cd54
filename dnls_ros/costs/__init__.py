"""Costs with analytic Jacobians: poses, motion, cameras and point landmarks (layer 2)."""

from dnls_ros.costs.camera import MIN_DEPTH as MIN_DEPTH
from dnls_ros.costs.camera import PinholeCamera as PinholeCamera
from dnls_ros.costs.camera import landmark_reprojection as landmark_reprojection
from dnls_ros.costs.camera import tag_corners as tag_corners
from dnls_ros.costs.landmark import range_bearing as range_bearing
from dnls_ros.costs.motion import body_twist as body_twist
from dnls_ros.costs.motion import constant_velocity as constant_velocity
from dnls_ros.costs.motion import constant_velocity_noise as constant_velocity_noise
from dnls_ros.costs.motion import random_walk as random_walk
from dnls_ros.costs.motion import velocity_prior as velocity_prior
from dnls_ros.costs.pose import between as between
from dnls_ros.costs.pose import partial_pose as partial_pose
from dnls_ros.costs.pose import prior as prior
