"""`convert_checkpoint`: everything that a conversion does, in order."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from porting.checkpoint import Checkpoint, open_checkpoint
from porting.convert.dtypes import wanted_dtype
from porting.convert.layout import FileLayout, parse_size
from porting.convert.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    now,
    other_file_facts,
    plan_facts,
    source_facts,
    tokenizer_facts,
    versions,
    weight_file_facts,
)
from porting.convert.stream import check_copies, matches_layout, write_tensors
from porting.convert.target import Target, json_bytes
from porting.convert.to_original import to_original
from porting.convert.to_pytorch import PYTORCH, to_pytorch
from porting.convert.unfinished import Unfinished, check_free, unfinished_directory
from porting.errors import CheckpointError, Problem
from porting.mapping import Plan
from porting.port import ResolvedConfig
from porting.source import Source, resolve_source
from porting.tokenizer_files import TokenizerFiles

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
        to: "pytorch", or the name of the original's format.
        notes: what the way back to the original rests on.
        checkpoint: what was read: of a directory that holds several, the newest.
        begun: "fresh"; after a kill "continued" (what was there and right was kept) or "restarted" (what was
            there belonged to another conversion).
        kept: how many tensors were in their place already.
        verified: whether every tensor was read back and compared with its source.
        tokenizer: the tokenizer's files that came along.
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
    to: str = PYTORCH
    notes: tuple[str, ...] = ()
    checkpoint: Path = Path()
    begun: str = FRESH
    kept: int = 0
    verified: bool = False
    tokenizer: TokenizerFiles | None = None
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As `convert-checkpoint --format json` prints it."""
        return {
            "schema_version": SCHEMA_VERSION,
            "status": self.status,
            "port": self.port,
            "to": self.to,
            "config": dict(self.config),
            "config_origin": self.resolved.origin,
            "inferred": list(self.resolved.inferred),
            "assumed": list(self.resolved.assumed),
            "plan": [entry.to_json() for entry in self.plan.entries],
            "ignored": self.plan.ignored_counts(),
            "checkpoint": str(self.checkpoint),
            "output": str(self.output),
            "bytes": self.nbytes,
            "bytes_read": self.bytes_read,
            "bytes_ignored": dict(self.bytes_ignored),
            "begun": self.begun,
            "kept": self.kept,
            "verified": self.verified,
            "tokenizer": tokenizer_facts(self.tokenizer or TokenizerFiles({})),
            "notes": list(self.notes),
            "seconds": self.seconds,
        }


