"""What every kind of original has in common: a request comes in, a trace is left behind.

A port's reference.py makes a `Reference`, through the module of the framework that its original is written
in (`tf1_graph`, `pytorch`, `keras`, `flax`), and names it in `Port.reference`. The original is opened once
and kept for the next request; it answers with what its taps gave, and the trace is written here.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from porting.errors import Problem, ReferenceRunError
from porting.inputs import Inputs
from porting.references.gradient_trace import OriginalGradient, write_gradient_trace
from porting.references.original_tap import OriginalTap, written_masks
from porting.trace import TraceWriter, read_trace

# Of a request; all that it has besides says which model is meant.
_OF_A_RUN = ("inputs", "trace", "gradients", "metadata")


@dataclass(frozen=True)
class TapGradient:
    """The gradient for a tapped tensor, in the tensor's own shape; `values` are None where there is none."""

    tap: OriginalTap
    values: np.ndarray | None
    shape: Sequence[int]


@dataclass(frozen=True)
class VariableGradient:
    """The gradient for a variable, under the checkpoint's name; `values` are None where there is none."""

    name: str
    values: np.ndarray | None
    shape: Sequence[int]


@dataclass(frozen=True)
class Answer:
    """What an original computed from one set of inputs.

    Attributes:
        values: every tapped tensor, in the order in which they were computed.
        deterministic: whether a second run gave the same to the last bit.
        sizes: sizes of dimensions inside the groups of taps.
        absent: names of optional taps that this original lacks.
        gradients: in backward order; None where they were not asked for.
        masks: bool, by the names that taps' `where` have.
    """

    values: Sequence[tuple[OriginalTap, np.ndarray]]
    deterministic: bool
    sizes: Mapping[str, int] = field(default_factory=dict)
    absent: Sequence[str] = ()
    gradients: Sequence[TapGradient | VariableGradient] | None = None
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)


class OpenOriginal(Protocol):
    """An original with a checkpoint's weights in it."""

    def answer(self, inputs: Inputs, *, backward: bool) -> Answer:
        """Run it on the inputs, twice; with `backward` also take the gradients of the loss."""

    def facts(self) -> Mapping[str, Any]:
        """What a verdict rests on, for the trace's metadata: `implementation`, `versions`, ...

        Also `unheard`, names of the port's taps that this original cannot be heard at, and `left_out`, why
        masked positions mean nothing, in words.
        """


class Reference:
    """A port's original as the reference process calls it.

    The last model is kept: a request for the same one costs a run and no more.
    """

    def __init__(self, open_original: Callable[[Mapping[str, Any]], OpenOriginal]) -> None:
        """Nothing is opened yet.

        Args:
            open_original: brings up the framework, and opens the model that a request names.
        """
        self._open = open_original
        self._kept: tuple[str, OpenOriginal] | None = None

    def __call__(self, request: Mapping[str, Any]) -> None:
        """Run the original on a checkpoint and write a trace.

        Args:
            request: `checkpoint` (a path), `config` (config.json's contents), `inputs` (a directory with a
                trace's inputs), `trace` (where to write), `metadata` (to write along); and `gradients`, where
                to write a trace of those, if they are wanted. Whatever else there is goes to the port.

        Raises:
            ReferenceRunError: the original cannot be opened or run, or its taps do not fit it.
        """
        inputs = read_trace(request["inputs"]).inputs
        wanted = request.get("gradients")
        original = self._original({key: value for key, value in request.items() if key not in _OF_A_RUN})
        answer = original.answer(inputs, backward=wanted is not None)
        labelled = _labelled(answer)
        gradients = [_gradient(each, answer) for each in answer.gradients or ()]
        metadata = {
            **request["metadata"],
            "compute_dtype": "float32",
            **original.facts(),
            **({"absent": list(answer.absent)} if answer.absent else {}),
        }
        writer = TraceWriter(Path(request["trace"]), inputs)
        for (tap, _), (dims, array) in zip(answer.values, labelled, strict=True):
            writer.add(
                tap.name,
                array,
                dims,
                original_name=tap.original,
                hidden_below=tap.hidden_below,
                where=written_masks(writer, tap.where, answer.masks),
            )
        writer.close({**metadata, "deterministic": answer.deterministic})
        if wanted is not None:
            silent = [tap.name for tap, _ in answer.values if not tap.has_gradient]
            write_gradient_trace(
                Path(wanted),
                inputs,
                gradients,
                {**metadata, "unheard": [*metadata.get("unheard", ()), *silent]},
                deterministic=answer.deterministic,
                masks=answer.masks,
            )

    def _original(self, model: Mapping[str, Any]) -> OpenOriginal:
        identity = json.dumps(model, sort_keys=True)
        if self._kept is None or self._kept[0] != identity:
            self._kept = None  # frees the last one before the next is loaded
            self._kept = identity, self._open(model)
        return self._kept[1]


def _labelled(answer: Answer) -> list[tuple[tuple[str, ...], np.ndarray]]:
    """Every tensor with its dimensions' names; all that do not fit are named at once."""
    labelled, problems = [], []
    for tap, values in answer.values:
        try:
            labelled.append(tap.labelled(values, answer.sizes))
        except ValueError as error:
            found = str(error).removeprefix(f"{tap.name}: ")
            problems.append(
                Problem(tap.name, f"dims that fit {tap.original}", f"shape {values.shape}", found)
            )
    if problems:
        raise ReferenceRunError(
            f"{len(problems)} taps have other axes than the original's tensors.",
            problems=problems,
            remedy="Correct their dims (and sizes) in the port's reference.py.",
        )
    return labelled


def _gradient(each: TapGradient | VariableGradient, answer: Answer) -> OriginalGradient:
    reached = each.values is not None
    values = np.zeros(tuple(each.shape), np.float32) if each.values is None else np.asarray(each.values)
    if isinstance(each, VariableGradient):
        dims = tuple(f"axis_{i}" for i in range(values.ndim))
        return OriginalGradient(each.name, each.name, dims, values, is_variable=True, reached=reached)
    dims, values = each.tap.labelled(values, answer.sizes)
    return OriginalGradient(
        each.tap.name,
        each.tap.original,
        dims,
        values,
        is_variable=False,
        reached=reached,
        where=each.tap.where,
    )


def not_installed(error: ImportError, extra: str, remedy: str = "") -> ReferenceRunError:
    """What to do where the original, or what it runs on, cannot be imported."""
    return ReferenceRunError(
        f"The original implementation is not installed here ({error}).",
        remedy=remedy
        or f"Install it with: pip install 'porting[{extra}]'. Converting does not need it; comparing"
        " does, unless --reference-trace gives an earlier run.",
    )


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of installed packages by name, and Python's; what is not installed is left out."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "python": sys.version.split()[0]}


def same_values(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    """Whether two runs gave the same to the last bit, NaN included."""
    pairs = ((np.asarray(a), np.asarray(b)) for a, b in zip(one, other, strict=True))
    return all(np.array_equal(a, b, equal_nan=a.dtype.kind not in "biu") for a, b in pairs)
