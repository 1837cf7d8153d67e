"""What native environments refuse."""

from __future__ import annotations

import pytest
import torch

from core.specs import ActionSpec
from envs.rows.native import Box, refuse_unknown

BOX = Box((ActionSpec(2, -1.0, 1.0), ActionSpec(1, 0.0, 10.0)), "cpu")
RUNNING = torch.tensor([True, False])


def test_box_lets_pass_what_is_inside_and_any_padding() -> None:
    action = torch.tensor([[[1.0, -1.0], [10.0, 99.0]], [[0.0, 0.0], [0.0, -99.0]]])
    assert BOX.admit(action, RUNNING) is action


def test_box_cuts_rounding_errors_off() -> None:
    action = torch.tensor([[[1.00001, -1.00001], [10.00001, 3.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert BOX.admit(action, RUNNING)[0].tolist() == [[1, -1], [10, 3]]


@pytest.mark.parametrize("value", [1.001, -1.001, float("nan"), float("inf")])
def test_box_refuses(value: float) -> None:
    action = torch.zeros(2, 2, 2)
    action[0, 0, 1] = value
    with pytest.raises(ValueError, match=r"row 0, agent 0: action \[0.0, .*\] is not in its box, from \[-1.0"):
        BOX.admit(action, RUNNING)


def test_ended_rows_may_say_anything() -> None:
    action = torch.zeros(2, 2, 2)
    action[1] = torch.nan
    assert torch.equal(BOX.admit(action, RUNNING), torch.zeros(2, 2, 2))
    number = torch.tensor([[1, 2], [7, -7]])
    assert refuse_unknown(number, 3, RUNNING).tolist() == [[1, 2], [0, 0]]


@pytest.mark.parametrize("action", [7, -1])
def test_unknown_numbers_are_refused(action: int) -> None:
    number = torch.tensor([[1, 2], [action, 0]])
    with pytest.raises(ValueError, match=f"row 1, agent 0: action {action} is not available"):
        refuse_unknown(number, 3, torch.tensor([True, True]))
