"""Asked only where things are: what is done with them comes from the sentence, and what is left open is a question."""

from __future__ import annotations

import json

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer

from qwen2vl_robot.agreement import agree
from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.messages import Instruction, Plan, PlannerRequest, Verb
from qwen2vl_robot.order import read_order
from qwen2vl_robot.planner.contract import BoxConvention, PlannerMode
from qwen2vl_robot.planner.detect import Found, find_each, found_in, plan_by_detection
from qwen2vl_robot.planner.detections import parse_detections
from qwen2vl_robot.planner.grammar import detection_grammar
from qwen2vl_robot.planner.process import SHIPPED_MODEL
from qwen2vl_robot.planner.reply import RawReply, format_reply
from qwen2vl_robot.planner.server import ServerPlanner
from qwen2vl_robot.planner.sources import read_settings
from qwen2vl_robot.reading import read
from qwen2vl_robot.reasons import PlannerReason
from tests.planner.test_server import Server, completion, server

__all__ = ["server"]
PICTURE = np.zeros((480, 640, 3), dtype=np.uint8)
SEEN = {
    "red block": [[412, 330, 470, 398]],
    "blue plate": [[530, 411, 702, 566]],
    "block": [[112, 330, 170, 398], [412, 330, 470, 398]],
    "plate": [[530, 411, 702, 566]],
    "ball": [[700, 100, 740, 150]],
}


def ask(
    text: str, seen: dict[str, list[list[int]]] | None = None, **more: object
) -> tuple[Plan, list[tuple[str, ...]]]:
    asked: list[tuple[str, ...]] = []

    def find(request: PlannerRequest, nouns: tuple[str, ...]) -> Found:
        asked.append(nouns)
        boxes = SEEN if seen is None else seen
        things = [{"bbox_2d": box, "label": noun} for noun in nouns for box in boxes.get(noun, [])]
        answer = RawReply(json.dumps(things), (640, 476), prompt=f"where: {nouns}")
        return found_in(answer, nouns, BoxConvention.THOUSANDTHS)

    return plan_by_detection(PlannerRequest(PICTURE, Instruction(text, **more)), find), asked


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        ("pick up the red block", ["pick red block"]),
        ("put the red block on the blue plate", ["pick red block", "place on blue plate"]),
        ("put the red cube onto the blue plate, then go home", ["pick red block", "place on blue plate", "home"]),
        ("push the ball to the left", ["push ball left"]),
        ("wait 2 seconds and then go home", ["wait", "home"]),
        ("put all blocks on the plate", ["pick block", "place on plate"] * 2),
        ("put 2 blocks on the plate", ["pick block", "place on plate"] * 2),
        ("拿起红色方块", ["pick red block"]),
        ("pick up the leftmost block", ["pick block"]),
    ],
)
def test_the_actions_are_those_of_the_sentence_and_agree_with_it(text: str, actions: list[str]) -> None:
    plan, nouns = ask(text)
    assert [action.describe() for action in plan.actions] == actions
    assert plan.prompt == "".join(f"where: {asked}" for asked in nouns)
    agreement = agree(read(text), plan)
    assert not agreement.contradictions
    assert not agreement.doubts


def test_each_noun_is_asked_for_once_and_nothing_is_asked_where_none_is_said() -> None:
    assert ask("put the red block on the blue plate, then push the red block to the left")[1] == [
        ("red block", "blue plate")
    ]
    assert ask("go home")[1] == []


def test_which_one_is_meant_stays_with_geometry() -> None:
    plan, _ = ask("pick up the leftmost block")
    assert plan.actions[0].object is not None
    assert len(plan.actions[0].object.boxes) == 2
    assert plan.actions[0].object.where is not None
    assert plan.actions[0].object.where.kind == "leftmost"
    plan, asked = ask("put the block that is on the plate next to the ball")
    assert asked == [("block", "plate", "ball")]
    assert plan.actions[0].object is not None
    assert plan.actions[0].object.where is not None
    assert (plan.actions[0].object.where.kind, plan.actions[0].object.where.reference) == ("on", "plate")
    assert {thing.label for thing in plan.objects} >= {"block", "plate", "ball"}


@pytest.mark.parametrize(
    "text",
    [
        "pick up the stapler",
        "pick it up",
        "put the red block to the left",
        "put the red block down",
        "pick up another block",
        "put 3 blocks on the plate",
        "pick up the block, not the red one",
        "wait",
        "is there a red block?",
        "do not pick up the red block",
    ],
)
def test_what_is_left_open_is_a_question_and_moves_nothing(text: str) -> None:
    plan, _ = ask(text)
    assert [action.verb for action in plan.actions] == [Verb.ASK]


def test_what_is_not_there_is_a_question_in_the_persons_language() -> None:
    plan, _ = ask("pick up the red block", {})
    assert [(action.verb, action.text) for action in plan.actions] == [(Verb.ASK, "I see no red block.")]
    plan, _ = ask("拿起红色方块", {})
    assert plan.actions[0].verb is Verb.ASK
    assert plan.actions[0].text != "I see no red block."


