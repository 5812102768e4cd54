"""Sliding-window estimation: measurements in, optimized poses out; no ROS (layer 6)."""
