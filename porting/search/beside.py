"""Search on a port beside its original: what `compare_outputs(..., search=N)` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count as counting
from pathlib import Path
from typing import Any

from porting.compare import Comparison, compare_traces
from porting.errors import InputError
from porting.given_reference import kept
from porting.inputs import TEXT_TO_TEXT, Inputs
from porting.original import Original
from porting.port import Port
from porting.search.revealing import LENGTHS, revealing_inputs
from porting.search.search import Failure, PortRaised, SearchResult, search
from porting.trace import Trace


def require_checkpoint(reference: object) -> None:
    """Raise InputError if there is no checkpoint that the original could be run on."""
    if not isinstance(reference, str | Path) or kept(reference) is not None:
        raise InputError(
            "A search runs the original on many inputs, and a trace or a recorded run holds one.",
            remedy="Give the checkpoint as SOURCE, without --reference-trace.",
        )


def search_port(
    original: Original,
    config: Any,
    module: Any,
    first: Comparison,
    inputs: Inputs,
    *,
    count: int,
    budget: float,
    failing: Callable[[Comparison], bool],
    on_stage: Callable[[str], None],
    examine: Callable[[Comparison, Trace, Trace], Comparison] = lambda comparison, _original, _port: (
        comparison
    ),
) -> SearchResult:
    """Try inputs chosen for this architecture, and shrink one that fails.

    Args:
        original: of the checkpoint; its process stays up.
        config: of the module, as the port knows it.
        module: the port, torch.nn.Module.
        first, inputs: the comparison made before, and what it was made on.
        count, budget, failing: see `porting.search.search`.
        on_stage: called with the progress, in words.
        examine: adds findings to a comparison of the original's trace and the port's.
    """
    from porting.capture import capture

    port = original.port
    taps = port.taps(config)

    def compare(ids: Inputs) -> Comparison:
        trace = original.run(ids)
        try:
            port_trace = capture(module, ids, taps, port.run)
        except Exception as error:
            raise PortRaised(f"the port raised {type(error).__name__}: {error}") from error
        return examine(compare_traces(trace, port_trace, first.atol), trace, port_trace)

    known = Failure("the first inputs", inputs, first) if failing(first) else None
    return search(
        compare,
        _candidates(port, config),
        count,
        failing=failing,
        known=known,
        fit=lambda ids: port.fit_inputs(config, ids),
        fields=port.input_fields,
        budget=budget,
        on_progress=on_stage,
    )


def _candidates(port: Port, config: Any) -> Iterator[tuple[str, Inputs]]:
    """What the port chose; else what hurts any text-to-text model; else its random inputs, in all sizes."""
    if port.revealing_inputs is not None:
        return port.revealing_inputs(config)
    vocab_size = getattr(config, "vocab_size", None)
    if isinstance(vocab_size, int) and port.input_fields == TEXT_TO_TEXT:
        return revealing_inputs(vocab_size)
    return _random_sizes(port, config)


def _random_sizes(port: Port, config: Any) -> Iterator[tuple[str, Inputs]]:
    for seed in counting():
        batch, length = 1 + seed % 3, LENGTHS[seed % len(LENGTHS)]
        inputs = port.random_inputs(config, batch, length, seed)
        yield inputs.origin, port.fit_inputs(config, inputs)
