"""A sentence → what it asks for (`read`), whose left it means, and whether to stop before anything else."""

from __future__ import annotations

from qwen2vl_robot.reading.goal import (
    ARRANGING,
    CORNERS,
    HANDLING,
    MANY,
    MEASURED_RANKS,
    PARTS,
    Asks,
    Deed,
    Goal,
    Mood,
    Place,
    Polarity,
    Quantity,
    Question,
    Step,
    Thing,
)
from qwen2vl_robot.reading.reader import Reader, asks_to_stop, load_reader, load_words, read
from qwen2vl_robot.reading.stopping import stop_word
from qwen2vl_robot.reading.viewpoint import whose_sides

__all__ = [
    "ARRANGING",
    "CORNERS",
    "HANDLING",
    "MANY",
    "MEASURED_RANKS",
    "PARTS",
    "Asks",
    "Deed",
    "Goal",
    "Mood",
    "Place",
    "Polarity",
    "Quantity",
    "Question",
    "Reader",
    "Step",
    "Thing",
    "asks_to_stop",
    "load_reader",
    "load_words",
    "read",
    "stop_word",
    "whose_sides",
]
