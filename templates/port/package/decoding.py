"""How the port and the original generate. Where nothing is generated: delete this, say so in port.toml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from porting.generation.decoding import Decoding, GenerationSettings, Sequences
from porting.scaffold import UnfinishedError
from porting.tap import Tap

from .config import Config

if TYPE_CHECKING:
    import torch

    from porting.inputs import Inputs


def run_reference(request: Mapping[str, Any]) -> None:
    """Let the original decode, in the reference process; `Decoding.reference` says what a request has."""
    raise UnfinishedError(
        "Let the original's own decoder go on from the inputs, and write what it says to"
        " request['output']: a JSON list of lists of new ids, each up to and with its end."
    )


def check(config: Config, inputs: Inputs, settings: GenerationSettings) -> None:
    """Raise InputError if the original cannot decode so from these inputs."""
    raise UnfinishedError("Raise InputError for what the original's decoder does not run (beams, lengths).")


def generate(module: torch.nn.Module, inputs: Inputs, settings: GenerationSettings) -> Sequences:
    """New ids that the port says, each sequence up to and with its end."""
    raise UnfinishedError("Call module.generate, and return tuples of new ids.")


def forced(module: torch.nn.Module, inputs: Inputs, sequences: Sequences) -> torch.Tensor:
    """Logits [batch, steps, vocab] of all steps at once, without a cache."""
    raise UnfinishedError(
        "Run the module on the inputs with these sequences behind them, and return the logits."
    )


def taps(config: Config) -> Sequence[Tap]:
    """Where decoding is listened to: taps whose dims name `length` and `memory_length`."""
    raise UnfinishedError("Return the taps of what is called at every step.")


def length_penalty(length: int) -> float:
    """What the log-probability of a sequence is divided by in beam search."""
    raise UnfinishedError(
        "Return the original's length penalty, and name its source; 1.0 where there is none."
    )


DECODING = Decoding(
    reference=f"{__name__}:run_reference",
    check=check,
    generate=generate,
    forced=forced,
    taps=taps,
    length_penalty=length_penalty,
    end_id=1,
    incomparable=lambda _config: "",
)