def test_after_a_part_is_done_only_the_rest_is_planned() -> None:
    plan, _ = ask("pick up the ball, then go home", is_begun=True, plainly=("go home",))
    assert [action.verb for action in plan.actions] == [Verb.HOME]
    with pytest.raises(PlannerError, match="not put into words"):
        ask("pick up the ball, then go home", is_begun=True)


def test_the_words_of_the_rest_are_read_back_as_what_they_were_made_from() -> None:
    text = "put the red cube onto the blue dish, then push the ball away"
    order = read_order(Instruction(text))
    whole, _ = ask(text)
    rest, _ = ask(text, is_begun=True, plainly=order.instruction.plainly)
    assert rest.actions == whole.actions


def test_a_model_that_knows_plans_alone_is_asked_noun_by_noun() -> None:
    def reply(request: PlannerRequest) -> RawReply:
        noun = request.instruction.text.removeprefix("pick up the ")
        actions = [{"do": "pick", "object": 0}] if noun in SEEN else [{"do": "ask", "text": "?"}]
        return RawReply(format_reply([(noun, SEEN.get(noun, []))], actions), (640, 476))  # type: ignore[arg-type]

    request = PlannerRequest(PICTURE, Instruction("put the ball on the red plate"))
    found = find_each(request, ("ball", "red plate"), BoxConvention.THOUSANDTHS, reply)
    assert [len(boxes) for boxes in found.detections.boxes.values()] == [1, 0]
    assert found.detections.notes == ()


def test_the_grammar_of_boxes_allows_the_nouns_alone() -> None:
    tokenizer = LLTokenizer(f"{SHIPPED_MODEL}/tokenizer.json")
    grammar = LLMatcher.grammar_from_lark(detection_grammar(1000, ("red block", "blue plate")))
    for reply, is_allowed in (
        ("[]", True),
        ('[{"bbox_2d":[1,2,30,40],"label":"red block"},{"bbox_2d":[1,2,30,40],"label":"blue plate"}]', True),
        ('[{"bbox_2d":[1,2,30,40],"label":"laptop"}]', False),
        ('[{"bbox_2d":[1,2,30],"label":"red block"}]', False),
    ):
        matcher = LLMatcher(tokenizer, grammar)
        consumed = matcher.consume_tokens(tokenizer.tokenize_str(reply)) and matcher.is_accepting()
        assert consumed is is_allowed, reply
        if is_allowed:
            parse_detections(reply, ("red block", "blue plate"))


def test_a_prefix_of_the_models_name_chooses_the_mode() -> None:
    for name, model in (("detect:Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-2B-Instruct"), ("detect:", SHIPPED_MODEL)):
        settings = read_settings(name)
        assert (settings.model, settings.mode) == (model, PlannerMode.DETECT)
        assert settings.why_uncalibrated((640, 480)) == ""
    served = read_settings("detect:http://127.0.0.1:8000/v1#m")
    assert (served.server, served.model, served.mode) == ("http://127.0.0.1:8000/v1", "m", PlannerMode.DETECT)
    assert read_settings("Qwen/Qwen2-VL-2B-Instruct").mode is PlannerMode.PLAN


# ---------------------------------------------------------------------------------------------- over HTTP


def test_a_server_is_asked_for_boxes_alone(server: Server) -> None:
    server.answers(completion('```json\n[{"bbox_2d": [412, 330, 470, 398], "label": "red block"}]\n```'))
    planner = ServerPlanner(server.settings(mode=PlannerMode.DETECT))
    plan = planner.plan(PlannerRequest(PICTURE, Instruction("pick up the red block"), ("failed: x",), (PICTURE,)))
    assert [action.describe() for action in plan.actions] == ["pick red block"]
    assert plan.reply.startswith("```json")
    (request,) = server.requests
    picture, text = request["messages"][1]["content"]
    assert picture["type"] == "image_url"
    assert text["text"] == "Locate: red block"
    assert request["structured_outputs"]["json"]["items"]["required"] == ["bbox_2d", "label"]


def test_a_servers_actions_count_for_nothing(server: Server) -> None:
    plan_of_its_own = format_reply(
        [("red block", [(412, 330, 470, 398)])], [{"do": "push", "object": 0, "direction": "away"}]
    )
    server.answers(completion(plan_of_its_own))
    plan = ServerPlanner(server.settings(mode=PlannerMode.DETECT)).plan(
        PlannerRequest(PICTURE, Instruction("pick up the red block"))
    )
    assert [action.describe() for action in plan.actions] == ["pick red block"]
    assert "nobody asked for actions" in plan.notes


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("Sure, it is in the middle.", PlannerReason.BAD_REPLY),
        ('[{"point_2d": [441, 364], "label": "red block"}]', PlannerReason.POINTS),
        ('[{"bbox_2d": [412, 330, 470, 398], "label": "green block"}]', PlannerReason.OTHER_LABEL),
    ],
)
def test_a_server_that_does_not_say_where_gives_no_plan(server: Server, reply: str, reason: PlannerReason) -> None:
    server.answers(completion(reply))
    with pytest.raises(PlannerError) as refused:
        ServerPlanner(server.settings(mode=PlannerMode.DETECT)).plan(
            PlannerRequest(PICTURE, Instruction("pick up the red block"))
        )
    assert refused.value.reason is reason
