"""A small checkpoint of the original, written by its own code. Runs in a process of its own."""

from __future__ import annotations

from pathlib import Path

from porting.scaffold import UnfinishedError


def make(directory: Path) -> None:
    """Write a checkpoint, and the config file that belongs to it, into an empty directory.

    Make it awkward: no two sizes alike (heads x head size != width, layers != heads), every variable random,
    norm scales and biases included. What is square, zero or one hides what is wrong.
    """
    raise UnfinishedError(
        "Build a small model with the original's own code, make every variable random, and save it as the"
        " original saves it, with its config beside it; or name a checkpoint in port.toml."
    )
