"""What `--generate` asks for, and what an architecture must give so that generation can be compared."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from porting.errors import InputError, Problem, ReferenceRunError
from porting.references.process import run_in_process
from porting.tap import Tap
from porting.trace import TraceWriter

if TYPE_CHECKING:
    import torch

    from porting.inputs import Inputs

GREEDY, BEAM = "greedy", "beam"
METHODS = (GREEDY, BEAM)
DEFAULT_MAX_NEW_TOKENS = 32
DEFAULT_NUM_BEAMS = 4

Sequences = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class GenerationSettings:
    """How both sides decode.

    Attributes:
        method: "greedy" or "beam".
        max_new_tokens: how many tokens at most, the one that ends a sequence included.
        num_beams: 1 for greedy decoding.
    """

    method: str
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    num_beams: int = 1

    @classmethod
    def asked(
        cls, method: str | None, max_new_tokens: int | None = None, num_beams: int | None = None
    ) -> GenerationSettings | None:
        """From options as they were given, defaults filled in; None where nothing is to be generated.

        Raises:
            InputError: options that do not fit each other or are out of range.
        """
        problems = _problems(method, max_new_tokens, num_beams)
        if problems:
            raise InputError("These options of generation cannot be used.", problems=problems)
        if method is None:
            return None
        beams = 1 if method == GREEDY else num_beams or DEFAULT_NUM_BEAMS
        return cls(method, max_new_tokens or DEFAULT_MAX_NEW_TOKENS, beams)

    def to_json(self) -> dict[str, Any]:
        """`method`, `max_new_tokens` and `num_beams`."""
        return asdict(self)

    def __str__(self) -> str:
        beams = f", {self.num_beams} beams" if self.method == BEAM else ""
        return f"{self.method}{beams}, at most {self.max_new_tokens} tokens"


def _problems(method: str | None, max_new_tokens: int | None, num_beams: int | None) -> list[Problem]:
    problems = []
    given = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    if method is None:
        return [
            Problem(name, "a method: greedy or beam", "none") for name, v in given.items() if v is not None
        ]
    if method not in METHODS:
        problems.append(Problem("generate", "greedy or beam", repr(method)))
    if max_new_tokens is not None and max_new_tokens < 1:
        problems.append(Problem("max_new_tokens", "at least 1", f"{max_new_tokens}"))
    if method == GREEDY and num_beams not in (None, 1):
        problems.append(Problem("num_beams", "none with greedy", f"{num_beams}", "for beams: generate beam"))
    if method == BEAM and num_beams is not None and num_beams < 2:
        problems.append(Problem("num_beams", "at least 2", f"{num_beams}", "for one: generate greedy"))
    return problems


@dataclass(frozen=True)
class Decoding:
    """How an architecture decodes; `Port.decoding`. Sequences are new tokens only, up to and with their end.

    Attributes:
        reference: "module:function" that lets the original decode in the reference process. Its request has
            `checkpoint`, `gin` and `config` as `Port.reference` has them, `inputs` (a directory with a
            trace's inputs), `generation` (settings, as JSON) and `output`: the file in which it leaves the
            sequences, as a JSON list of lists of ids.
        check: raises InputError if the original cannot decode so from these inputs.
        generate: the module's own generation. What it says after an end is kept, so that it is seen.
        forced: logits [batch, steps, vocab] of all steps at once, without a cache: the module is fed the
            inputs and these sequences; a shorter one goes on with padding, which counts as real.
        taps: where decoding is listened to. In their dims, `length` are the positions of the queries,
            `memory_length` those that the decoder attends to in itself; whatever is fixed while decoding
            (what is seen of an encoder) has other names.
        length_penalty: what the log-probability of a sequence of so many tokens is divided by in beam search.
        end_id: the id that ends a sequence.
        incomparable: why a model of this config computes something else step by step than at once, so that
            the two cannot be compared; "" where they can.
    """

    reference: str
    check: Callable[[Any, Inputs, GenerationSettings], None]
    generate: Callable[[torch.nn.Module, Inputs, GenerationSettings], Sequences]
    forced: Callable[[torch.nn.Module, Inputs, Sequences], torch.Tensor]
    taps: Callable[[Any], Sequence[Tap]]
    length_penalty: Callable[[int], float]
    end_id: int
    incomparable: Callable[[Any], str]


def decode_with_reference(
    decoding: Decoding,
    settings: GenerationSettings,
    inputs: Inputs,
    model: Mapping[str, Any],
    python: str | None = None,
) -> dict[str, Any]:
    """Let the original decode, in a process of its own.

    Args:
        decoding: of the port.
        settings: how.
        inputs: from what.
        model: `checkpoint`, `gin` and `config`, as in the request of `Port.reference`.
        python: as in `ReferenceProcess`.

    Returns:
        The settings and `sequences`, as a reference trace's metadata keep them under "generation".

    Raises:
        ReferenceRunError: the original cannot decode here, or failed.
    """
    with tempfile.TemporaryDirectory(prefix="porting-decode-") as folder:
        TraceWriter(Path(folder) / "inputs", inputs).close({})
        output = Path(folder) / "sequences.json"
        request = {"inputs": str(Path(folder) / "inputs"), "output": str(output)}
        whole = {**model, **request, "generation": settings.to_json()}
        run_in_process(decoding.reference, whole, python=python)
        sequences = json.loads(output.read_text(encoding="utf-8"))
    if len(sequences) != inputs.batch:
        raise ReferenceRunError(
            f"The original decoded {len(sequences)} sequences from {inputs.batch} inputs."
        )
    return {**settings.to_json(), "sequences": sequences}


def kept_decoding(
    metadata: Mapping[str, Any], method: str, max_new_tokens: int | None, num_beams: int | None
) -> tuple[GenerationSettings, Sequences]:
    """What the original said when a reference trace was made, and how. Options left open are the trace's.

    Raises:
        InputError: the trace was made without it, or with other settings.
    """
    again = "Make the trace again: compare-outputs SOURCE MODEL_DIR --generate ... --save-traces DIR."
    kept = metadata.get("generation")
    if kept is None:
        raise InputError("The reference trace does not hold what the original generates.", remedy=again)
    try:
        settings = GenerationSettings(
            str(kept["method"]), int(kept["max_new_tokens"]), int(kept["num_beams"])
        )
        sequences = tuple(tuple(int(token) for token in row) for row in kept["sequences"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"What the reference trace says of generation cannot be read: {error!r}.") from error
    asked = {"generate": method, "max_new_tokens": max_new_tokens, "num_beams": num_beams}
    found = {"generate": settings.method, **settings.to_json()}
    problems = [
        Problem(name, f"{found[name]}, as in the trace", f"{value}")
        for name, value in asked.items()
        if value is not None and value != found[name]
    ]
    if problems:
        raise InputError("The reference trace was generated otherwise.", problems=problems, remedy=again)
    return settings, sequences
