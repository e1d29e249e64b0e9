"""`--to mesh` and the like: a checkpoint of the original, made of a model directory.

The plan is the port's own rule table turned round, so that the way back is the way there, op for op. Which
variables there are, the directory's manifest knows if it was made from such a checkpoint; of any other
directory the port says how the original would call them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from porting.checkpoint import Checkpoint, LazyTensor
from porting.checkpoint.tf_bundle_writer import BundleTensor, bundle_index, checkpoint_state
from porting.convert.layout import FileLayout, TensorSpec, bundle_layout
from porting.convert.manifest import MANIFEST
from porting.convert.remembered import remembered
from porting.convert.stream import Written
from porting.convert.target import Target, tensor_specs
from porting.errors import MappingError
from porting.mapping import Plan, PlanEntry, Shape
from porting.source import Source, plan_conversion
from porting.tokenizer_files import copied_tokenizer_files
from porting.write_back import WriteBack, original_format, plan_write_back

_STEP = "global_step"
_NAMES_KNOWN = "variables are called as in the checkpoint that the model was made from"
_NAMES_TODAY = "variables are called as the original calls them today"


def to_original(
    name: str, source: Source, checkpoint: Checkpoint, dtype: np.dtype[Any] | None, max_shard_size: int
) -> Target:
    """What is made of a model directory.

    Args:
        name: of the format.
        source: what the directory holds.
        checkpoint: its tensors.
        dtype: of the variables; None: each as it is stored.
        max_shard_size: bytes of one data file.

    Raises:
        InputError: the port has no such format, or the source is the original's already.
        ConfigError: the original cannot be told to build this model.
        MappingError: the directory does not hold the model that its config describes.
    """
    own, known = original_format(source, name), remembered(checkpoint.path.parent)
    if known and not own.owns(known.variables):  # the directory was made from another of the port's originals
        known = None
    back = _write_back(name, source, checkpoint, known.variables if known else None)
    constants = {
        variable: np.asarray(known.more.get(variable, value) if known else value, value.dtype)
        for variable, value in back.more.items()
    }
    specs = {spec.name: spec for spec in tensor_specs(back.plan, checkpoint, dtype)}
    plan, checkpoint = _with_constants(back.plan, checkpoint, constants)
    specs |= {variable: TensorSpec(variable, a.shape, a.dtype) for variable, a in constants.items()}
    prefix = f"model.ckpt-{int(constants.get(_STEP, np.int64(0)))}"
    layout = bundle_layout([specs[entry.target] for entry in plan.entries], prefix, max_shard_size)
    texts = dict(back.files)
    if known and known.config is not None:
        texts[own.config_file or source.port.config_files[0]] = known.config

    def files(written: Mapping[str, Written]) -> Mapping[str, bytes]:
        return {
            f"{prefix}.index": bundle_index(_bundle_tensors(layout, written), len(layout)),
            "checkpoint": checkpoint_state(prefix).encode("utf-8"),
            **{file: text.encode("utf-8") for file, text in texts.items()},
        }

    return Target(
        to=name,
        checkpoint=checkpoint,
        plan=plan,
        layout=layout,
        config=source.port.config_to_json(back.config),
        original=lambda: None,
        notes=(_NAMES_KNOWN if known else _NAMES_TODAY,),
        replaced=(f"{prefix}.index", f"{prefix}.data-*", f"{prefix}.meta", "checkpoint", *texts, MANIFEST),
        tokenizer=partial(copied_tokenizer_files, checkpoint.path.parent),
        files=files,
    )


def _write_back(
    name: str, source: Source, checkpoint: Checkpoint, variables: Mapping[str, Shape] | None
) -> WriteBack:
    original_format(source, name)  # before a plan is made that could not be used
    own = plan_conversion(source, checkpoint)
    try:
        return plan_write_back(source, own, name, variables)
    except MappingError as error:
        if variables is None:
            raise
        raise MappingError(
            f"{MANIFEST} says which variables this model was made from, and they do not fit it any more.",
            problems=error.problems,
            remedy=f"If the model was changed on purpose, remove {MANIFEST}: variables are then called "
            "as the original calls them today.",
        ) from error


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
