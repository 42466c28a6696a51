"""Robot profile, the cell's rules and label words → what perception knows before it looks."""

from __future__ import annotations

from dataclasses import dataclass

from qwen2vl_robot.config import RelationRules, RobotProfile, load_yaml
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.perception.labels import Words, load_words
from qwen2vl_robot.resources import resolve


@dataclass(frozen=True, slots=True, eq=False)
class Surroundings:
    """What stays the same from frame to frame.

    Attributes:
        profile, kinematics: of the arm in the picture.
        rules: when something is on, in or beside something else.
        words: which colours and shapes a label may mean.
    """

    profile: RobotProfile
    kinematics: Kinematics
    rules: RelationRules
    words: Words

    @classmethod
    def of(cls, profile: RobotProfile) -> Surroundings:
        """Load what the files under sim/ say of relations and words.

        Raises:
            BadInputError: one of them is missing or wrong.
        """
        rules = load_yaml(resolve("tasks/relations.yaml"), RelationRules)
        return cls(profile, Kinematics(profile), rules, load_words())
