"""A terminal to run commands in, and what it shows: enough of one for what rich writes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.conftest import REPOSITORY

_TOKEN = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


@dataclass
class Screen:
    """Lines of text with a cursor; `widest` is the longest line that was ever on it."""

    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0
    widest: int = 0
    frames: list[str] = field(default_factory=list)

    def write(self, text: str) -> None:
        for match in _TOKEN.finditer(text):
            argument, command, back, newline, plain = match.groups()
            if back:
                self.column = 0
            elif newline:
                self.row += 1
                while self.row >= len(self.lines):
                    self.lines.append("")
            elif plain:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + plain + line[self.column + len(plain) :]
                self.column += len(plain)
                self.widest = max(self.widest, len(self.lines[self.row]))
                self.frames.append(self.text)
            elif command == "A":
                self.row = max(0, self.row - int(argument or 1))
            elif command == "K" and argument == "2":
                self.lines[self.row] = ""
            elif command in "mhl":  # colours, and the cursor hidden and shown
                pass
            else:
                raise AssertionError(f"a sequence that this terminal does not know: {match[0]!r}")

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip("\n")


@dataclass(frozen=True)
class Ran:
    """How a command ended, what it wrote to stdout, and the terminal that its stderr was."""

    returncode: int
    stdout: str
    raw: str
    screen: Screen


def run_in_terminal(arguments: list[str], columns: int = 80, env: Mapping[str, str] | None = None) -> Ran:
    """Run Python with stderr on a terminal so wide, and stdout on a pipe."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    unset = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=follower,
        env={**environment, "PYTHONPATH": str(REPOSITORY), "TERM": "xterm-256color", **(env or {})},
    )
    os.close(follower)
    heard = b""
    while True:
        try:
            piece = os.read(leader, 1 << 16)
        except OSError:  # the other end is closed: Linux says so with an error
            break
        if not piece:
            break
        heard += piece
    assert process.stdout is not None
    stdout = process.stdout.read().decode()
    os.close(leader)
    # The terminal driver makes \r\n of every \n.
    raw = heard.decode()
    screen = Screen()
    screen.write(raw)
    return Ran(process.wait(), stdout, raw, screen)
