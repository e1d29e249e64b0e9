"""A comparison -> the same with what is behind it: figures of each tensor, the faults, and their causes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from porting.analysis.isolation import Originals
from porting.analysis.passes import Analyser
from porting.capture import plain_path
from porting.checkpoint import Checkpoint
from porting.diagnose.engine import diagnose
from porting.diagnose.lab import Lab, RightWeights, Variants
from porting.errors import PortingError
from porting.findings import Findings
from porting.port import Port
from porting.source import plan_original
from porting.tap import Tap
from porting.trace import Trace


@dataclass(frozen=True)
class Explanation:
    """Findings, and reasons why the comparison cannot be trusted."""

    findings: Findings
    reasons: tuple[str, ...]


def explain(
    module: torch.nn.Module,
    port: Port,
    config: Any,
    reference: Trace,
    free: Trace,
    *,
    checkpoint: Checkpoint | None = None,
    unit: float | None = None,
    times: float | None = None,
    causes: bool = True,
    on_stage: Callable[[str], None] = lambda _stage: None,
    on_tensor: Callable[[str, int], None] = lambda _name, _total: None,
) -> Explanation:
    """Isolate, measure the noise, and diagnose.

    Args:
        module, port, config: what was compared.
        reference, free: the original's trace, and the port's own.
        checkpoint: what the parameters should hold; without it less can be said about weights.
        unit: relative rounding unit of the stored weights, where that is coarser than the port's own.
        times: how many times its noise floor a tensor's own difference may be; see `times_for`.
        causes: look for the causes of faults; without, faults are found and not explained.
        on_stage: called as things happen, for progress.
        on_tensor: called with each tensor that a stage reaches, and how many it has, for progress.
    """
    taps = port.taps(config)
    analysis = Analyser(
        module,
        reference.inputs,
        taps,
        port.run,
        reference,
        free,
        unit=unit,
        times=times,
        on_stage=on_stage,
        on_tensor=on_tensor,
    ).analyse()
    right_weights = _right_weights(port, reference, checkpoint)
    lab = Lab(
        module,
        reference.inputs,
        taps,
        port.run,
        Originals(reference),
        right_weights=right_weights,
        variants=_variants(module, port, config, reference, right_weights),
    )
    names = {tensor.name: tensor.original_name for tensor in reference.tensors}
    if causes and analysis.faults:
        on_stage("looking for causes")
    faults = diagnose(lab, analysis, names, port.candidates() if causes else None, on_tensor)
    findings = Findings(
        figures=analysis.figures,
        faults=faults,
        times=analysis.times,
        unit=analysis.unit,
        remainder=analysis.remainder,
        notes=(*analysis.notes, *lab.notes),
    )
    return Explanation(findings, analysis.reasons)


def _right_weights(port: Port, reference: Trace, checkpoint: Checkpoint | None) -> RightWeights:
    """What the checkpoint holds for a parameter, mapped as in a conversion."""
    content = reference.metadata.get("config")
    if checkpoint is None or not isinstance(content, Mapping):
        return lambda _name: None
    source = checkpoint
    try:
        plan = plan_original(port, port.config_from_json(content), source)
    except PortingError:
        return lambda _name: None
    entries = {entry.target: entry for entry in plan.entries}

    def read(name: str) -> torch.Tensor | None:
        entry = entries.get(name)
        if entry is None:
            return None
        array = entry.make(lambda variable: source.tensors[variable].read())
        return torch.from_numpy(array.astype("float32"))

    return read


def _variants(
    module: torch.nn.Module, port: Port, config: Any, reference: Trace, right_weights: RightWeights
) -> Variants:
    """What the port's configuration has otherwise than the original's, and models with less of it.

    What these have and the port lacks, as modules of another kind, is taken from the checkpoint.
    """
    content = reference.metadata.get("config")
    if not isinstance(content, Mapping):
        return Variants()
    ours = port.config_to_json(config)
    theirs = port.config_to_json(port.config_from_json(content))
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    differing = {name: (ours.get(name), theirs.get(name)) for name in names}

    def build(fields: Sequence[str]) -> tuple[torch.nn.Module, Sequence[Tap]]:
        changed = {**ours, **{name: theirs[name] for name in fields if name in theirs}}
        for name in fields:
            if name not in theirs:
                del changed[name]
        changed_config = port.config_from_json(changed)
        model = port.build(changed_config)
        held = {plain_path(name): value for name, value in module.state_dict().items()}
        lacking = {name: right_weights(name) for name in model.state_dict() if name not in held}
        if lacking and all(value is not None for value in lacking.values()):
            held = {name: value for name, value in held.items() if name in model.state_dict()}
        model.load_state_dict({**held, **{name: x for name, x in lacking.items() if x is not None}})
        return model.to(next(module.parameters()).dtype).eval(), port.taps(changed_config)

    return Variants(differing, build)
