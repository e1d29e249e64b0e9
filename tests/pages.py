"""Comparisons that have everything a page can show, made of a few small arrays."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from porting.compare import Comparison, compare_traces
from porting.findings import Cause, Fault, Findings, Remainder, TapFigures
from porting.generation.comparison import Flip, GenerationComparison, IncrementalComparison
from porting.generation.decoding import GenerationSettings
from porting.gradients.comparison import compare_gradients
from porting.inputs import Inputs
from porting.pictures import pictures_of
from porting.search.search import Failure, SearchResult, Shrunk
from tests.traces import T, TraceMaker

HIDDEN, PAIRS = "batch length d_model", "batch heads length memory_length"
HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=1">',
    "</title></style></script><h1 id='injected'>x",
    "{{name}} ${name} &lt;b&gt; \N{SNOWMAN} ' --> ]]>",
)
PROVENANCE = {
    "made": "2026-11-21T12:00:00+00:00",
    "command": "compare-outputs checkpoint model",
    "porting": "0.1.0",
    "reference": {"versions": {"tensorflow": "2.21.0"}, "config": {"d_model": 8}, "deterministic": True},
    "port": {"model": {"directory": "toy", "sha256": {"model.safetensors": "ab" * 32}}},
    "inputs": {
        "origin": "given",
        "shapes": {"inputs": [1, 2]},
        "ids": {"inputs": [[5, 1]], "targets": [[6, 1]]},
    },
}
TRANSPOSED = Cause("weight", "encoder.block.0.q.weight is transposed", "encoder.block.0.q.weight")


def tensors(offset: float = 0.0, names: tuple[str, ...] = ()) -> list[T]:
    """Two stacks, outputs, and any further names; `offset` is what goes wrong from block 1 on."""
    random = np.random.default_rng(7)
    hidden, pairs = (random.normal(size=size).astype(np.float32) for size in ((2, 6, 8), (2, 3, 6, 6)))
    made = [T("encoder.embed_tokens", hidden, HIDDEN)]
    for stack in ("encoder", "decoder"):
        for block in range(3):
            wrong = offset * 2.0**block if block else 0.0
            path = f"{stack}.block.{block}"
            made.append(T(f"{path}.layer.0.SelfAttention.weights", pairs + wrong * (pairs > 1), PAIRS))
            made.append(T(f"{path}.layer.1", hidden + wrong + 1e-6 * block, HIDDEN))
    made += [T(name, hidden, HIDDEN) for name in names]
    return [*made, T("logits", hidden + offset, "batch length vocab"), T("loss", 1.0 + offset, "")]


def buckets(_name: str, queries: int, memory: int) -> np.ndarray:
    """Five buckets: two far, one near on each side, and here."""
    return np.clip(np.arange(memory)[None, :] - np.arange(queries)[:, None], -2, 2) + 2


def match(traces: TraceMaker, names: tuple[str, ...] = ()) -> Comparison:
    """Everything agrees, and rounding explains the rest."""
    return _compared(traces, 0.0, names, ())


def diverged(traces: TraceMaker, names: tuple[str, ...] = ()) -> Comparison:
    """One fault with its cause, one without; gradients, generation and a search."""
    wrong = "encoder.block.1.layer.0.SelfAttention.weights"
    faults = (
        Fault(wrong, f"tf/{wrong}", 0.5, 1e5, TRANSPOSED, ("decoder.block.1.layer.1",), ("weight",)),
        Fault("logits", "tf/logits", 0.25, 64.0, None, (), ("scale", "sum")),
    )
    comparison = _compared(traces, 0.25, names, faults)
    return (
        comparison.with_generation(_generation())
        .with_search(_search(comparison))
        .with_backward(
            compare_gradients(traces(tensors(names=names), prefix="d/"), traces(tensors(0.25, names)))
        )
    )


def content(comparison: Comparison, **changes: Any) -> dict[str, Any]:
    """Its JSON, as a file would hold it."""
    paths = {kind: f"reports/toy.{kind}" for kind in ("html", "json")}
    return {**comparison.with_reports(paths).to_json(), **changes}


def _compared(
    traces: TraceMaker, offset: float, names: tuple[str, ...], faults: tuple[Fault, ...]
) -> Comparison:
    reference, port = traces(tensors(names=names), prefix="tf/"), traces(tensors(offset, names))
    comparison = compare_traces(reference, port, provenance=deepcopy(PROVENANCE))
    figures = {
        row.name: TapFigures(row.max_abs_diff / 4, row.max_abs_diff, 1e-7, 1e-6 * (i + 1), 2.5)
        for i, row in enumerate(comparison.tensors)
    }
    remainder = Remainder("logits", 1e-6, 0.5) if faults else None
    comparison = comparison.with_findings(Findings(figures, faults, 32.0, 2.0**-23, remainder))
    return comparison.with_pictures(pictures_of(comparison, reference, port, buckets))


def _generation() -> GenerationComparison:
    flip = Flip(0, 1, 4, 5, 1.0, 1.5, 1e-6, "the port prefers another token")
    settings = GenerationSettings("greedy", 4)
    return GenerationComparison(
        settings,
        ((3, 4, 1), (7, 1)),
        ((3, 5, 1), (7, 1)),
        (flip,),
        IncrementalComparison("match", steps=3, taps=9),
    )


def _search(comparison: Comparison) -> SearchResult:
    ids = Inputs.from_arrays({"inputs": [[5, 1]], "targets": [[6, 1]]})
    failure = Failure("bucket edges", ids, comparison)
    shrunk = Shrunk(failure, 12, "reports/toy_reproduce_test.py")
    return SearchResult(3, (failure,), shrunk, (("empty", "no tokens\nat all"),), "all tried", 300.0, 1.5)
