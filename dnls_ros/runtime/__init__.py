"""The estimator under supervision: time, frames, states of health, recovery. No ROS in it."""
