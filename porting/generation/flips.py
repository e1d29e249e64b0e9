"""Let the port generate, find where it leaves the original, and judge whether that is its fault.

Where the two part, the port itself is asked how sure it is: fed the original's tokens, all at once and
without its cache, by how much does it prefer one side's choice over the other's? If rounding moves that
margin across zero, the flip is a tie, and no fault of the port.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from porting.errors import InputError, PortingError
from porting.generation.comparison import NOT_COMPARED, Flip, GenerationComparison, IncrementalComparison
from porting.generation.decoding import BEAM, GREEDY, Decoding, GenerationSettings, Sequences, kept_decoding
from porting.inputs import Inputs
from porting.port import Port

if TYPE_CHECKING:
    import torch

# Two of the port, and two of the original, which rounds as much.
_LOGITS_IN_A_MARGIN = 4


def decoding_of(port: Port) -> Decoding:
    """What the port gives for generation. Raises InputError if it gives nothing."""
    if port.decoding is None:
        raise InputError(f"The port {port.name} does not say how it generates; leave out --generate.")
    return port.decoding


def check_generates(module: object) -> None:
    """Raise InputError unless a module has a `generate` to compare."""
    if not callable(getattr(module, "generate", None)):
        raise InputError(
            f"{type(module).__name__} has no generate, so that its generation cannot be compared.",
            remedy="Give it generate(input_ids, max_new_tokens=..., num_beams=...), which returns ids"
            " [batch, 1 + length] that begin with the start token; or compare without generating.",
        )


def compare_generation(
    port: Port,
    module: torch.nn.Module,
    config: Any,
    inputs: Inputs,
    settings: GenerationSettings,
    reference: Sequences,
) -> GenerationComparison:
    """Let the port generate, find where it leaves the original, and hold its cache against its full path.

    Args:
        port: of the architecture.
        module: in eval mode, run as it is.
        config: the port's own config of the module.
        inputs: what the original decoded from.
        settings: how it decoded.
        reference: what it said.

    Raises:
        InputError: the port has no generation, or it failed.
    """
    from porting.generation.incremental import compare_incremental

    decoding = decoding_of(port)
    check_generates(module)
    said = _generate(decoding, module, inputs, settings)
    flips = list(_first_flips(reference, said))
    incomparable = decoding.incomparable(config)
    if incomparable:
        incremental = IncrementalComparison(NOT_COMPARED, note=incomparable)
        flips = [replace(flip, note=f"not judged: {incomparable}") for flip in flips]
    else:
        greedily = replace(settings, method=GREEDY, num_beams=1)
        incremental = compare_incremental(
            module,
            decoding.taps(config),
            lambda model: _generate(decoding, model, inputs, greedily),
            lambda model, sequences: _forced(decoding, model, inputs, sequences),
        )
        judge = _judge_beams if settings.method == BEAM else _judge_greedy
        flips = judge(decoding, module, inputs, flips, reference, said) if flips else flips
    return GenerationComparison(settings, reference, said, tuple(flips), incremental)


def compare_kept_generation(
    port: Port,
    module: torch.nn.Module,
    config: Any,
    inputs: Inputs,
    metadata: Mapping[str, Any],
    asked: tuple[str, int | None, int | None],
) -> GenerationComparison:
    """`compare_generation` with what a reference trace's metadata keeps.

    Args:
        port, module, config, inputs: as there.
        metadata: of the reference trace.
        asked: method, max_new_tokens and num_beams as they were given; the trace must agree.
    """
    settings, reference = kept_decoding(metadata, *asked)
    return compare_generation(port, module, config, inputs, settings, reference)


def _generate(
    decoding: Decoding, module: torch.nn.Module, inputs: Inputs, settings: GenerationSettings
) -> Sequences:
    try:
        said = decoding.generate(module, inputs, settings)
    except PortingError:
        raise
    except Exception as error:  # whatever a module under development raises is about that module
        raise InputError(
            f"The port's generate failed ({settings}): {type(error).__name__}: {error}",
            remedy="It is called as generate(input_ids, max_new_tokens=..., num_beams=...).",
        ) from error
    if len(said) != inputs.batch:
        raise InputError(f"The port generated {len(said)} sequences from {inputs.batch} inputs.")
    return said


def _forced(
    decoding: Decoding, module: torch.nn.Module, inputs: Inputs, sequences: Sequences
) -> torch.Tensor:
    try:
        return decoding.forced(module, inputs, sequences)
    except Exception as error:
        raise InputError(
            f"The port failed when fed what was generated: {type(error).__name__}: {error}"
        ) from error


def _first_flips(reference: Sequences, port: Sequences) -> Iterator[Flip]:
    for row, (theirs, ours) in enumerate(zip(reference, port, strict=True)):
        for step, (expected, found) in enumerate(zip_longest(theirs, ours)):
            if expected != found:
                yield Flip(row, step, expected, found)
                break


def _judge_greedy(
    decoding: Decoding,
    module: torch.nn.Module,
    inputs: Inputs,
    flips: list[Flip],
    reference: Sequences,
    port: Sequences,
) -> list[Flip]:
    """Logits of both tokens after the original's prefix. Behind a tie, the rest of the row is judged too."""
    from porting.analysis.rounding import rounding_noise

    del port
    logits, noise = rounding_noise(module, lambda model: _forced(decoding, model, inputs, reference))

    def judged(flip: Flip, note: str = "") -> Flip:
        if flip.reference_token is None or flip.port_token is None:
            return replace(flip, note="one side goes on where the other has ended: how ends are handled")
        here = logits[flip.row, flip.step]
        flip = replace(
            flip,
            reference_score=float(here[flip.reference_token]),
            port_score=float(here[flip.port_token]),
            noise_floor=_LOGITS_IN_A_MARGIN * float(noise[flip.row, flip.step]),
        )
        return replace(flip, note=note or _meaning(flip, "at what it does with the logits"))

    found = []
    for flip in flips:
        found.append(judged(flip))
        if not found[-1].below_noise:
            continue
        choices = logits[flip.row].argmax(-1)
        for step in range(flip.step + 1, len(reference[flip.row])):
            again = Flip(flip.row, step, reference[flip.row][step], int(choices[step]))
            if again.reference_token != again.port_token:
                again = judged(again, "behind a tie: what the port says after the original's tokens")
                found.append(again)
                if not again.below_noise:
                    break
    return found


