"""What a long run shows on a terminal while it runs: the stage, how long, how far, and the worst so far.

    ⠋ isolating each tensor  ━━━━━━━╸            32%  0:12
      43 of 133: encoder.block.1.layer.0.SelfAttention.scores
      worst so far: 4.96e-05 in logits

Only what is to be seen; `output.py` decides whether anything is, and prints.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

_BAR = 20
# Narrower, and the bar would leave no room for words.
_ROOM_FOR_BAR = 60


class LiveView:
    """The state of a run, drawn anew several times a second; every line fits the terminal.

    Args:
        clock: seconds from some beginning.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        from rich.spinner import Spinner

        self._clock = clock
        self._spinner = Spinner("dots")
        self._stage = "starting"
        self._began = self._clock()
        self._done = 0
        self._total: int | None = None
        self._tensor = ""
        self._worst: tuple[float, str] | None = None

    def stage(self, description: str, total: int | None = None) -> None:
        """Begin a stage; the one before it is over."""
        if description.partition(":")[0] != self._stage.partition(":")[0]:
            self._began = self._clock()
        self._stage, self._total, self._done, self._tensor = description, total, 0, ""

    def advance(self, amount: int = 1) -> None:
        """So much more is done, of the stage's total."""
        self._done += amount

    def tensor(self, name: str, total: int) -> None:
        """This tensor is reached, of so many in the stage; more, where a module is called more than once."""
        self._done += 1
        self._total, self._tensor = max(total, self._done), name

    def compared(self, name: str, max_abs_diff: float) -> None:
        """A tensor was compared; the worst so far stays in view."""
        difference = math.inf if math.isnan(max_abs_diff) else max_abs_diff
        if self._worst is None or difference > self._worst[0]:
            self._worst = difference, name

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Two or three lines, each cut to the width."""
        from rich.text import Text

        width = options.max_width
        spinner = self._spinner.render(console.get_time())
        for i, line in enumerate(self.lines(width - 2)):
            text = Text(line, no_wrap=True, overflow="crop", end="")
            mark = spinner if i == 0 and isinstance(spinner, Text) else Text(" ")
            yield Text.assemble(mark, " ", text, no_wrap=True, overflow="crop")

    def lines(self, width: int) -> list[str]:
        """The same as text, each line at most `width` long."""
        elapsed = _elapsed(self._clock() - self._began)
        parts = [elapsed]
        if self._total:
            share = min(self._done / self._total, 1.0)
            parts.insert(0, f"{share:4.0%}")
            if width >= _ROOM_FOR_BAR:
                full = round(share * _BAR)
                parts.insert(0, "━" * full + "·" * (_BAR - full))
        tail = "  ".join(parts)
        lines = [f"{shortened(self._stage, width - len(tail) - 2)}  {tail}"]
        if self._tensor:
            count = f"{self._done} of {self._total}: "
            lines.append(count + shortened(self._tensor, width - len(count)))
        if self._worst is not None:
            start = f"worst so far: {self._worst[0]:.3g} in "
            lines.append(start + shortened(self._worst[1], width - len(start)))
        return [line[: max(width, 0)] for line in lines]


def shortened(name: str, width: int) -> str:
    """A name that is too long loses its middle: its ends say most."""
    if len(name) <= width:
        return name
    if width < 5:
        return name[: max(width, 0)]
    head = (width - 1) // 2
    return f"{name[:head]}…{name[len(name) - (width - 1 - head) :]}"


def _elapsed(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
