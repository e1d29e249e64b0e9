"""`convert_checkpoint`: everything that a conversion does, in order."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from porting.checkpoint import Checkpoint, open_checkpoint
from porting.convert.dtypes import wanted_dtype
from porting.convert.layout import (
    FileLayout,
    TensorSpec,
    parse_size,
    safetensors_layout,
    weights_index,
)
from porting.convert.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    now,
    other_file_facts,
    plan_facts,
    source_facts,
    versions,
    weight_file_facts,
)
from porting.convert.stream import matches_layout, write_tensors
from porting.convert.unfinished import check_free, unfinished_directory
from porting.errors import CheckpointError, Problem
from porting.mapping import Plan
from porting.model_dir import CONFIG, MODEL_FILES, WEIGHTS_INDEX
from porting.port import Port, ResolvedConfig
from porting.source import plan_conversion, resolve_config

FRESH, CONTINUED, RESTARTED = "fresh", "continued", "restarted"
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
        bytes_read: bytes of tensors read, or to be read.
        bytes_ignored: bytes of the tensors that each reason leaves out.
        begun: "fresh"; after a kill "continued" (what was there and right was kept) or "restarted" (what was
            there belonged to another conversion).
        kept: how many tensors were in their place already.
        verified: whether every tensor was read back and compared with its source.
        seconds: what it took, without the start of the program.
    """

    status: str
    port: str
    resolved: ResolvedConfig
    config: Mapping[str, Any]
    plan: Plan
    output: Path
    nbytes: int
    bytes_read: int
    bytes_ignored: Mapping[str, int]
    begun: str = FRESH
    kept: int = 0
    verified: bool = False
    seconds: float = 0.0

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
            "bytes_read": self.bytes_read,
            "bytes_ignored": dict(self.bytes_ignored),
            "begun": self.begun,
            "kept": self.kept,
            "verified": self.verified,
            "seconds": self.seconds,
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
    verify: bool = True,
    on_start: Callable[[int], None] = lambda _nbytes: None,
    on_tensor: Progress = lambda _name, _nbytes: None,
) -> Conversion:
    """Convert a checkpoint into a model directory that PyTorch and transformers load.

    The directory appears whole or not at all: until then it is called OUTPUT_DIR.unfinished. If a run was
    killed, the next one keeps what is there and right. `porting.json` says what it was made from, and how.

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
        force: replace a model that is in `output_dir` already; other files there are kept.
        verify: read every tensor back and compare it with its source through the inverse of each op.
        on_start: called with the number of bytes to write.
        on_tensor: called with each parameter's name and bytes once it is written.

    Raises:
        CheckpointError: the source cannot be read, is damaged, or changed meanwhile.
        ConfigError: the configuration cannot be read, or describes what the port cannot express.
        MappingError: variables, parameters and shapes do not fit; lists everything.
        OutputError: the output cannot be written, is not empty, or was read back otherwise.
        InputError: an option is not one of its values.
    """
    begin = time.monotonic()
    output = Path(output_dir)
    wanted, shard_size = wanted_dtype(dtype), parse_size(max_shard_size)
    checkpoint = open_checkpoint(source)
    port, resolved = resolve_config(checkpoint, config)
    plan = plan_conversion(port, resolved.config, checkpoint)
    specs = [
        TensorSpec(entry.target, entry.target_shape, wanted or checkpoint.tensors[entry.sources[0]].dtype)
        for entry in plan.entries
    ]
    layout = safetensors_layout(specs, shard_size)
    config_json = {**port.config_to_json(resolved.config), "dtype": _common_dtype(specs)}
    read = {name for entry in plan.entries for name in entry.sources} | {*plan.copies}

    def conversion(status: str, **facts: Any) -> Conversion:
        return Conversion(
            status=status,
            port=port.name,
            resolved=resolved,
            config=config_json,
            plan=plan,
            output=output,
            nbytes=sum(spec.nbytes for spec in specs),
            bytes_read=sum(checkpoint.tensors[name].nbytes for name in read),
            bytes_ignored={
                reason: sum(checkpoint.tensors[name].nbytes for name in names)
                for reason, names in plan.ignored.items()
            },
            **facts,
        )

    check_free(output, force=force, nbytes=0 if dry_run else sum(file.nbytes for file in layout))
    if dry_run:
        return conversion("planned")
    checkpoint.require_files(read)
    stamps = _stamps(checkpoint)
    on_start(sum(spec.nbytes for spec in specs))
    about = f"{checkpoint.path} into {output}, begun {now()}."
    replaced = (*MODEL_FILES, MANIFEST)
    with unfinished_directory(output, replaced=replaced, about=about) as unfinished:
        begun = FRESH
        if unfinished.found:
            fits = any(matches_layout(unfinished.path / file.name, file) for file in layout)
            begun = CONTINUED if fits else RESTARTED
            unfinished.keep_only([file.name for file in layout] if fits else [])
        written = write_tensors(
            checkpoint,
            plan.entries,
            layout,
            unfinished.path,
            verify=verify,
            go_on=begun == CONTINUED,
            on_tensor=on_tensor,
        )
        files = _model_files(port, resolved, config_json, layout)
        for name, content in files.items():
            (unfinished.path / name).write_bytes(content)
        _require_unchanged(checkpoint, stamps)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "port": port.name,
            "source": source_facts(checkpoint, plan),
            "config_origin": resolved.origin,
            "inferred": list(resolved.inferred),
            "assumed": list(resolved.assumed),
            "original_config": resolved.original_text,
            "dtype": dtype,
            "verified": verify,
            "files": weight_file_facts(layout, written) + other_file_facts(unfinished.path, list(files)),
            "ignored": {reason: list(names) for reason, names in plan.ignored.items()},
            "versions": versions(),
            "command": shlex.join(sys.argv),
            "time": now(),
            "plan": plan_facts(plan, checkpoint),
        }
        (unfinished.path / MANIFEST).write_bytes(_json(manifest))
    return conversion(
        "converted",
        begun=begun,
        kept=sum(tensor.kept for tensor in written.values()),
        verified=verify,
        seconds=time.monotonic() - begin,
    )


def _model_files(
    port: Port, resolved: ResolvedConfig, config_json: Mapping[str, Any], layout: Sequence[FileLayout]
) -> dict[str, bytes]:
    """What lies beside the weights, by name."""
    files = {CONFIG: _json(config_json)}
    if len(layout) > 1:
        files[WEIGHTS_INDEX] = _json(weights_index(layout))
    files |= {name: _json(content) for name, content in port.extra_files(resolved.config).items()}
    return files


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode("utf-8")


def _common_dtype(specs: Sequence[TensorSpec]) -> str:
    """What transformers should load the model as: the one stored dtype, float32 where they are mixed."""
    names = {spec.dtype.name for spec in specs}
    return names.pop() if len(names) == 1 else "float32"


def _stamps(checkpoint: Checkpoint) -> dict[Path, tuple[int, int, int]]:
    """By which a change of the source's files is noticed."""
    stamps = {}
    for path in checkpoint.files:
        if path.is_file():
            stat = path.stat()
            stamps[path] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return stamps


def _require_unchanged(checkpoint: Checkpoint, before: Mapping[Path, tuple[int, int, int]]) -> None:
    after = _stamps(checkpoint)
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    if changed:
        raise CheckpointError(
            f"{checkpoint.path} changed while it was converted; nothing was converted.",
            problems=[Problem(str(path), "the same file as before", "another") for path in sorted(changed)],
            remedy="Wait until nobody writes it any more (a training run keeps saving), and convert again.",
        )
