"""The steps of the port, in order: the first that is not done fails and says what to do, the others wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from porting.scaffold.steps import STEPS


@pytest.mark.parametrize("step", STEPS)
def test_step(step: str, port_steps: Callable[[str], Any]) -> None:
    port_steps("bert").check(step)
