"""The steps that compare tensors: one comparison, looked at as far as each step goes.

A port may stop half-way (its `forward` raises what is still to be written): what it computed until then is
compared all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from porting.compare import DIVERGED, INCOMPLETE, INVALID, MATCH, Comparison, compare_traces
from porting.model_dir import load_model
from porting.report.terminal import summary_lines
from porting.scaffold.work import StepFailedError, Work
from porting.tap import Tap
from porting.trace import Trace
from porting.workbench import compare_outputs

if TYPE_CHECKING:
    import torch

    from porting.inputs import Inputs

GENERATED, BEGUN = 8, 12  # new tokens, and how long the inputs are that they follow


@dataclass(frozen=True)
class _Forward:
    """What both sides computed. `stopped`: what the port raised, if it did not come to its end."""

    comparison: Comparison
    reference: Trace
    taps: Sequence[Tap]
    stopped: Exception | None


def embeddings(work: Work) -> None:
    """All tensors up to the taps that `port.toml` lists as embeddings."""
    _up_to(work, "embeddings", work.settings.embeddings)


def first_layer(work: Work) -> None:
    """All tensors up to the taps that `port.toml` lists as first_layer."""
    _up_to(work, "first_layer", work.settings.first_layer)


def every_layer(work: Work) -> None:
    """All tensors but the outputs: every tap is on both sides."""
    outputs = {*work.settings.logits, work.port.loss}
    _holds(work, lambda name: name not in outputs)


def logits(work: Work) -> None:
    """The outputs, and all before them."""
    _present(work, "logits", work.settings.logits)
    _holds(work, lambda name: name != work.port.loss)


def loss(work: Work) -> None:
    """The loss, and everything else."""
    if work.port.loss:
        _present(work, "loss", (work.port.loss,))
    _holds(work, lambda _name: True)


def gradients(work: Work) -> None:
    """Of the loss, for every tap and every parameter."""
    trace = work.trace(backward=True)
    _settle(compare_outputs(trace, work.model_dir, backward=True, analyse=False))


def generation(work: Work) -> None:
    """Greedily, token by token, and the port's cache against its full path."""
    port = work.port
    if port.decoding is None:
        raise StepFailedError(
            "The port does not say how it generates.",
            work.settings.directory / "port.py",
            "Fill in decoding.py and give the Port decoding=DECODING; or say in port.toml, under"
            " [not_applicable], why there is none: generation = ...",
        )
    begun = work.inputs(BEGUN)
    trace = work.traced(begun, generate="greedy", max_new_tokens=GENERATED)
    _settle(compare_outputs(trace, work.model_dir, generate="greedy", analyse=False))


def _up_to(work: Work, stage: str, ends: Sequence[str]) -> None:
    """All tensors up to the last of these, in the original's order."""
    if not ends:
        raise StepFailedError(
            f"port.toml does not say which tensors the {stage.replace('_', ' ')} ends with.",
            work.settings.file,
            f"List the port's module paths there, as taps.py has them: {stage} = [...]",
        )
    _present(work, stage, ends)
    order = _forward(work).reference.names()
    taps = [tap.name for tap in _forward(work).taps]
    last, last_tap = (max(names.index(end) for end in ends) for names in (order, taps))
    wanted = {*order[: last + 1], *taps[: last_tap + 1]}
    beyond = {*order[last + 1 :]}
    _holds(work, lambda name: name in wanted and name not in beyond)


def _present(work: Work, stage: str, names: Sequence[str]) -> None:
    """These are tapped on both sides."""
    taps = {tap.name for tap in work.port.taps(work.resolved.config)}
    for name in names:
        if name not in taps:
            raise StepFailedError(
                f"taps.py has no tap {name}, which the {stage.replace('_', ' ')} ends with.",
                work.settings.directory / "taps.py",
                f"Add Tap({name!r}, ...), or correct {stage} in {work.settings.file.name}.",
            )
    original = work.trace().names()
    for name in names:
        if name not in original:
            raise StepFailedError(
                f"The original's trace has no tensor for the tap {name}. It has: {', '.join(original[:8])}",
                work.settings.directory / "reference.py",
                "Tap it in reference.py, under the port's name.",
            )


def _holds(work: Work, wanted: Callable[[str], bool]) -> None:
    """What the port computed agrees, as far as a step looks."""
    found = _forward(work)
    limited = _limited(found.comparison, wanted)
    if found.stopped is not None and limited.unmatched_reference:
        # What differs before it stopped comes first.
        if limited.status == DIVERGED:
            raise StepFailedError(_screen(limited))
        raise found.stopped
    _settle(limited, strict=work.settings.strict)


def _settle(comparison: Comparison, *, strict: bool = False) -> None:
    if comparison.status != MATCH or (strict and comparison.faults):
        raise StepFailedError(_screen(comparison))


def _screen(comparison: Comparison) -> str:
    return "\n".join(summary_lines(comparison))


def _limited(comparison: Comparison, wanted: Callable[[str], bool]) -> Comparison:
    """The comparison as far as a step looks, with the status that it then has."""
    rows = tuple(row for row in comparison.tensors if wanted(row.name))
    missing = tuple(name for name in comparison.unmatched_reference if wanted(name))
    extra = tuple(name for name in comparison.unmatched_port if wanted(name))
    findings = comparison.findings
    if findings is not None:
        names = {row.name for row in rows}
        findings = replace(findings, faults=tuple(fault for fault in findings.faults if fault.name in names))
    if comparison.status == INVALID:
        status = INVALID
    elif any(row.status == DIVERGED for row in rows):
        status = DIVERGED
    else:
        status = INCOMPLETE if missing or extra or not rows else MATCH
    return replace(
        comparison,
        tensors=rows,
        unmatched_reference=missing,
        unmatched_port=extra,
        findings=findings,
        status=status,
    )


def _forward(work: Work) -> _Forward:
    """The comparison, made once for each port under work."""
    if work.forward is None:
        work.forward = _compare(work)
    found: _Forward = work.forward
    return found


def _compare(work: Work) -> _Forward:
    import torch

    from porting.capture import capture

    port, reference = work.port, work.trace()
    taps = port.taps(work.resolved.config)
    module = load_model(work.model_dir, dtype=torch.float32)
    stopped: list[Exception] = []

    def run(model: torch.nn.Module, inputs: Inputs) -> Mapping[str, torch.Tensor]:
        try:
            return port.run(model, inputs)
        except Exception as error:
            stopped.append(error)
            return {}

    own = capture(module, reference.inputs, taps, run)
    if not stopped:
        whole = compare_outputs(reference, work.model_dir, checkpoint=work.checkpoint.path)
        return _Forward(whole, reference, taps, None)
    return _Forward(compare_traces(reference, own), reference, taps, stopped[0])
