"""What can go wrong, said so that the user knows which key, what was expected, what was found, what to do.

Problems are collected and raised together: a user with twenty bad variables sees twenty lines, once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Lines that a person may still read; `problems` has all.
_MOST_SHOWN = 500
# Of names that a hostile file gives: what would steer a terminal, or cannot be encoded.
_NOT_SHOWN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

# Exit codes of the commands, as documented in the README.
EXIT_OK = 0
EXIT_DIVERGED = 1
EXIT_UNUSABLE = 2
EXIT_UNTRUSTED = 3


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one key (a variable, a parameter, a file, an option)."""

    key: str
    expected: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.key}: expected {self.expected}, found {self.found}"
        return f"{line}; {self.remedy}" if self.remedy else line


class PortingError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        message: one sentence that says what is wrong.
        problems: every single thing found wrong, listed under the sentence.
        remedy: what the user can do about it.
    """

    exit_code = EXIT_UNUSABLE

    def __init__(self, message: str, *, problems: Sequence[Problem] = (), remedy: str = "") -> None:
        self.message = message
        self.problems = tuple(problems)
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.message, *(f"  - {problem}" for problem in self.problems[:_MOST_SHOWN])]
        if len(self.problems) > _MOST_SHOWN:
            lines.append(f"  ... and {len(self.problems) - _MOST_SHOWN} more")
        if self.remedy:
            lines.append(self.remedy)
        text = "\n".join(lines)
        return _NOT_SHOWN.sub(lambda found: ascii(found[0])[1:-1], text)


class CheckpointError(PortingError):
    """A checkpoint that cannot be found or read: missing shard, bad checksum, unknown format."""


class ConfigError(PortingError):
    """A model configuration that cannot be read, inferred, or that does not fit the checkpoint."""


class MappingError(PortingError):
    """A variable without a home, a parameter without a source, or a shape that does not fit."""


class OutputError(PortingError):
    """An output location that cannot be written, or that holds something already."""


class InputError(PortingError):
    """Input IDs, a trace or a model directory that cannot be used."""


class ReferenceRunError(PortingError):
    """The original implementation could not be run."""
