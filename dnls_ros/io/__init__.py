"""Recordings, trajectories, messages and files: all that the package reads and writes."""
