from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from porting.errors import OutputError
from porting.testing.cache import ContentCache

KEY = {"checkpoint": "4f1c"}


def writes(text: str, made: list[str]) -> object:
    def make(path: Path) -> None:
        made.append(text)
        (path / "file").write_text(text)

    return make


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    made: list[str] = []
    first = ContentCache(tmp_path).entry("traces", KEY, writes("a", made))
    again = ContentCache(tmp_path).entry("traces", KEY, writes("b", made))
    assert first == again and made == ["a"]
    assert (again / "file").read_text() == "a"


def test_other_content_is_another_entry(tmp_path: Path) -> None:
    made: list[str] = []
    cache = ContentCache(tmp_path)
    paths = {
        cache.entry("traces", KEY, writes("a", made)),
        cache.entry("traces", {**KEY, "seed": 1}, writes("b", made)),
        cache.entry("checkpoints", KEY, writes("c", made)),
    }
    assert len(paths) == 3 and made == ["a", "b", "c"]


def test_an_entry_that_cannot_be_used_now_is_made_beside_and_kept(tmp_path: Path) -> None:
    made: list[str] = []
    cache = ContentCache(tmp_path)
    old = cache.entry("traces", KEY, writes("a", made))
    new = cache.entry("traces", KEY, writes("b", made), valid=lambda path: (path / "file").read_text() == "b")
    assert made == ["a", "b"] and old != new
    assert (old / "file").read_text() == "a", "whoever has it open reads on"
    assert cache.entry("traces", KEY, writes("c", made), valid=lambda path: path == old) == old


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        (path / "half").write_text("half")
        raise ValueError("the original failed")

    with pytest.raises(ValueError, match="the original failed"):
        ContentCache(tmp_path).entry("traces", KEY, fail)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["lock"]
    made: list[str] = []
    assert (ContentCache(tmp_path).entry("traces", KEY, writes("a", made)) / "file").exists()


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--porting-cache"):
        ContentCache(tmp_path / "file").entry("traces", KEY, lambda _path: None)


MAKES_SLOWLY = """
import sys, time
from pathlib import Path
from porting.testing.cache import ContentCache
def make(path):
    with open(sys.argv[2], "a") as log: log.write("made\\n")
    time.sleep(0.5)
    (path / "file").write_text("whole")
path = ContentCache(Path(sys.argv[1])).entry("traces", {"a": 1}, make)
assert (path / "file").read_text() == "whole"
"""


def test_of_several_processes_one_makes_it_and_all_use_it(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", MAKES_SLOWLY, str(tmp_path / "cache"), str(tmp_path / "log")]
    processes = [subprocess.Popen(arguments) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "made\n"
