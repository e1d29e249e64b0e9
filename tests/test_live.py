"""What a long run shows on a terminal, and that it leaves nothing behind and shows nothing elsewhere."""

from __future__ import annotations

import pytest

from porting.live import LiveView, shortened
from tests.conftest import RunPython
from tests.terminal import Screen, run_in_terminal

NAME = "encoder.block.11.layer.0.SelfAttention.relative_attention_bias.with.a.long.tail.scores"
RUN = f"""
import sys, time
from porting.output import Output
class Row:
    def __init__(self, name, max_abs_diff): self.name, self.max_abs_diff = name, max_abs_diff
output = Output({{style!r}})
with output.progress() as progress:
    progress.stage("running the original")
    time.sleep(1.3)
    progress.stage("comparing")
    for i in range(3):
        progress.tensor({NAME!r}, 3)
        progress.row(Row({NAME!r} if i == 1 else "logits", 0.5 if i == 1 else 0.1))
        time.sleep(0.3)
    print("a warning", file=sys.stderr)
    progress.stage("searching: 1 of 20 inputs tried, 0 failing")
    time.sleep(0.3)
    {{end}}
output.result({{{{"a": 1}}}}, ["the result"])
"""


def code(style: str = "human", end: str = "pass") -> list[str]:
    return ["-c", RUN.format(style=style, end=end)]


def seen(screen: Screen, *words: str) -> bool:
    """Whether a frame had all of them at once."""
    return any(all(word in frame for word in words) for frame in screen.frames)


@pytest.mark.parametrize("columns", [80, 40, 24])
def test_stage_tensor_worst_and_time_are_shown_and_nothing_is_left(columns: int) -> None:
    ran = run_in_terminal(code(), columns)
    assert (ran.returncode, ran.stdout) == (0, "the result\n")
    # What was written meanwhile stays, above; of the view itself nothing does.
    assert ran.screen.text == "a warning"
    assert ran.screen.widest <= columns
    assert ran.raw.count("\x1b[?25l") == ran.raw.count("\x1b[?25h") == 1  # the cursor comes back
    assert seen(ran.screen, "running", "0:01")
    assert seen(ran.screen, "comparing", "2 of 3: ", "worst so far: 0.5")
    assert seen(ran.screen, "searching" if columns > 24 else "sea")
    if columns == 80:
        assert seen(ran.screen, "running the original", "0:01")
        assert seen(ran.screen, "comparing", "━", "100%", "3 of 3: encoder.block.11", "long.tail.scores")
        assert seen(ran.screen, "worst so far: 0.5 in encoder.block.11", "searching: 1 of 20 inputs tried")


@pytest.mark.parametrize("style", ["json", "quiet"])
def test_other_formats_show_nothing_on_a_terminal(style: str) -> None:
    ran = run_in_terminal(code(style))
    assert ran.returncode == 0
    assert ran.raw.replace("\r\n", "\n") == "a warning\n"


def test_a_pipe_gets_nothing(run_python: RunPython, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as CI sets it: colours may be wanted, a view never is
    ran = run_python(*code())
    assert (ran.stdout, ran.stderr) == ("the result\n", "a warning\n")


def test_a_dumb_terminal_gets_no_control_sequences() -> None:
    ran = run_in_terminal(code(), env={"TERM": "dumb"})
    assert ran.returncode == 0
    assert "\x1b[2K" not in ran.raw
    assert "\x1b[1A" not in ran.raw


def test_an_error_in_the_middle_clears_the_view_too() -> None:
    ran = run_in_terminal(code(end="raise SystemExit(3)"))
    assert ran.returncode == 3
    assert ran.screen.text == "a warning"
    assert ran.raw.count("\x1b[?25l") == ran.raw.count("\x1b[?25h") == 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_say_how_far_and_how_long() -> None:
    clock = Clock()
    view = LiveView(clock)
    view.stage("running the original")
    clock.now = 75.0
    assert view.lines(78) == ["running the original  1:15"]
    view.stage("comparing")
    view.tensor("a.b", 4)
    assert view.lines(78) == ["comparing  ━━━━━···············   25%  0:00", "1 of 4: a.b"]
    assert view.lines(40)[0] == "comparing   25%  0:00"
    view.compared("a.b", 0.25)
    view.compared("c", 0.125)
    assert view.lines(78)[-1] == "worst so far: 0.25 in a.b"
    clock.now += 3700
    assert view.lines(40)[0].endswith("1:01:40")


def test_more_tensors_than_there_are_taps() -> None:
    view = LiveView()
    view.stage("comparing")
    for _ in range(3):
        view.tensor("a", 2)
    assert view.lines(40)[1] == "3 of 3: a"


def test_no_number_is_the_worst_there_is() -> None:
    view = LiveView()
    view.compared("a", 3.0)
    view.compared("b", float("nan"))
    view.compared("c", 5.0)
    assert view.lines(78)[-1] == "worst so far: inf in b"


def test_the_worst_stays_and_the_clock_goes_on_while_a_stage_only_says_more() -> None:
    clock = Clock()
    view = LiveView(clock)
    view.stage("searching: 1 of 20 inputs tried")
    view.compared("a", 1.0)
    clock.now = 30.0
    view.stage("searching: 2 of 20 inputs tried")
    assert view.lines(78) == ["searching: 2 of 20 inputs tried  0:30", "worst so far: 1 in a"]
    view.stage("shrinking: 3 runs")
    assert view.lines(78)[0].endswith("0:00")


@pytest.mark.parametrize("width", range(0, 90))
def test_every_line_fits_any_width(width: int) -> None:
    view = LiveView()
    view.stage("measuring the noise floor")
    view.tensor(NAME, 1234)
    view.compared(NAME, 1.234567e-5)
    lines = view.lines(width)
    assert all(len(line) <= width for line in lines)
    if width > 40:
        assert all(line.endswith(".scores") for line in lines[1:])


def test_names_keep_their_ends() -> None:
    assert shortened("encoder.block.0.scores", 22) == "encoder.block.0.scores"
    assert shortened("encoder.block.0.scores", 13) == "encode…scores"
    assert shortened("abcdef", 3) == "abc"
