"""`porting.json`: what a converted directory was made from, how, and what its files must be."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import google_crc32c

from porting import __version__
from porting.checkpoint import Checkpoint
from porting.checkpoint.files import read_file
from porting.config_file import parse_json
from porting.convert.checksums import file_sha256, joined_crc32c
from porting.convert.layout import FileLayout
from porting.convert.stream import Written
from porting.errors import CheckpointError, InputError
from porting.mapping import Plan, PlanEntry
from porting.tokenizer_files import TokenizerFiles

MANIFEST = "porting.json"
SCHEMA_VERSION = 1
_MAX_BYTES = 256 << 20
_PACKAGES = ("numpy", "ml_dtypes", "google-crc32c", "safetensors", "tokenizers", "sentencepiece")


def source_facts(checkpoint: Checkpoint, plan: Plan) -> dict[str, Any]:
    """The source: its files with sizes and hashes.

    The files that identify the values (of a TensorFlow bundle its index, which holds the checksum of every
    tensor) are hashed with SHA-256. Of the others every tensor that was read was held against its checksum,
    which the plan's entries repeat.
    """
    identifying = {*checkpoint.identifying_files()}
    hashed = {path: file_sha256(path) for path in identifying if path.is_file()}
    read = {name for entry in plan.entries for name in entry.sources} | {*plan.copies}
    counts = dict.fromkeys(checkpoint.files, 0)
    for name in read:
        for path in checkpoint.tensors[name].files:
            counts[path] = counts.get(path, 0) + 1
    files = []
    for path in checkpoint.files:
        facts: dict[str, Any] = {"name": checkpoint.file_name(path)}
        if path.is_file():
            facts["size"] = path.stat().st_size
        if path in hashed:
            facts["sha256"] = hashed[path]
        if path not in identifying:
            facts["crc32c"] = _read_crc32c(checkpoint, path, read)
        facts["tensors_read"] = counts.get(path, 0)
        files.append(facts)
    return {"path": str(checkpoint.path), "format": checkpoint.format, "files": files}


def _read_crc32c(checkpoint: Checkpoint, path: Path, read: set[str]) -> str | None:
    """CRC32C of the bytes that were read of a data file, in their order; None where the format keeps none."""
    stored = sorted(
        (tensor.stored.offset, tensor.stored.nbytes, tensor.stored.crc32c)
        for name in read
        if (tensor := checkpoint.tensors[name]).stored is not None and tensor.files == (path,)
        if tensor.stored.crc32c is not None
    )
    return f"{joined_crc32c((crc, nbytes) for _, nbytes, crc in stored):08x}" if stored else None


def plan_facts(plan: Plan, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Every tensor that was written: where it came from, and the checksums that its sources had."""
    return [_entry_facts(entry, checkpoint) for entry in plan.entries]


def _entry_facts(entry: PlanEntry, checkpoint: Checkpoint) -> dict[str, Any]:
    sources = [checkpoint.tensors[name] for name in entry.sources]
    crcs = [
        None if t.stored is None or t.stored.crc32c is None else f"{t.stored.crc32c:08x}" for t in sources
    ]
    return {
        **entry.to_json(),
        "source_dtypes": [tensor.dtype.name for tensor in sources],
        "source_crc32c": crcs,
    }


def weight_file_facts(layout: Sequence[FileLayout], written: Mapping[str, Written]) -> list[dict[str, Any]]:
    """The weights' files: sizes and checksums, and where each tensor lies in them."""
    files = []
    for file in layout:
        parts = [(google_crc32c.value(file.head), len(file.head))]
        parts += [(written[spec.name].crc32c, spec.nbytes) for spec in file.specs]
        tensors = {
            spec.name: {
                "dtype": spec.dtype.name,
                "offset": offset,
                "nbytes": spec.nbytes,
                "crc32c": f"{written[spec.name].crc32c:08x}",
            }
            for spec, offset in zip(file.specs, file.offsets(), strict=True)
        }
        crc = f"{joined_crc32c(parts):08x}"
        files.append({"name": file.name, "size": file.nbytes, "crc32c": crc, "tensors": tensors})
    return files


def other_file_facts(directory: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """Any other files, which are small."""
    return [
        {"name": name, "size": (directory / name).stat().st_size, "sha256": file_sha256(directory / name)}
        for name in names
    ]


def tokenizer_facts(tokenizer: TokenizerFiles) -> dict[str, Any]:
    """The tokenizer that came along: its files, what was assumed, and how many texts both read alike."""
    return {
        "files": sorted(tokenizer.files),
        "notes": list(tokenizer.notes),
        "texts_compared": tokenizer.texts,
    }


def versions() -> dict[str, str]:
    """What took part."""
    found = {"porting": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time, in UTC, as ISO 8601 has it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a converted directory.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise InputError(
            f"{directory} holds no {MANIFEST}: it was not made by convert-checkpoint, or by an older one.",
            remedy="Make it with: convert-checkpoint SOURCE OUTPUT_DIR",
        )
    try:
        content = parse_json(read_file(path, _MAX_BYTES))
    except (CheckpointError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{path} is not a manifest of version {SCHEMA_VERSION}.")
    return content


def whole_number(value: Any) -> int:
    """A number from 0 that a manifest holds. Raises ValueError if it is anything else: 1e400, true, "1"."""
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r:.40} is no number from 0")
    return value
