"""A right model's own capture as the original's trace, and a faulty model held against it.

No original is run here: what matters is that the trace is right, and that it was rounded otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from porting.analysis.isolation import Originals
from porting.analysis.noise import TIMES, UNITS, floor_of, times_the_floor
from porting.analysis.passes import Analyser, Analysis, Arrays
from porting.capture import Run, capture
from porting.diagnose.engine import Candidate, diagnose, site_of
from porting.diagnose.lab import Lab, Variants
from porting.diagnose.site import Site
from porting.findings import Cause, Fault, TapFigures
from porting.inputs import Inputs
from porting.tap import Tap
from porting.trace import Trace, TraceWriter

HIDDEN = "batch length d_model"
UNIT = UNITS["float32"]
INPUTS = Inputs.from_arrays(
    {
        "inputs": [[5, 6, 7, 1, 4, 9], [8, 1, 3, 2, 2, 0], [10, 9, 8, 7, 1, 0]],
        "targets": [[9, 4, 1], [3, 1, 0], [2, 2, 1]],
    }
)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight"""

    def __init__(self, d_model: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.ones(d_model)), epsilon

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.epsilon) * self.weight


class Toy(nn.Module):
    """embed -> norm -> up -> act -> down, added to what was embedded -> added; logits and a loss of it."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.norm = RMSNorm(8)
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8, bias=False)
        self.act: nn.Module = nn.GELU(approximate="tanh")
        self.added = nn.Identity()
        randomise(self, seed)

    def combine(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.added(self.combine(x, self.down(self.act(self.up(self.norm(x))))))


TAPS = [
    Tap("embed", HIDDEN),
    Tap("norm", HIDDEN),
    Tap("up", "batch length (heads d_kv)", {"heads": 3}),
    Tap("act", "batch length d_ff"),
    Tap("down", HIDDEN),
    Tap("added", HIDDEN),
    Tap("logits", "batch length vocab"),
    Tap("loss", ""),
]


def run(model: Any, inputs: Inputs) -> Mapping[str, Tensor]:
    """The logits, of the embedding; and a number."""
    hidden = model(torch.from_numpy(inputs["inputs"]).long())
    logits = hidden @ model.embed.weight.T
    return {"logits": logits, "loss": logits.square().mean()}


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Every parameter random, vectors around one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.4 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise + 1.0 if parameter.ndim == 1 else noise)


@dataclass
class Bench:
    """A right model, and what is needed to hold others against it.

    Attributes:
        right: the model.
        taps, run, inputs: as in `capture`.
        candidates: the port's own.
        wide: the original's trace is computed in float64 and rounded, so that it is rounded otherwise.
    """

    right: nn.Module
    taps: Sequence[Tap] = field(default_factory=lambda: list(TAPS))
    run: Run = run
    inputs: Inputs = INPUTS
    candidates: Sequence[Candidate] = ()
    wide: bool = True

    def __post_init__(self) -> None:
        model = copy.deepcopy(self.right)
        found = capture(model.double() if self.wide else model, self.inputs, self.taps, self.run)
        self.reference = changed(found)

    def faulty(self, change: Callable[[Any], None]) -> nn.Module:
        """A copy of the right model, changed."""
        model = copy.deepcopy(self.right)
        with torch.no_grad():
            change(model)
        return model

    def analyser(self, model: nn.Module, **options: Any) -> Analyser:
        reference = options.pop("reference", self.reference)
        free = capture(model, self.inputs, self.taps, self.run)
        return Analyser(model, self.inputs, self.taps, self.run, reference, free, **options)

    def analyse(self, model: nn.Module, **options: Any) -> Analysis:
        return self.analyser(model, **options).analyse()

    def lab(self, model: nn.Module, *, checkpoint: bool = True, variants: Variants | None = None) -> Lab:
        """With a checkpoint, the right model's parameters are known."""
        right = {name: p.detach().clone() for name, p in self.right.named_parameters()}
        return Lab(
            model,
            self.inputs,
            self.taps,
            self.run,
            Originals(self.reference),
            right_weights=right.get if checkpoint else lambda _name: None,
            variants=variants or Variants(),
        )

    def faults(self, model: nn.Module, **options: Any) -> tuple[Fault, ...]:
        """What is wrong with a model, and why."""
        candidates = options.pop("candidates", self.candidates)
        return diagnose(self.lab(model, **options), self.analyse(model), {}, candidates)

    def cause(self, change: Callable[[Any], None], at: str, **options: Any) -> Cause:
        """Why the one fault that a change makes is one; it must be found at a tap, and explained."""
        found = self.faults(self.faulty(change), **options)
        assert [fault.name for fault in found] == [at], found
        assert found[0].cause is not None, found[0].tried
        return found[0].cause

    def explained(self, change: Callable[[Any], None], at: str, **options: Any) -> Fault:
        """The diagnosis at one tap alone, with half a unit for a floor: far quicker than `faults`."""
        lab = self.lab(self.faulty(change), **options)
        port, original = lab.replay(at), lab.original(at)
        assert port is not None and original is not None
        floor = floor_of([], original.numpy(), UNIT, lab.by_name[at].hidden_below)
        arrays = Arrays()
        arrays.put("isolated", at, port.numpy())
        arrays.put("floor", at, floor)
        times = times_the_floor(original.numpy(), port.numpy(), floor, lab.by_name[at].hidden_below)
        assert times > TIMES, "there is no fault"
        analysis = Analysis({at: TapFigures()}, (at,), TIMES, UNIT, arrays=arrays)
        (fault,) = diagnose(lab, analysis, {}, self.candidates)
        return fault

    def site(self, model: nn.Module, name: str, **options: Any) -> Site:
        """A tap as candidates see it."""
        return next(self.sites(model, [name], **options))

    def sites(self, model: nn.Module, names: Sequence[str], **options: Any) -> Iterator[Site]:
        """Several, of one analysis."""
        lab, analysis = self.lab(model, **options), self.analyse(model)
        recorded = lab.record(names)
        for name in names:
            yield site_of(lab, analysis, name, recorded[name])


def changed(
    trace: Trace, values: Mapping[str, np.ndarray] | None = None, dims: Mapping[str, str] | None = None
) -> Trace:
    """The same in float32, with other values or names of axes."""
    writer = TraceWriter(None, trace.inputs)
    for tensor, array in trace.items():
        array = np.asarray((values or {}).get(tensor.name, array), np.float32)
        names = tuple(dims[tensor.name].split()) if dims and tensor.name in dims else tensor.dims
        writer.add(tensor.name, array, names, hidden_below=tensor.hidden_below)
    return writer.close(trace.metadata)


def state_of(model: nn.Module) -> dict[str, Any]:
    """All that an analysis must leave as it was: compare two of these with `==`."""
    state: dict[str, Any] = {
        name: (p.data_ptr(), p.dtype, p.requires_grad, p.grad is None, p.detach().double().tolist())
        for name, p in model.named_parameters()
    }
    for name, module in model.named_modules():
        state[f"module {name}"] = (
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
        )
    return state
