"""`--to mesh` and the like: a checkpoint of the original, made of a model directory.

The plan is the port's own rule table turned round, so that the way back is the way there, op for op. Which
variables there are, the directory's manifest knows if it was made from such a checkpoint; of any other
directory the port says how the original would call them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from porting.checkpoint import Checkpoint, LazyTensor
from porting.checkpoint.tf_bundle_writer import BundleTensor, bundle_index, checkpoint_state
from porting.convert.checksums import file_sha256
from porting.convert.layout import FileLayout, TensorSpec, bundle_layout
from porting.convert.manifest import MANIFEST, read_manifest
from porting.convert.stream import Written
from porting.convert.target import Target, tensor_specs
from porting.errors import InputError, MappingError
from porting.inverse import invert_plan
from porting.mapping import Plan, PlanEntry, Shape, make_plan
from porting.model_dir import CONFIG
from porting.port import OriginalFormat, Port
from porting.source import Source, parameter_shapes, plan_conversion
from porting.tokenizer_files import copied_tokenizer_files

_STEP = "global_step"


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
    port = source.port
    original = _format(name, source)
    known = _known(checkpoint, port)
    config, back = _way_back(port, original, source.resolved.config, known.variables)
    plan = _through(plan_conversion(source, checkpoint), back)
    constants = {
        variable: np.asarray(known.more.get(variable, value), value.dtype)
        for variable, value in original.more.items()
    }
    variables = sorted(entry.target for entry in plan.entries)
    specs = {spec.name: spec for spec in tensor_specs(plan, checkpoint, dtype)}
    plan, checkpoint = _with_constants(plan, checkpoint, constants)
    specs |= {variable: TensorSpec(variable, a.shape, a.dtype) for variable, a in constants.items()}
    prefix = f"model.ckpt-{int(constants.get(_STEP, np.int64(0)))}"
    layout = bundle_layout([specs[entry.target] for entry in plan.entries], prefix, max_shard_size)
    texts = known.texts or original.files(config, variables)

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
        config=port.config_to_json(config),
        original=None,
        notes=known.notes,
        replaced=(f"{prefix}.index", f"{prefix}.data-*", f"{prefix}.meta", "checkpoint", *texts, MANIFEST),
        tokenizer=partial(copied_tokenizer_files, checkpoint.path.parent),
        files=files,
    )


def _format(name: str, source: Source) -> OriginalFormat:
    originals = source.port.originals
    if name not in originals:
        known = ", ".join(["pytorch", *originals])
        raise InputError(f"--to {name} is not a format of {source.port.name} models; those are: {known}.")
    if source.kind == "original":
        raise InputError(
            f"The source is a checkpoint of the original already; --to {name} begins with a model directory.",
            remedy="Leave --to away to convert it to PyTorch.",
        )
    return originals[name]


@dataclass(frozen=True)
class _Known:
    """What a directory's manifest says of the checkpoint that it was made from.

    Attributes:
        variables: name -> shape; None where nothing is known.
        more: values of variables that are no weights.
        texts: the config as it was, by file name, if config.json is still what was made of it.
        notes: for the user.
    """

    variables: Mapping[str, Shape] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)
    texts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def _known(checkpoint: Checkpoint, port: Port) -> _Known:
    directory = checkpoint.path.parent
    if not (directory / MANIFEST).is_file():
        return _Known(notes=("names of the variables: as the original calls them today",))
    manifest = read_manifest(directory)
    facts = manifest.get("original")
    if not isinstance(facts, dict):
        return _Known(notes=("names of the variables: as the original calls them today",))
    try:
        variables = {str(name): tuple(int(n) for n in shape) for name, shape in facts["variables"].items()}
        more = {str(name): np.asarray(value) for name, value in facts["more"].items()}
        (made,) = (file["sha256"] for file in manifest["files"] if file["name"] == CONFIG)
        unchanged = made == file_sha256(directory / CONFIG)
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise InputError(f"{directory / MANIFEST} is damaged: {error!r}") from error
    text = facts.get("config")
    texts = {port.config_files[0]: text} if unchanged and isinstance(text, str) else {}
    return _Known(
        variables, more, texts, ("names of the variables: those of the checkpoint it was made from",)
    )


def _way_back(
    port: Port, original: OriginalFormat, config: Any, known: Mapping[str, Shape] | None
) -> tuple[Any, Plan]:
    """From the module's parameters to the original's variables: the rule table turned round."""
    parameters = parameter_shapes(port, config)
    if known is not None:
        located = original.located(config, known)
        try:
            return located, invert_plan(make_plan(port.rules(located, [*known]), known, parameters))
        except MappingError as error:
            raise MappingError(
                f"{MANIFEST} says which variables this model was made from, and they do not fit it any more.",
                problems=error.problems,
                remedy=f"If the model was changed on purpose, remove {MANIFEST}: variables are then called "
                "as the original calls them today.",
            ) from error
    variables = original.variables(config)
    return config, invert_plan(make_plan(port.rules(config, [*variables]), variables, parameters))


def _through(own: Plan, back: Plan) -> Plan:
    """`back`, whose sources are parameters, with the tensors that hold them."""
    tensor_of = {entry.target: entry.sources[0] for entry in own.entries}
    if any(len(entry.sources) > 1 or entry.ops for entry in own.entries):
        raise AssertionError("a model directory's tensors are its parameters")
    entries = [
        replace(entry, sources=tuple(tensor_of[name] for name in entry.sources)) for entry in back.entries
    ]
    copies = {tensor_of[copy]: tensor_of[of] for copy, of in back.copies.items()}
    same = {copy: of for copy, of in copies.items() if copy != of}
    return Plan(tuple(entries), own.ignored, {**own.copies, **same})


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
