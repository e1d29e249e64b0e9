"""Kills conversions, one after the other, before and after each thing that they do to the disk.

Runs as a process of its own, which forks a child for every conversion: `python -m tests.convert.killing
SOURCE FOLDER OLD TO STRIDE`. With OLD "1" there is a model in the output directory already, which --force
replaces; TO is the format; of the points, every STRIDEth is tried.

Prints a JSON list with a line for each point: what was done there, what was found afterwards, and what the
next run said.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import porting.convert.unfinished as unfinished
from porting.convert import check_directory, convert_checkpoint
from porting.errors import PortingError

# By these everything is done to the disk; pathlib and shutil go through them too.
CALLS = ("mkdir", "open", "truncate", "pwrite", "fsync", "link", "rename", "unlink", "rmdir", "chmod")


class Killer:
    """Counts what is done below a folder, and kills this process at a number."""

    def __init__(self, folder: Path, at: int, record: Path) -> None:
        self.folder, self.at, self.record = str(folder), at, record
        self.count = 0
        for name in CALLS:
            setattr(os, name, self.wrapped(name, getattr(os, name)))
        unfinished._exchange = self.wrapped("exchange", unfinished._exchange)  # type: ignore[assignment]
        sys.addaudithook(self.opened)

    def point(self, what: str) -> None:
        """One more thing is about to be done, or was."""
        self.count += 1
        if self.count == self.at:
            self.record.write_text(what)
            os.kill(os.getpid(), signal.SIGKILL)

    def wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if args and isinstance(args[0], (str, Path)) and not str(args[0]).startswith(self.folder):
                return function(*args, **options)
            if name == "pwrite" and self.count + 1 == self.at:  # half of it arrives
                descriptor, data, offset = args
                function(descriptor, memoryview(data)[: len(data) // 2], offset)
            self.point(f"before {name}")
            result = function(*args, **options)
            self.point(f"after {name}")
            return result

        return call

    def opened(self, event: str, args: tuple[Any, ...]) -> None:
        """Files that Python writes come by here."""
        if event == "open" and isinstance(args[0], (str, Path)) and str(args[0]).startswith(self.folder):
            mode = args[1]
            if isinstance(mode, str) and mode.strip("rbt"):
                self.point(f"opening {Path(args[0]).name}")


def in_child(work: Callable[[], None]) -> bool:
    """Whether the work came to its end."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("the conversion failed by itself")
    return not os.WIFSIGNALED(status)


def found(output: Path) -> str:
    """What there is: `nothing`, `old`, `new`, or what is wrong."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return "nothing"
    if (output / "OLD").exists() and not (output / "porting.json").exists():
        return "old" if (output / "model.safetensors").read_text() == "old" else "half of the old"
    try:
        checked = check_directory(output)
    except PortingError as error:
        return str(error)
    return f"marked {checked.others}" if unfinished.MARKER in checked.others else "new"


def main(source: Path, folder: Path, old: bool, to: str, stride: int) -> list[dict[str, Any]]:
    """Everything, for one source."""
    lines = []
    at = 1 - stride
    options = {"to": to, "max_shard_size": "40KB"}
    while True:
        at += stride
        place, record = folder / f"at{at}", folder / f"at{at}.txt"
        output = place / "deep" / "model"
        if old:
            output.mkdir(parents=True)
            for name in ("model.safetensors", "OLD"):
                (output / name).write_text("old")

        def convert() -> None:
            Killer(place, at, record)  # noqa: B023 - the child is this round's
            convert_checkpoint(source, output, force=old, **options)  # noqa: B023

        if in_child(convert):
            shutil.rmtree(place)
            return lines
        left = sorted(path.name for path in output.parent.iterdir()) if output.parent.exists() else []
        strangers = [name for name in left if name not in ("model", "model.unfinished")]
        before = found(output)
        whole = before == "new"
        again = convert_checkpoint(source, output, force=old or whole, **options)
        after = sorted(path.name for path in output.parent.iterdir())
        lines.append(
            {
                "what": record.read_text(),
                "found": before,
                "strangers": strangers,
                "unfinished": "model.unfinished" in left,
                "begun": again.begun,
                "kept": again.kept,
                "after": found(output),
                "left": after,
                "tensors": len(again.plan.entries),
            }
        )
        shutil.rmtree(place)


if __name__ == "__main__":
    given = sys.argv[1:]
    json.dump(main(Path(given[0]), Path(given[1]), given[2] == "1", given[3], int(given[4])), sys.stdout)