def _judge_beams(
    decoding: Decoding,
    module: torch.nn.Module,
    inputs: Inputs,
    flips: list[Flip],
    reference: Sequences,
    port: Sequences,
) -> list[Flip]:
    """Length-penalised log-probabilities of both whole sequences."""
    from porting.analysis.rounding import rounding_noise

    (theirs, their_noise), (ours, our_noise) = (
        rounding_noise(module, lambda model, said=said: _forced(decoding, model, inputs, said))  # type: ignore[misc]
        for said in (reference, port)
    )
    found = []
    for flip in flips:
        row = flip.row
        said = reference[row], port[row]
        ended = [decoding.end_id in tokens for tokens in said]
        if ended[0] != ended[1]:
            note = "one side ended its sequence, the other found none that ends"
            found.append(replace(flip, note=note))
            continue
        scores, floor = [], 0.0
        for tokens, logits, noise in zip(
            said, (theirs[row], ours[row]), (their_noise[row], our_noise[row]), strict=True
        ):
            log_probs = logits[: len(tokens)].log_softmax(-1)
            chosen = log_probs.gather(-1, log_probs.new_tensor(tokens).long()[:, None])
            penalty = decoding.length_penalty(len(tokens))
            scores.append(float(chosen.sum()) / penalty)
            # A log-probability moves at most by what its logit and the largest of the others move.
            floor += _LOGITS_IN_A_MARGIN * float(noise[: len(tokens)].sum()) / penalty
        flip = replace(flip, reference_score=scores[0], port_score=scores[1], noise_floor=floor)
        found.append(replace(flip, note=_meaning(flip, "at its search")))
    return found


def _meaning(flip: Flip, where: str) -> str:
    if flip.below_noise:
        return "a tie: rounding decides"
    if flip.margin is not None and flip.margin < 0:
        return f"all at once the port prefers the original's choice: look at its cache, and {where}"
    return "all at once the port prefers its own choice too: look at its tensors and its scores"
