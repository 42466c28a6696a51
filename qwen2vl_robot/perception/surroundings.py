"""Robot profile, the cell's rules and label words → what perception knows before it looks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qwen2vl_robot.config import RelationRules, RobotProfile
from qwen2vl_robot.kinematics import Kinematics
from qwen2vl_robot.perception.labels import Words, load_words
from qwen2vl_robot.reading import whose_sides
from qwen2vl_robot.relations import load_relations
from qwen2vl_robot.sides import SeenFrom


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
    def of(cls, profile: RobotProfile, seen_from: SeenFrom | None = None) -> Surroundings:
        """Load what the files under sim/ say of relations and words.

        Args:
            seen_from: whose left and right count; None leaves it to the file.

        Raises:
            BadInputError: one of them is missing or wrong.
        """
        return cls(profile, Kinematics(profile), load_relations(seen_from), load_words())

    def heard(self, text: str) -> Surroundings:
        """The same for one instruction: one that speaks from the robot's own place ("towards you") means its sides."""
        whose = whose_sides(text, self.rules.seen_from)
        return replace(self, rules=self.rules.model_copy(update={"seen_from": whose}))
