"""How an original's checkpoint is laid out in files: TensorFlow's bundle, T5X's arrays beside an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from porting.checkpoint import Checkpoint, LazyTensor
from porting.checkpoint.t5x_writer import T5XArray, t5x_index
from porting.checkpoint.tf_bundle_writer import BundleTensor, bundle_index, checkpoint_state
from porting.convert.layout import FileLayout, TensorSpec, bundle_layout
from porting.convert.stream import Written
from porting.errors import InputError
from porting.mapping import Plan, PlanEntry

BUNDLE, T5X = "tensorflow-bundle", "t5x"
_BUNDLE_STEP, _T5X_STEP = "global_step", "state/step"


@dataclass(frozen=True)
class OriginalFiles:
    """Where everything of an original's checkpoint lies.

    Attributes:
        plan: every variable that is streamed, and its sources.
        checkpoint: where these are read.
        layout: the files that hold them.
        files: makes the others, once the checksums of what was written are known; by name.
        replaced: patterns of the names of files and directories that belong to such a checkpoint.
    """

    plan: Plan
    checkpoint: Checkpoint
    layout: Sequence[FileLayout]
    files: Callable[[Mapping[str, Written]], Mapping[str, bytes]]
    replaced: tuple[str, ...]


def original_files(
    form: str,
    plan: Plan,
    checkpoint: Checkpoint,
    specs: Mapping[str, TensorSpec],
    constants: Mapping[str, np.ndarray],
    max_shard_size: int,
) -> OriginalFiles:
    """Where everything will lie.

    Args:
        form: "tensorflow-bundle" or "t5x"; see `OriginalFormat.layout`.
        plan: how the variables are made.
        checkpoint: what they are made of.
        specs: what each will be.
        constants: variables that are made of nothing, such as the step.
        max_shard_size: bytes of one data file, where a file holds several variables.

    Raises:
        InputError: nobody has said how such files are written.
        CheckpointError: what writes them is not installed.
    """
    if form == BUNDLE:
        return _bundle(plan, checkpoint, specs, constants, max_shard_size)
    if form == T5X:
        return _t5x(plan, checkpoint, specs, constants)
    raise InputError(f"There is no layout {form!r} of an original's files; known: {BUNDLE}, {T5X}.")


def _bundle(
    plan: Plan,
    checkpoint: Checkpoint,
    specs: Mapping[str, TensorSpec],
    constants: Mapping[str, np.ndarray],
    max_shard_size: int,
) -> OriginalFiles:
    plan, checkpoint = _with_constants(plan, checkpoint, constants)
    specs = {**specs, **{name: TensorSpec(name, a.shape, a.dtype) for name, a in constants.items()}}
    prefix = f"model.ckpt-{_step(constants, _BUNDLE_STEP)}"
    layout = bundle_layout([specs[entry.target] for entry in plan.entries], prefix, max_shard_size)

    def files(written: Mapping[str, Written]) -> Mapping[str, bytes]:
        return {
            f"{prefix}.index": bundle_index(_bundle_tensors(layout, written), len(layout)),
            "checkpoint": checkpoint_state(prefix).encode("utf-8"),
        }

    replaced = (f"{prefix}.index", f"{prefix}.data-*", f"{prefix}.meta", "checkpoint")
    return OriginalFiles(plan, checkpoint, layout, files, replaced)


def _t5x(
    plan: Plan, checkpoint: Checkpoint, specs: Mapping[str, TensorSpec], constants: Mapping[str, np.ndarray]
) -> OriginalFiles:
    directory = f"checkpoint_{_step(constants, _T5X_STEP)}"
    ordered = sorted((specs[entry.target] for entry in plan.entries), key=lambda spec: spec.name)
    arrays = {spec.name: T5XArray(spec.name, spec.shape, spec.dtype) for spec in ordered}
    layout = [FileLayout(f"{directory}/{arrays[spec.name].values_file}", b"", (spec,)) for spec in ordered]
    made = {f"{directory}/{array.header_file}": array.header() for array in arrays.values()}
    # Last: a checkpoint without its index is none.
    made[f"{directory}/checkpoint"] = t5x_index(arrays, constants)
    return OriginalFiles(plan, checkpoint, layout, lambda _written: made, (directory,))


def _step(constants: Mapping[str, np.ndarray], name: str) -> int:
    return int(constants.get(name, np.int64(0)))


def _with_constants(
    plan: Plan, checkpoint: Checkpoint, constants: Mapping[str, np.ndarray]
) -> tuple[Plan, Checkpoint]:
    """The plan and the checkpoint with variables that no parameter holds, in the order of a bundle."""
    tensors = {
        name: LazyTensor(name, value.shape, value.dtype, (), partial(_constant, value))
        for name, value in constants.items()
    }
    entries = [
        *plan.entries,
        *(PlanEntry((name,), name, (), (value.shape,), value.shape) for name, value in constants.items()),
    ]
    entries.sort(key=lambda entry: entry.target.encode("utf-8"))
    checkpoint = replace(checkpoint, tensors={**checkpoint.tensors, **tensors})
    return replace(plan, entries=tuple(entries)), checkpoint


def _constant(value: np.ndarray) -> np.ndarray:
    return value


def _bundle_tensors(layout: Sequence[FileLayout], written: Mapping[str, Written]) -> list[BundleTensor]:
    return [
        BundleTensor(spec.name, spec.dtype, spec.shape, shard, offset, spec.nbytes, written[spec.name].crc32c)
        for shard, file in enumerate(layout)
        for spec, offset in zip(file.specs, file.offsets(), strict=True)
    ]
