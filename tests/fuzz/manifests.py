"""Fuzz targets of porting.json: what `--check` and `--to mesh` read of a directory that others made."""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from pathlib import Path

from porting.convert import check_directory, convert_checkpoint
from tests.fuzz.harness import DEMO, Choices, Target, guarded, sandbox


@cache
def _converted() -> Path:
    folder = sandbox() / "converted"
    convert_checkpoint(DEMO, folder, verify=False)
    return folder


@cache
def _manifest() -> bytes:
    return (_converted() / "porting.json").read_bytes()


def manifest_seeds() -> list[bytes]:
    """The manifest that was written, and others that go wrong in a place."""
    sound = json.loads(_manifest())
    small = {**sound, "plan": [], "files": sound["files"][1:]}
    outside = {**small, "files": [{"name": "../../outside", "size": 1, "sha256": "0" * 64}]}
    forgetful = {**small, "original": None}
    return [json.dumps(content).encode() for content in (small, outside, forgetful)]


def run_manifest(data: bytes) -> None:
    """Any bytes as porting.json."""
    folder = _converted()
    (folder / "porting.json").write_bytes(data)
    with guarded():
        check_directory(folder)
    with guarded():
        convert_checkpoint(folder, sandbox() / "back", to="mesh", dry_run=True)


# What a value may be instead.
_VALUES = (
    None,
    True,
    -1,
    0,
    1 << 70,
    1e400,
    "",
    "../..",
    "/etc/passwd",
    "x" * 5000,
    [],
    {},
    [[]],
    {"": None},
)


def run_manifest_values(data: bytes) -> None:
    """Choices: a sound manifest with one or two values of another kind."""
    choices = Choices(data)
    content = json.loads(_manifest())
    for _ in range(1 + choices.below(2)):
        holder = content
        while True:
            keys = list(holder) if isinstance(holder, dict) else range(len(holder))
            if not keys:
                break
            key = choices.of(keys)
            if isinstance(holder[key], dict | list) and choices.below(4):
                holder = holder[key]
                continue
            holder[key] = deepcopy(choices.of(_VALUES))
            break
    run_manifest(json.dumps(content).encode())


TARGETS = [
    Target("manifest", run_manifest, manifest_seeds),
    Target("manifest values", run_manifest_values, lambda: [bytes(range(40)), b"\x03\x01\x02", b"\0"]),
]
