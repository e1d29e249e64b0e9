"""How T5 generates, as `--generate` needs to know it: `decode.py` lets the original decode, this the port."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from porting.errors import InputError, Problem
from porting.generation.decoding import BEAM, Decoding, GenerationSettings, Sequences
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.config import Config
from porting.ports.t5.layer_specs import MixtureSpec, reads_memory
from porting.ports.t5.taps import taps
from porting.tap import Tap

if TYPE_CHECKING:
    import torch

    from porting.inputs import Inputs

PAD_ID = 0
EOS_ID = 1
START_ID = 0
LENGTH_PENALTY = 0.6  # alpha, where Mesh's `Bitransformer.decode` is not told otherwise


def check(config: Config, inputs: Inputs, settings: GenerationSettings) -> None:
    """Raise InputError for what Mesh's decoders do not run, and for ids they would not understand."""
    architecture = config.architecture
    problems = []
    if architecture.decoder is None:
        problems.append(Problem("model", "a decoder", "an aligned model, which does not generate"))
    if settings.method == BEAM:
        for reason in _no_beams(architecture):
            problems.append(Problem("generate", "greedy", BEAM, reason))
    dynamic = {name for spec in _specs(architecture) for name in getattr(spec, "dynamic_projections", ())}
    if any(name.startswith("m") for name in dynamic):
        found = "projections of talking heads computed from the memory"
        problems.append(Problem("model", "one that decodes step by step", found, "Mesh's does not either"))
    if inputs.get("sequence_ids") is not None:
        problems.append(Problem("sequence_ids", "none: packed examples are not decoded", "some"))
    problems += _bad_beginnings(architecture, inputs, settings)
    if problems:
        raise InputError(f"This cannot be generated ({settings}).", problems=problems)


def _no_beams(architecture: Architecture) -> list[str]:
    reasons = {
        "a language model decodes greedily in Mesh": not architecture.is_encoder_decoder,
        "Mesh's beam search does not run with mixtures of experts": _has_experts(architecture),
        "Mesh's beam search does not run with relative positions towards the encoder": (
            architecture.needs_sentinels
        ),
    }
    return [reason for reason, holds in reasons.items() if holds]


def _bad_beginnings(
    architecture: Architecture, inputs: Inputs, settings: GenerationSettings
) -> list[Problem]:
    """Positions beyond the decoder's table; of a language model, beginnings that do not read on end."""
    problems = []
    positions = settings.max_new_tokens
    if not architecture.is_encoder_decoder:
        positions += inputs["inputs"].shape[1]
        after_padding = (inputs["inputs"][:, 1:-1] == PAD_ID) & (inputs["inputs"][:, 2:] != PAD_ID)
        if (inputs["inputs"][:, 0] != START_ID).any() or after_padding.any():
            expected = "the start token 0, then tokens, then padding"
            problems.append(Problem("inputs", expected, "another first id, or padding inside"))
    stack = architecture.decoder
    if stack is not None and stack.positions and positions > stack.max_length:
        expected = f"at most {stack.max_length} positions to decode"
        problems.append(Problem("max_new_tokens", expected, f"{positions}"))
    return problems


def incomparable(config: Config) -> str:
    """Why decoding step by step is something else than one run over all positions; "" where it is not."""
    architecture = config.architecture
    if _has_experts(architecture):
        return "experts take as many tokens as are routed together, which are other ones step by step"
    if architecture.needs_sentinels:
        return "while decoding, relative positions towards the encoder count from its beginning"
    return ""


def decoder_taps(config: Config) -> list[Tap]:
    """The decoder's taps. What is seen of the encoder lies along `encoder_length`, which never grows."""
    architecture = config.architecture
    stack = architecture.decoder
    if stack is None:
        return []
    towards_encoder = tuple(
        f"decoder.{place.path}.{architecture.module_name(place.spec)}."
        for place in stack.places
        if reads_memory(place.spec)
    )
    return [
        replace(tap, dims=tap.dims.replace("memory_length", "encoder_length"))
        if tap.name.startswith(towards_encoder)
        else tap
        for tap in taps(config)
        if tap.name == "decoder" or tap.name.startswith("decoder.")
    ]


