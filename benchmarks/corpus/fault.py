"""A fault of the corpus: what it breaks, where it must be found, and which cause is the right one.

Adding one is a function whose name says what it breaks, under a decorator that says the rest:

    @in_weights(f"{ENCODER_1}.q", "weight", "transposed")
    def encoder_q_transposed(state: State) -> None:
        ...

`in_weights` edits the state dict, `in_config` the content of config.json (the model is built again with the
same weights), `in_code` the live module.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.corpus.variants import Ported

State = dict[str, Tensor]
Content = dict[str, Any]
# One for all variants, or one for each.
Place = str | Mapping[str, str]

ENCODER_DECODER = (
    "t5.1.0",
    "t5.1.1",
    "bias of each layer",
    "grouped heads",
    "shared kv",
    "talking heads",
    "learned positions",
    "switch",
)
# What has T5's own attention, relative positions in both stacks, and k and v apart.
T5_LIKE = ("t5.1.0", "t5.1.1")


@dataclass(frozen=True)
class Fault:
    """One mistake.

    Attributes:
        name: what it breaks.
        family: "weights", "config" or "code".
        at: the first tap that it touches.
        also: pattern of the names of further taps that it touches.
        kinds: kinds of causes that are right.
        word: must be in the cause's text or subject.
        variants: names of those that it applies to.
        inputs: name of the ids that show it.
        apply: makes it, in what its family says.
    """

    name: str
    family: str
    at: Place
    also: str
    kinds: tuple[str, ...]
    word: str
    variants: tuple[str, ...]
    inputs: str
    apply: Callable[[Any], None]

    def where(self, variant: str) -> str:
        """The tap at which it must be located."""
        return self.at if isinstance(self.at, str) else self.at[variant]

    def touches(self, variant: str, tap: str) -> bool:
        """Whether a tap may be wrong by itself."""
        return tap == self.where(variant) or bool(self.also and re.fullmatch(self.also, tap))


FAULTS: dict[str, Fault] = {}


def _decorator(
    family: str,
) -> Callable[..., Callable[[Callable[[Any], None]], Callable[[Any], None]]]:
    def with_facts(
        at: Place,
        kinds: str,
        word: str = "",
        *,
        variants: Sequence[str] = T5_LIKE,
        also: str = "",
        inputs: str = "standard",
    ) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
        def register(apply: Callable[[Any], None]) -> Callable[[Any], None]:
            name = apply.__name__
            assert name not in FAULTS, f"two faults are called {name}"
            of = tuple(at) if not isinstance(at, str) else tuple(variants)
            FAULTS[name] = Fault(name, family, at, also, tuple(kinds.split()), word, of, inputs, apply)
            return apply

        return register

    return with_facts


in_weights, in_config, in_code = (_decorator(family) for family in ("weights", "config", "code"))


def broken(ported: Ported, faults: Sequence[Fault]) -> nn.Module:
    """A new model with these faults."""
    model = ported.model()
    in_content = [fault for fault in faults if fault.family == "config"]
    if in_content:
        content = dict(ported.port_and_config[1])
        for fault in in_content:
            fault.apply(content)
        model = ported.model_with(content)
    for fault in faults:
        if fault.family == "weights":
            _edit(model, fault)
    with torch.no_grad():
        for fault in faults:
            if fault.family == "code":
                fault.apply(model)
    return model.eval()


def _edit(model: nn.Module, fault: Fault) -> None:
    """A parameter that has two names is edited under either."""
    held = model.state_dict()
    state = {name: value.clone() for name, value in held.items()}
    fault.apply(state)
    names: dict[int, str] = {}
    for name, value in held.items():
        first = names.setdefault(value.data_ptr(), name)
        state[name] = state[first]
    model.load_state_dict(state)
