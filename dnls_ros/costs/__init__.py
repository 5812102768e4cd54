"""Costs with analytic Jacobians: poses, motion, cameras, landmarks, limits (layer 2)."""

from dnls_ros.costs.camera import MIN_DEPTH as MIN_DEPTH
from dnls_ros.costs.camera import PinholeCamera as PinholeCamera
from dnls_ros.costs.camera import landmark_reprojection as landmark_reprojection
from dnls_ros.costs.camera import tag_corners as tag_corners
from dnls_ros.costs.dynamics import double_integrator as double_integrator
from dnls_ros.costs.dynamics import gp_motion as gp_motion
from dnls_ros.costs.dynamics import no_side_slip as no_side_slip
from dnls_ros.costs.dynamics import nonholonomic as nonholonomic
from dnls_ros.costs.dynamics import white_acceleration_noise as white_acceleration_noise
from dnls_ros.costs.geometry import moving_frame_between as moving_frame_between
from dnls_ros.costs.geometry import point_to_plane as point_to_plane
from dnls_ros.costs.landmark import range_bearing as range_bearing
from dnls_ros.costs.limits import hinge as hinge
from dnls_ros.costs.motion import body_twist as body_twist
from dnls_ros.costs.motion import constant_velocity as constant_velocity
from dnls_ros.costs.motion import constant_velocity_noise as constant_velocity_noise
from dnls_ros.costs.motion import random_walk as random_walk
from dnls_ros.costs.motion import velocity_prior as velocity_prior
from dnls_ros.costs.pose import between as between
from dnls_ros.costs.pose import partial_pose as partial_pose
from dnls_ros.costs.pose import prior as prior
from dnls_ros.costs.stereo import stereo_reprojection as stereo_reprojection
