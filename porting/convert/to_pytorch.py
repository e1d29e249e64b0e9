"""`--to pytorch`: a model directory that this project and transformers load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from porting.checkpoint import Checkpoint
from porting.convert.layout import TensorSpec, safetensors_layout, weights_index
from porting.convert.manifest import MANIFEST
from porting.convert.remembered import Remembered, remember, remembered
from porting.convert.stream import Written
from porting.convert.target import Target, json_bytes, tensor_specs
from porting.mapping import Plan
from porting.model_dir import CONFIG, MODEL_FILES, WEIGHTS_INDEX
from porting.source import ORIGINAL, Source, plan_conversion
from porting.tokenizer_files import copied_tokenizer_files, tokenizer_files_for

PYTORCH = "pytorch"


def to_pytorch(
    source: Source, checkpoint: Checkpoint, dtype: np.dtype[Any] | None, max_shard_size: int
) -> Target:
    """What is made of a checkpoint of the original, or of a model directory that is written again.

    Raises:
        MappingError: variables, parameters and shapes do not fit; lists everything.
        CheckpointError: a weight is not floating-point.
    """
    port, config = source.port, source.resolved.config
    plan = plan_conversion(source, checkpoint)
    specs = tensor_specs(plan, checkpoint, dtype)
    layout = safetensors_layout(specs, max_shard_size)
    config_json = {**port.config_to_json(config), "dtype": _common_dtype(specs)}
    directory = checkpoint.path.parent

    def files(_written: Mapping[str, Written]) -> Mapping[str, bytes]:
        made = {CONFIG: json_bytes(config_json)}
        made |= {name: json_bytes(content) for name, content in port.extra_files(config).items()}
        if len(layout) > 1:
            made[WEIGHTS_INDEX] = json_bytes(weights_index(layout))
        return made

    tokenizer = partial(copied_tokenizer_files, directory)
    if source.kind == ORIGINAL:
        tokenizer = partial(tokenizer_files_for, port, directory, config)
    return Target(
        to=PYTORCH,
        checkpoint=checkpoint,
        plan=plan,
        layout=layout,
        config=config_json,
        original=partial(_remembered, source, checkpoint, plan),
        notes=(),
        replaced=(*MODEL_FILES, MANIFEST),
        tokenizer=tokenizer,
        files=files,
    )


def _common_dtype(specs: Sequence[TensorSpec]) -> str:
    """What transformers should load the model as: the one stored dtype, float32 where they are mixed."""
    names = {spec.dtype.name for spec in specs}
    return names.pop() if len(names) == 1 else "float32"


def _remembered(source: Source, checkpoint: Checkpoint, plan: Plan) -> Remembered | None:
    if source.kind != ORIGINAL:
        return remembered(checkpoint.path.parent)
    more = {name for original in source.port.originals.values() for name in original.more}
    return remember(checkpoint, plan, sorted(more), source.resolved.original_text)