def generate(module: torch.nn.Module, inputs: Inputs, settings: GenerationSettings) -> Sequences:
    """What a T5 says, ours or any whose `generate` returns ids as transformers lays them out.

    Raises:
        InputError: what it returns are not ids [batch, length] that begin with the start token.
    """
    ids = _tensor(inputs["inputs"], module)
    result: Any = module.generate(  # type: ignore[operator]
        ids, max_new_tokens=settings.max_new_tokens, num_beams=settings.num_beams
    )
    found = np.asarray(result.cpu()) if hasattr(result, "cpu") else np.asarray(result)
    laid_out = found.dtype.kind in "iu" and found.ndim == 2 and len(found) == inputs.batch
    if not laid_out or (found[:, :1] != START_ID).any():
        raise InputError(
            "The port's generate does not return ids [batch, 1 + length] that begin with the start token 0,"
            f" but {found.dtype} {list(found.shape)}: {str(found.tolist())[:60]}."
        )
    begins = _beginnings(module, inputs)
    rows = (row[begin:].tolist() for row, begin in zip(found, begins, strict=True))
    return tuple(_without_padding(row, settings.max_new_tokens) for row in rows)


def _without_padding(row: list[int], max_new_tokens: int) -> tuple[int, ...]:
    """Without the padding behind an end; whatever else stands there stays, and is seen.

    Without an end, zeros are tokens that were said: a batch in which the last ones of all rows are zeros may
    have been cut there.
    """
    own = row.index(EOS_ID) + 1 if EOS_ID in row else max_new_tokens
    behind = row[own:]
    while behind and behind[-1] == PAD_ID:
        behind.pop()
    return (*row[:own], *[PAD_ID] * (own - len(row)), *behind)


def said_by_reference(row: list[int], begin: int, max_new_tokens: int) -> list[int]:
    """What Mesh says from `begin` on: it goes on behind a row's end until all rows have ended."""
    new = row[begin : begin + max_new_tokens]
    return new[: new.index(EOS_ID) + 1] if EOS_ID in new else new


def forced(module: torch.nn.Module, inputs: Inputs, sequences: Sequences) -> torch.Tensor:
    """Logits [batch, steps, vocab] of every step, computed at once; no position that is fed is padding."""
    import torch
    import torch.nn.functional as F

    steps = max(map(len, sequences))
    said = torch.tensor([[*row, *[PAD_ID] * (steps - len(row))] for row in sequences])
    ids = _tensor(inputs["inputs"], module)
    said = said.to(ids.device)
    if not _continues(module):
        read = F.pad(said, (1, -1), value=START_ID)
        logits: torch.Tensor = module(
            input_ids=ids,
            attention_mask=(ids != PAD_ID).long(),
            decoder_input_ids=read,
            decoder_attention_mask=torch.ones_like(read),
        ).logits
        return logits
    model: Any = module  # a language model is ours: transformers has none of Mesh's
    begins = torch.tensor(_beginnings(module, inputs), device=ids.device)[:, None]
    places = begins + torch.arange(steps, device=ids.device)
    read = F.pad(ids, (0, steps)).scatter(1, places, said)
    positions = torch.arange(read.shape[1], device=ids.device)
    full = model.architecture.decoder.input_full_attention
    hidden = model.decoder(model.embed(read), None, inputs_part=positions < begins if full else None)
    new = hidden.gather(1, (places - 1)[..., None].expand(-1, -1, hidden.shape[-1]))
    projected: torch.Tensor = model.project(new)
    return projected


def length_penalty(length: int) -> float:
    """((5 + length) / 6)**0.6: arXiv 1609.08144, equation 14, as in Mesh's beam_search.py."""
    return float(((5.0 + length) / 6.0) ** LENGTH_PENALTY)


def _continues(module: torch.nn.Module) -> bool:
    """Whether this is a language model, which goes on from what it is given."""
    architecture = getattr(module, "architecture", None)
    return isinstance(architecture, Architecture) and not architecture.is_encoder_decoder


def _beginnings(module: torch.nn.Module, inputs: Inputs) -> list[int]:
    """How many ids stand before the first new one: the start token, and what a language model was given."""
    if not _continues(module):
        return [1] * inputs.batch
    return [1 + given for given in given_tokens(inputs)]


def given_tokens(inputs: Inputs) -> list[int]:
    """How many tokens each row of a language model's inputs holds, the start token not counted."""
    return [int(count) for count in (inputs["inputs"][:, 1:] != PAD_ID).sum(1)]


def _specs(architecture: Architecture) -> list[Any]:
    return [spec for stack in architecture.stacks.values() for spec in stack.layers]


def _has_experts(architecture: Architecture) -> bool:
    return any(isinstance(spec, MixtureSpec) for spec in _specs(architecture))


def _tensor(array: np.ndarray, module: torch.nn.Module) -> torch.Tensor:
    import torch

    return torch.from_numpy(array.astype("int64")).to(next(module.parameters()).device)


DECODING = Decoding(
    reference="porting.ports.t5.decode:run_for_comparison",
    check=check,
    generate=generate,
    forced=forced,
    taps=decoder_taps,
    length_penalty=length_penalty,
    end_id=EOS_ID,
    incomparable=incomparable,
)
