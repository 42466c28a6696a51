"""Sentences that speak from the robot's own place mean its left and right; all others mean the picture's."""

from __future__ import annotations

import pytest

from qwen2vl_robot.languages import load_languages
from qwen2vl_robot.reading import read, whose_sides
from qwen2vl_robot.sides import SeenFrom

FROM_ITS_PLACE = {
    "en": "Pull the red block towards you!",
    "de": "Schieb den roten Block zu dir",
    "fr": "pousse le bloc rouge à ta gauche",
    "es": "empuja el bloque rojo hacia ti",
    "zh": "把红色方块推向你",
    "ja": "赤いブロックをロボットの方に押して",
    "ko": "빨간 블록을 네 쪽으로 밀어",
    "vi": "đẩy khối đỏ về phía bạn",
    "ar": "ادفع المكعب الأحمر نحوك",
}
IN_THE_PICTURE = {
    "en": "push the red block closer to me, to the left of the robot's blue plate",
    "de": "schieb den roten Block nach links, du zauderst",
    "fr": "pousse le bloc rouge à gauche, veux-tu",
    "es": "empuja el bloque rojo a la izquierda",
    "zh": "你把红色方块推到左边",
    "ja": "赤いブロックを左に押して",
    "ko": "빨간 블록을 건너 쪽으로 밀어",
    "vi": "bạn đẩy khối đỏ sang trái",
    "ar": "ادفع المكعب الأحمر إلى اليسار",
}


@pytest.mark.parametrize("language", sorted(load_languages()))
def test_whose_left_is_meant_is_heard_in_every_language(language: str) -> None:
    assert whose_sides(FROM_ITS_PLACE[language], SeenFrom.PICTURE) is SeenFrom.ROBOT
    assert whose_sides(IN_THE_PICTURE[language], SeenFrom.PICTURE) is SeenFrom.PICTURE
    assert whose_sides(IN_THE_PICTURE[language], SeenFrom.ROBOT) is SeenFrom.ROBOT


@pytest.mark.parametrize("text", ["nudge it to your left", "pick up the block nearest to you", "push it away from you"])
def test_words_from_the_robots_place_still_name_the_same_side(text: str) -> None:
    assert whose_sides(text, SeenFrom.PICTURE) is SeenFrom.ROBOT
    (step,) = read(text).steps
    assert step.direction is not None or (step.thing is not None and step.thing.superlative == "nearest")
