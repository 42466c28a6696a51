"""A picture that no model can use is refused before a model is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qwen2vl_robot.bounds import IMAGE_SIDE_PX
from qwen2vl_robot.errors import PlannerError
from qwen2vl_robot.planner.picture import MIN_SIDE_PX, check_picture
from qwen2vl_robot.reasons import PlannerReason


def test_pictures_of_the_smallest_and_the_largest_side_can_be_used() -> None:
    check_picture(np.zeros((MIN_SIDE_PX, IMAGE_SIDE_PX, 3), np.uint8))


BAD = {
    "no array": [[1, 2, 3]],
    "a float": np.zeros((64, 64, 3)),
    "grey": np.zeros((64, 64), np.uint8),
    "with an alpha channel": np.zeros((64, 64, 4), np.uint8),
    "too small": np.zeros((MIN_SIDE_PX - 1, 64, 3), np.uint8),
    "too large": np.zeros((64, IMAGE_SIDE_PX + 1, 3), np.uint8),
}


@pytest.mark.parametrize("picture", BAD.values(), ids=BAD.keys())
def test_a_picture_that_cannot_be_used_is_a_bad_request(picture: Any) -> None:
    with pytest.raises(PlannerError, match="the picture ") as refused:
        check_picture(picture)
    assert refused.value.reason is PlannerReason.BAD_REQUEST
    assert "\n" not in str(refused.value)
