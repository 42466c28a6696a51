"""The plant's true boxes → a plan, to measure perception and motion without a model."""

from __future__ import annotations

from qwen2vl_robot.benchmarks.episodes import Episode
from qwen2vl_robot.messages import ImageBox, Instruction, Observation, Plan, StepRecord, Where
from qwen2vl_robot.planner.reply import ask_text, format_reply, parse_reply
from qwen2vl_robot.plant.client import PlantTruth


def outward_px(box: ImageBox) -> tuple[int, int, int, int]:
    """Round a box to whole pixels that hold all of it."""
    return (int(box.x0), int(box.y0), int(box.x1 + 0.999), int(box.y1 + 0.999))


def pick_plan(label: str, box: ImageBox) -> Plan:
    """Plan to pick what is in a box."""
    return parse_reply(format_reply([(label, [outward_px(box)], None)], [{"do": "pick", "object": 0}]))


class TruthPlanner:
    """Answers an episode's instruction with the plant's own boxes."""

    def __init__(self, episode: Episode, truth: PlantTruth) -> None:
        self._episode = episode
        self._truth = truth

    def plan(self, observation: Observation, instruction: Instruction, history: tuple[StepRecord, ...]) -> Plan:
        """Plan with the true boxes (see `ports.Planner`)."""
        boxes, episode = self._truth.boxes(), self._episode
        objects: list[tuple[str, list[tuple[int, int, int, int]], Where | None]] = []
        for label, bearers, where in (
            (episode.target, episode.bearers, Where(episode.where) if episode.where else None),
            (episode.reference, (episode.reference,), None),
        ):
            seen = [boxes[name].box for name in bearers if name in boxes]
            if not seen:
                return parse_reply(format_reply([], [{"do": "ask", "text": ask_text(label)}]))
            objects.append((label, [outward_px(box) for box in seen], where))
        place: dict[str, object] = {"do": "place", "object": 1, "relation": episode.task.relation.value}
        return parse_reply(format_reply(objects, [{"do": "pick", "object": 0}, place]))
