"""A checkpoint -> a plan -> a model directory: every shape asserted, nothing skipped, tensors streamed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from porting.checkpoint import Checkpoint, open_checkpoint
from porting.errors import InputError, Problem
from porting.mapping import Plan, PlanEntry
from porting.model_dir import (
    CONFIG,
    TensorSpec,
    check_free,
    new_directory,
    shard_specs,
    write_index,
    write_json,
    write_shard,
)
from porting.port import ResolvedConfig
from porting.source import plan_conversion, resolve_config

SCHEMA_VERSION = 1
DTYPES = {
    "keep": None,
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

Progress = Callable[[str, int], None]


@dataclass(frozen=True)
class Conversion:
    """What a conversion did, or would do.

    Attributes:
        status: "converted", or "planned" for a dry run.
        port: name of the port.
        resolved: the configuration and what it rests on.
        config: the contents of config.json.
        plan: every parameter and its source.
        output: the model directory.
        nbytes: bytes of tensors written, or to be written.
    """

    status: str
    port: str
    resolved: ResolvedConfig
    config: Mapping[str, Any]
    plan: Plan
    output: Path
    nbytes: int

    def to_json(self) -> dict[str, Any]:
        """As `convert-checkpoint --format json` prints it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "status": self.status,
            "port": self.port,
            "config": dict(self.config),
            "config_origin": self.resolved.origin,
            "inferred": list(self.resolved.inferred),
            "assumed": list(self.resolved.assumed),
            "plan": [entry.to_json() for entry in self.plan.entries],
            "ignored": self.plan.ignored_counts(),
            "output": str(self.output),
            "bytes": self.nbytes,
        }


def convert_checkpoint(
    source: str | Path,
    output_dir: str | Path,
    *,
    config: str | Path | None = None,
    dtype: str = "keep",
    max_shard_size: str | int = "5GB",
    dry_run: bool = False,
    force: bool = False,
    on_start: Callable[[int], None] = lambda _nbytes: None,
    on_tensor: Progress = lambda _name, _nbytes: None,
) -> Conversion:
    """Convert a checkpoint into a model directory that PyTorch and transformers load.

    Example:
        convert_checkpoint("model.ckpt-1000", "t5-small", dtype="float32")

    Args:
        source: a checkpoint prefix, or the directory that holds it.
        output_dir: must not exist, or be empty, unless `force`.
        config: an operative_config.gin or config.json; by default the one beside the checkpoint, else
            inferred from the variables.
        dtype: keep, float32, bfloat16 or float16 (to nearest even).
        max_shard_size: bytes, or such as "5GB".
        dry_run: plan only; reads no tensor and writes nothing.
        force: replace a model that is in `output_dir` already.
        on_start: called with the number of bytes to write.
        on_tensor: called with each parameter's name and bytes once it is written.

    Raises:
        CheckpointError: the source cannot be read, or is damaged.
        ConfigError: the configuration cannot be read, or describes what the port cannot express.
        MappingError: variables, parameters and shapes do not fit; lists everything.
        OutputError: the output cannot be written, or is not empty.
        InputError: an option is not one of its values.
    """
    output = Path(output_dir)
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}.")
    shard_size = parse_size(max_shard_size)
    checkpoint = open_checkpoint(source)
    port, resolved = resolve_config(checkpoint, config)
    plan = plan_conversion(port, resolved.config, checkpoint)
    specs = [_spec(entry, checkpoint, DTYPES[dtype]) for entry in plan.entries]
    nbytes = sum(spec.nbytes for spec in specs)
    config_json = {**port.config_to_json(resolved.config), "dtype": _common_dtype(specs)}

    def conversion(status: str) -> Conversion:
        return Conversion(status, port.name, resolved, config_json, plan, output, nbytes)

    check_free(output, force=force)
    if dry_run:
        return conversion("planned")
    checkpoint.require_files(name for entry in plan.entries for name in entry.sources)
    on_start(nbytes)
    entries = {entry.target: entry for entry in plan.entries}
    shards = shard_specs(specs, shard_size)
    with new_directory(output, force=force) as directory:
        reader = _Reader(checkpoint, plan.entries)
        for file, shard in shards.items():
            write_shard(directory / file, shard, _arrays(reader, entries, shard, on_tensor))
        write_index(directory, shards)
        write_json(directory / CONFIG, config_json)
        for name, content in port.extra_files(resolved.config).items():
            write_json(directory / name, content)
    return conversion("converted")


def parse_size(size: str | int) -> int:
    """Bytes of "5GB", "300MB", "2GiB" or a number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?i?B?)\s*", str(size), re.IGNORECASE)
    if not match or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise InputError(f"A size must be such as 5GB, 300MB or 2GiB, not {size!r}.")
    return max(1, int(float(match[1]) * _UNITS[match[2].upper()]))


def _spec(entry: PlanEntry, checkpoint: Checkpoint, dtype: np.dtype | None) -> TensorSpec:
    stored = checkpoint.tensors[entry.sources[0]].dtype
    return TensorSpec(entry.target, entry.target_shape, dtype or stored)


def _common_dtype(specs: Sequence[TensorSpec]) -> str:
    """What transformers should load the model as: the one stored dtype, float32 where they are mixed."""
    names = {spec.dtype.name for spec in specs}
    return names.pop() if len(names) == 1 else "float32"


class _Reader:
    """Reads each variable once: one that several parameters are parts of is held until the last of them."""

    def __init__(self, checkpoint: Checkpoint, entries: Sequence[PlanEntry]) -> None:
        self._checkpoint = checkpoint
        self._uses = Counter(name for entry in entries for name in entry.sources)
        self._held: dict[str, np.ndarray] = {}

    def read(self, name: str) -> np.ndarray:
        """Verified values: most often a view of the mapped file, which holds no memory of its own."""
        array = self._held.pop(name) if name in self._held else self._checkpoint.tensors[name].read()
        self._uses[name] -= 1
        if self._uses[name]:
            self._held[name] = array
        return array


def _arrays(
    reader: _Reader, entries: Mapping[str, PlanEntry], specs: Sequence[TensorSpec], on_tensor: Progress
) -> Iterator[np.ndarray]:
    for spec in specs:
        yield _cast(spec, entries[spec.name].make(reader.read))
        on_tensor(spec.name, spec.nbytes)


def _cast(spec: TensorSpec, array: np.ndarray) -> np.ndarray:
    """The array in the spec's dtype, rounded to nearest even; a value too large for it is an error."""
    if array.dtype == spec.dtype:
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(spec.dtype)
    lost = int((np.isfinite(array) & ~np.isfinite(cast)).sum())
    if lost:
        raise InputError(
            f"Some weights are too large for {spec.dtype.name}.",
            problems=[Problem(spec.name, f"values that {spec.dtype.name} holds", f"{lost} larger ones")],
            remedy="Use --dtype bfloat16, which has the range of float32.",
        )
    return cast