def convert_checkpoint(
    source: str | Path,
    output_dir: str | Path,
    *,
    config: str | Path | None = None,
    to: str = PYTORCH,
    dtype: str = "keep",
    max_shard_size: str | int = "5GB",
    dry_run: bool = False,
    force: bool = False,
    verify: bool = True,
    tokenizer: bool = True,
    on_start: Callable[[int], None] = lambda _nbytes: None,
    on_tensor: Progress = lambda _name, _nbytes: None,
) -> Conversion:
    """Convert a checkpoint into a model directory that PyTorch and transformers load.

    The directory appears whole or not at all: until then it is called OUTPUT_DIR.unfinished. If a run was
    killed, the next one keeps what is there and right. `porting.json` says what it was made from, and how.

    Example:
        convert_checkpoint("model.ckpt-1000", "t5-small", dtype="float32")
        convert_checkpoint("t5-small", "back", to="mesh")

    Args:
        source: a checkpoint prefix, or the directory that holds it; or a model directory, as this function
            or transformers writes it.
        output_dir: must not exist, or be empty, unless `force`.
        config: an operative_config.gin or config.json; by default the one beside the checkpoint, else
            inferred from the variables.
        to: "pytorch", or the name of the original's format ("mesh" for T5): then `source` is a model
            directory, and what is written is a checkpoint that the original restores, with its config.
        dtype: keep, float32, bfloat16 or float16 (to nearest even).
        max_shard_size: bytes, or such as "5GB".
        dry_run: plan only; reads no tensor and writes nothing.
        force: replace a model that is in `output_dir` already; other files there are kept.
        verify: read every tensor back and compare it with its source through the inverse of each op.
        tokenizer: bring the tokenizer along that lies beside the source, as transformers loads it.
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
    target, source_of = _target(open_checkpoint(source), config, to, wanted, shard_size)
    checkpoint, plan, layout = target.checkpoint, target.plan, target.layout
    nbytes = sum(spec.nbytes for file in layout for spec in file.specs)

    def conversion(status: str, **facts: Any) -> Conversion:
        return Conversion(
            status=status,
            to=target.to,
            port=source_of.port.name,
            resolved=source_of.resolved,
            config=target.config,
            plan=plan,
            output=output,
            nbytes=nbytes,
            bytes_read=sum(checkpoint.tensors[name].nbytes for name in target.read),
            bytes_ignored={
                reason: sum(checkpoint.tensors[name].nbytes for name in names)
                for reason, names in plan.ignored.items()
            },
            notes=target.notes,
            checkpoint=checkpoint.path,
            **facts,
        )

    check_free(output, force=force, nbytes=0 if dry_run else sum(file.nbytes for file in layout))
    if dry_run:
        return conversion("planned")
    checkpoint.require_files(target.read)
    stamps = _stamps(checkpoint)
    tokens = target.tokenizer() if tokenizer else TokenizerFiles({})
    check_copies(checkpoint, plan.copies)
    on_start(nbytes)
    about = f"{checkpoint.path} into {output}, begun {now()}."
    with unfinished_directory(output, replaced=target.replaced, about=about) as unfinished:
        begun = _beginning(unfinished, layout)
        written = write_tensors(
            checkpoint,
            plan.entries,
            layout,
            unfinished.path,
            verify=verify,
            go_on=begun == CONTINUED,
            on_tensor=on_tensor,
        )
        files = {**target.files(written), **tokens.files}
        for name, content in files.items():
            (unfinished.path / name).write_bytes(content)
        original = target.original()
        _require_unchanged(checkpoint, stamps)
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "port": source_of.port.name,
            "to": target.to,
            "source": source_facts(checkpoint, plan),
            "config_origin": source_of.resolved.origin,
            "inferred": list(source_of.resolved.inferred),
            "assumed": list(source_of.resolved.assumed),
            "notes": list(target.notes),
            "dtype": dtype,
            "verified": verify,
            "tokenizer": tokenizer_facts(tokens),
            "files": weight_file_facts(layout, written) + other_file_facts(unfinished.path, list(files)),
            "ignored": {reason: list(names) for reason, names in plan.ignored.items()},
            "copies": dict(plan.copies),
            "original": original.to_json() if original else None,
            "versions": versions(),
            "command": shlex.join(sys.argv),
            "time": now(),
            "plan": plan_facts(plan, checkpoint),
        }
        (unfinished.path / MANIFEST).write_bytes(json_bytes(manifest))
    return conversion(
        "converted",
        begun=begun,
        kept=sum(tensor.kept for tensor in written.values()),
        verified=verify,
        tokenizer=tokens,
        seconds=time.monotonic() - begin,
    )


def _target(
    checkpoint: Checkpoint,
    config: str | Path | None,
    to: str,
    dtype: np.dtype[Any] | None,
    max_shard_size: int,
) -> tuple[Target, Source]:
    source = resolve_source(checkpoint, config)
    if to == PYTORCH:
        return to_pytorch(source, checkpoint, dtype, max_shard_size), source
    return to_original(to, source, checkpoint, dtype, max_shard_size), source


def _beginning(unfinished: Unfinished, layout: Sequence[FileLayout]) -> str:
    """How the conversion begins: what another run left is kept if it was on its way to the same files."""
    if not unfinished.found:
        return FRESH
    fits = any(matches_layout(unfinished.path / file.name, file) for file in layout)
    unfinished.keep_only([file.name for file in layout] if fits else [])
    return CONTINUED if fits else RESTARTED


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
