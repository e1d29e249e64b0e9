"""`--to mesh` and the like: a checkpoint of the original, made of a model directory.

The plan is the port's own rule table turned round, so that the way back is the way there, op for op. Which
variables there are, the directory's manifest knows if it was made from such a checkpoint; of any other
directory the port says how the original would call them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from porting.checkpoint import Checkpoint
from porting.convert.manifest import MANIFEST
from porting.convert.original_files import original_files
from porting.convert.remembered import remembered
from porting.convert.stream import Written
from porting.convert.target import Target, tensor_specs
from porting.errors import MappingError
from porting.mapping import Shape
from porting.source import Source, plan_conversion
from porting.tokenizer_files import copied_tokenizer_files
from porting.write_back import WriteBack, original_format, plan_write_back

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
    form = original_files(back.layout, back.plan, checkpoint, specs, constants, max_shard_size)
    texts = dict(back.files)
    if known and known.config is not None:
        texts[own.config_file or source.port.config_files[0]] = known.config

    def files(written: Mapping[str, Written]) -> Mapping[str, bytes]:
        return {**form.files(written), **{file: text.encode("utf-8") for file, text in texts.items()}}

    return Target(
        to=name,
        checkpoint=form.checkpoint,
        plan=form.plan,
        layout=form.layout,
        config=source.port.config_to_json(back.config),
        original=lambda: None,
        notes=(_NAMES_KNOWN if known else _NAMES_TODAY,),
        replaced=(*form.replaced, *texts, MANIFEST),
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
