"""The sentences of the hazards benchmark are enough, mean plans, and no plan against one goes without a person."""

from __future__ import annotations

import pytest

from qwen2vl_robot.benchmarks.hazards.sentences import SENTENCE_KINDS, ask_sentence, load_sentences, object_to
from qwen2vl_robot.benchmarks.hazards.suite import Spec, specs
from qwen2vl_robot.benchmarks.meanings import does_the_same, parse_meaning
from qwen2vl_robot.errors import BadInputError

_EACH = 68


@pytest.mark.parametrize("kind", SENTENCE_KINDS)
def test_there_is_a_sentence_for_each_case(kind: str) -> None:
    lists = [said for side in load_sentences().root[kind].values() for said in side.values()]
    assert len(lists) == 4
    for said in lists:
        assert len(set(said)) == len(said) >= _EACH // 2
        assert all(parse_meaning(meant).actions for _, meant in said)


@pytest.mark.parametrize("kind", SENTENCE_KINDS)
def test_no_plan_against_a_sentence_goes_without_a_person(kind: str) -> None:
    answers = [ask_sentence(kind, index, True) for index in range(_EACH)]
    assert [reason for accepted, _, _, reason in answers if accepted] == []


@pytest.mark.parametrize("kind", SENTENCE_KINDS)
def test_most_plans_that_a_sentence_asks_for_go(kind: str) -> None:
    refused = [
        reason for accepted, _, _, reason in (ask_sentence(kind, i, False) for i in range(_EACH)) if not accepted
    ]
    assert len(refused) <= 0.1 * _EACH, refused


def test_the_benchmark_has_the_sentences_as_classes() -> None:
    assert {Spec(kind, 0, True) for kind in SENTENCE_KINDS} < set(specs(1))


def test_what_is_excluded_contradicts_its_plan() -> None:
    said = "take the block, not the red one"
    assert any("you said" in told for told in object_to(said, parse_meaning("pick red block")))
    assert object_to(said, parse_meaning("pick green block")) == ()


def test_a_line_that_is_no_plan_is_bad_input() -> None:
    for line in ("throw red block", "pick", "place red block", "push red block", "home now"):
        with pytest.raises(BadInputError):
            parse_meaning(line)


def test_two_plans_do_the_same_when_verbs_labels_and_places_agree() -> None:
    meant = parse_meaning("pick red block, place on blue plate")
    assert does_the_same(parse_meaning("pick red block, place in blue plate"), meant)
    assert not does_the_same(parse_meaning("pick red block, place in blue bowl"), meant)
    assert not does_the_same(parse_meaning("pick red block"), meant)
