"""A model back into a checkpoint of the original: what is read, what is done to it, and what lies beside it.

source = resolve_source(checkpoint)
back = plan_write_back(source, plan_conversion(source, checkpoint), "mesh")
back.plan.entries  # each makes a variable of tensors of the model directory
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from porting.errors import InputError
from porting.inverse import invert_plan
from porting.mapping import Plan, PlanEntry, Shape, make_plan
from porting.port import OriginalFormat
from porting.source import STATE_DICT, Source, parameter_shapes

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class WriteBack:
    """Everything that a checkpoint of the original is made of.

    Attributes:
        plan: entries that make variables of the source's tensors, in the order of the variables' names;
            `copies` and `ignored` are of the source's tensors, too.
        files: text files that lie beside the checkpoint, by name.
        more: further variables, by name.
        layout: the format of the checkpoint.
        config: the port's config, where the variables lie included.
    """

    plan: Plan
    files: Mapping[str, str]
    more: Mapping[str, np.ndarray]
    layout: str
    config: Any


def plan_write_back(
    source: Source, plan: Plan, to: str, variables: Mapping[str, Shape] | None = None
) -> WriteBack:
    """Plan how a model directory becomes a checkpoint of the original again.

    Args:
        source: what `resolve_source` says of the model directory.
        plan: its `plan_conversion`.
        to: name of one of the port's `originals`.
        variables: names and shapes of the checkpoint that the model was once made of, optimizer state and the
            like included or not: the same names are written again, if they are the format's own. By default
            those that the config says.

    Raises:
        InputError: the port has no such original, or the source is one already.
        ConfigError: the original cannot be told to build this model.
        MappingError: variables and parameters do not fit each other; lists everything.
    """
    port, model = source.port, source.resolved.config
    form = original_format(source, to)
    if variables is not None and not form.owns(variables):
        variables = None
    config = form.laid_out(model) if variables is None else form.located(model, variables)
    names = form.variables(config) if variables is None else variables
    forth = make_plan(port.rules(config, list(names)), names, parameter_shapes(port, config))
    back = invert_plan(forth)
    called = {entry.target: entry.sources[0] for entry in plan.entries}
    called |= {parameter: called[of] for parameter, of in form.spread(model, config).items()}
    entries = tuple(_of_tensors(entry, called) for entry in back.entries)
    copies = {called[copy]: called[of] for copy, of in back.copies.items() if called[copy] != called[of]}
    written = Plan(entries, ignored=plan.ignored, copies={**plan.copies, **copies})
    files = form.files(config, [entry.target for entry in entries])
    more = {name: value for name, value in form.more.items() if name not in {e.target for e in entries}}
    return WriteBack(written, files, more, form.layout, config)


def original_format(source: Source, to: str) -> OriginalFormat:
    """The port's original of that name. Raises InputError if there is none, or the source is one already."""
    known = source.port.originals
    if to not in known:
        raise InputError(
            f"A model of the port {source.port.name!r} cannot be written back as {to!r}.",
            remedy=f"Known: {', '.join(known)}." if known else "The port has no original to write back to.",
        )
    if source.kind != STATE_DICT:
        raise InputError(
            "The source is a checkpoint of the original already.",
            remedy=f"Convert it first; --to {to} takes a model directory.",
        )
    return known[to]


def _of_tensors(entry: PlanEntry, called: Mapping[str, str]) -> PlanEntry:
    """An entry that reads parameters by the names that the source has for them."""
    return replace(entry, sources=tuple(called[name] for name in entry.sources))
