"""A new arm: its URDF → a robot file of guesses for a person to confirm, and what checks of such a file find."""
