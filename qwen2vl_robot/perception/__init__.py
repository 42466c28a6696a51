"""Boxes + depth → Scene: `perceive` after a fresh plan, `remeasure` before each later step."""

from qwen2vl_robot.perception.grounding import perceive
from qwen2vl_robot.perception.labels import Words, load_words
from qwen2vl_robot.perception.stock import Stock, clear_labels, take_stock
from qwen2vl_robot.perception.surroundings import Surroundings
from qwen2vl_robot.perception.tracking import remeasure

__all__ = ["Stock", "Surroundings", "Words", "clear_labels", "load_words", "perceive", "remeasure", "take_stock"]
