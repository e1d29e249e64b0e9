"""Tries candidates at every faulty tensor, believes what brings parity back, and groups faults by cause."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from porting.analysis.noise import floor_of
from porting.analysis.passes import Analysis
from porting.diagnose.candidates import CANDIDATES, FIRST
from porting.diagnose.hypothesis import Hypothesis, Value
from porting.diagnose.lab import Lab, Recorded
from porting.diagnose.site import Site
from porting.findings import Cause, Fault

Candidate = Callable[[Site], Iterator[Hypothesis]]


def diagnose(
    lab: Lab,
    analysis: Analysis,
    reference_names: dict[str, str],
    candidates: Sequence[Candidate] | None = (),
    on_tensor: Callable[[str, int], None] = lambda _name, _total: None,
) -> tuple[Fault, ...]:
    """The independent faults, in the original's order, each with its cause where one could be verified.

    Args:
        lab: the port.
        analysis: which taps are wrong by themselves.
        reference_names: the original's names of the taps.
        candidates: the port's own, tried before the general ones, but after what the original's config and
            weights prove; None tries none at all.
        on_tensor: called with each tap that a cause is looked for, and how many there are, for progress.
    """
    if not analysis.faults:
        return ()
    recorded = lab.record(analysis.faults)
    faults: dict[tuple[str, str, str], Fault] = {}
    for name in analysis.faults:
        on_tensor(name, len(analysis.faults))
        if recorded[name].inherits:
            continue
        figures = analysis.figures[name]
        cause: Cause | None = None
        tried: tuple[str, ...] = ()
        if candidates is not None and lab.original(name) is not None:
            site = site_of(lab, analysis, name, recorded[name])
            cause, tried = _explain(site, (*FIRST, *candidates, *CANDIDATES))
        key = (cause.kind, cause.subject, cause.words) if cause else ("", name, "")
        if key in faults:
            faults[key] = _joined(faults[key], name)
        else:
            reference_name = reference_names.get(name, name)
            faults[key] = Fault(name, reference_name, figures.local, figures.times_floor, cause, (), tried)
    return tuple(faults.values())


def site_of(lab: Lab, analysis: Analysis, name: str, recorded: Recorded) -> Site:
    """What candidates see of a tap."""
    arrays, original = analysis.arrays, lab.original(name)
    assert arrays is not None and original is not None
    if ("isolated", name) in arrays:
        port, floor = (
            torch.from_numpy(arrays.get(kind, name).astype("float64")) for kind in ("isolated", "floor")
        )
    else:  # another shape than the original's: no element stands beside another
        found = lab.replay(name)
        port = torch.zeros(()) if found is None else found
        floor = torch.from_numpy(floor_of([], original.numpy(), analysis.unit))
    meaningful = lab.meaningful(name)
    if meaningful is not None and port.shape == original.shape:
        original = torch.where(meaningful, original, port)
    return Site(
        tap=lab.by_name[name],
        original=original,
        port=port,
        floor=floor,
        times=analysis.times,
        recorded=recorded,
        lab=lab,
        meaningful=meaningful,
    )


def _explain(site: Site, candidates: Sequence[Candidate]) -> tuple[Cause | None, tuple[str, ...]]:
    tried: dict[str, None] = {}
    for candidate in candidates:
        for hypothesis in candidate(site):
            tried[hypothesis.cause.kind] = None
            if _holds(site, hypothesis):
                return hypothesis.cause, tuple(tried)
    return None, tuple(tried)


def _holds(site: Site, hypothesis: Hypothesis) -> bool:
    if hypothesis.faulty is not None and not site.is_port(_value(hypothesis.faulty)):
        return False
    return site.agrees(_value(hypothesis.mended))


def _value(value: Value) -> Tensor | None:
    return value() if callable(value) else value


def _joined(fault: Fault, name: str) -> Fault:
    return replace(fault, also=(*fault.also, name))
