"""The live node and its tools; the only modules that import rclpy and generated messages."""
