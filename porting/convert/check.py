"""`convert-checkpoint --check DIR`: whether a converted directory is still what its manifest says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porting.checkpoint.joined_files import is_plain_name
from porting.convert.checksums import file_crc32c, file_sha256
from porting.convert.manifest import MANIFEST, SCHEMA_VERSION, read_manifest, whole_number
from porting.errors import CheckpointError, InputError, Problem


@dataclass(frozen=True)
class Checked:
    """A directory that is as it was made.

    Attributes:
        directory: which.
        files: the files that were checked.
        nbytes: their size.
        others: files that the manifest does not know, such as a tokenizer that was added.
        manifest: what `porting.json` says.
    """

    directory: Path
    files: tuple[str, ...]
    nbytes: int
    others: tuple[str, ...]
    manifest: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As `convert-checkpoint --check --format json` prints it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "status": "intact",
            "directory": str(self.directory),
            "files": list(self.files),
            "bytes": self.nbytes,
            "others": list(self.others),
            "verified": self.manifest.get("verified"),
            "time": self.manifest.get("time"),
        }


def check_directory(
    directory: str | Path,
    *,
    on_start: Callable[[int], None] = lambda _nbytes: None,
    on_file: Callable[[str, int], None] = lambda _name, _nbytes: None,
) -> Checked:
    """Hold every file of a converted directory against its manifest: size and checksum.

    Args:
        directory: that `convert_checkpoint` made.
        on_start: called with the number of bytes to read.
        on_file: called with each file's name and bytes once it is checked.

    Raises:
        InputError: there is no manifest, or a file is missing or was changed: lists all of them, and of a
            damaged weights file the tensors.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    try:
        listed = [_Listed.of(facts) for facts in manifest["files"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{directory / MANIFEST} is damaged: {error!r}") from error
    on_start(sum(file.size for file in listed))
    problems: list[Problem] = []
    for file in listed:
        problems += _problems(directory, file)
        on_file(file.name, file.size)
    if problems:
        raise InputError(
            f"{directory} is not what {MANIFEST} says it was made.",
            problems=problems,
            remedy="Convert the checkpoint again, or copy the files again from where they came from.",
        )
    known = {MANIFEST, *(file.name for file in listed)}
    return Checked(
        directory=directory,
        files=tuple(file.name for file in listed),
        nbytes=sum(file.size for file in listed),
        others=tuple(sorted(_others(directory, "", known))),
        manifest=manifest,
    )


def _others(directory: Path, within: str, known: Set[str]) -> Iterator[str]:
    """Names of what is not known, and neither holds anything that is."""
    for path in (directory / within).iterdir():
        name = within + path.name
        if any(one.startswith(f"{name}/") for one in known):
            yield from _others(directory, f"{name}/", known)
        elif name not in known:
            yield name


@dataclass(frozen=True)
class _Listed:
    """A file as the manifest has it."""

    name: str
    size: int
    sha256: str | None
    crc32c: str | None
    tensors: Mapping[str, tuple[int, int, str]]  # offset, bytes, CRC32C

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> _Listed:
        name = facts["name"]
        if not isinstance(name, str) or not all(map(is_plain_name, name.split("/"))):
            raise ValueError(f"it names a file outside the directory: {name!r}")
        tensors = {
            str(tensor): (whole_number(place["offset"]), whole_number(place["nbytes"]), str(place["crc32c"]))
            for tensor, place in facts.get("tensors", {}).items()
        }
        hashes = facts.get("sha256"), facts.get("crc32c")
        if not any(isinstance(h, str) and re.fullmatch("[0-9a-f]{8,64}", h) for h in hashes):
            raise ValueError(f"{name} has no checksum")
        return cls(name, whole_number(facts["size"]), *hashes, tensors)


def _problems(directory: Path, file: _Listed) -> list[Problem]:
    path = directory / file.name
    try:
        if not path.is_file():
            return [Problem(file.name, f"a file of {file.size} bytes", "no such file")]
        size = path.stat().st_size
        if size != file.size:
            return [Problem(file.name, f"{file.size} bytes", f"{size}")]
        if file.sha256 is not None:
            found = file_sha256(path)
            return [] if found == file.sha256 else [Problem(file.name, f"SHA-256 {file.sha256}", found)]
        found = f"{file_crc32c(path):08x}"
        if found == file.crc32c:
            return []
        damaged = [
            Problem(f"{tensor} in {file.name}", f"CRC32C {crc}", found)
            for tensor, (offset, nbytes, crc) in file.tensors.items()
            if (found := f"{file_crc32c(path, offset, nbytes):08x}") != crc
        ]
        return damaged or [Problem(file.name, f"CRC32C {file.crc32c}", f"{found}, outside of all tensors")]
    except (OSError, CheckpointError) as error:
        return [Problem(file.name, "a file that can be read", str(error))]
