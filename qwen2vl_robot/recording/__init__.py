"""Decisions → bags that Foxglove and `ros2 bag` open, and back: recording, replay, export."""
