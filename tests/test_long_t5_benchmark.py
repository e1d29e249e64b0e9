from __future__ import annotations

import pytest

from benchmarks.long_t5 import CONTENDERS, _foreseen, measure, table


def test_contenders_are_measured() -> None:
    for name in ("transient-global", "local, transformers"):
        assert name in CONTENDERS
        found = measure(name, 32, "base", 1)
        assert found["seconds"] > 0 and found["bytes"] >= 0


def test_what_grows_with_the_square_is_stopped_before_it_needs_too_much() -> None:
    assert _foreseen([]) == 0
    assert _foreseen([1e9]) == 1e9
    assert _foreseen([1e9, 4e9]) == pytest.approx(16e9)
    assert _foreseen([1e9, float("inf")]) == float("inf")


def test_the_table_says_what_was_stopped_and_how_the_others_grew() -> None:
    figures = {
        "local": {1024: {"bytes": 50e6, "seconds": 1.0}, 2048: {"bytes": 100e6, "seconds": 2.5}},
        "full attention": {1024: {"bytes": 250e6, "seconds": 2.0}},
    }
    lines = table(figures, [1024, 2048]).splitlines()
    assert lines[0] == "| | 1,024 | 2,048 | 2,048 / 1,024 |"
    assert lines[2] == "| local, MB | 50 | 100 | 2.0x |"
    assert lines[3] == "| full attention, MB | 250 | stopped |  |"
    assert lines[4] == "| local, s | 1.00 | 2.50 | 2.5x |"
