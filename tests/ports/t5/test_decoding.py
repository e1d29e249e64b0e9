"""What `--generate` knows of T5: which inputs, what a port says, and its two paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from porting.errors import InputError
from porting.generation.comparison import IncrementalComparison
from porting.generation.decoding import GenerationSettings
from porting.generation.incremental import compare_incremental
from porting.inputs import Inputs
from porting.ports.t5 import cache, decoding
from porting.ports.t5.decoding import DECODING
from porting.ports.t5.model import T5Model
from porting.ports.t5.positions import AddPositions
from porting.ports.t5.stack import T5Stack
from porting.ports.t5.taps import taps
from tests.ports.t5.conftest import MakeModel
from tests.ports.t5.family import (
    ALIGNED,
    FAMILY,
    LANGUAGE_MODEL,
    LEARNED,
    MIXTURE,
    OWN,
    PREFIX,
    SPANS,
    two_stacks,
)
from tests.ports.t5.mesh_variables import SMALL, V1_1

STEPS = 9
GREEDY = GenerationSettings("greedy", STEPS)
BEAM = GenerationSettings("beam", STEPS, 3)
INPUTS = Inputs.from_arrays(
    {"inputs": [[5, 6, 7, 8, 1], [9, 11, 0, 0, 0], [12, 13, 14, 0, 0]], "targets": [[9, 1], [3, 1], [4, 1]]}
)
BEGINNINGS = INPUTS.having(inputs=np.pad(INPUTS["inputs"], ((0, 0), (1, 0)))[:, :-1])
CACHED = {
    name: architecture
    for name, architecture in {"t5.1.0": SMALL, "t5.1.1": V1_1, **FAMILY}.items()
    if name
    not in ("aligned", "experts", "spans", "dynamic talking heads", "language model", "prefix language model")
}


def incremental(model: T5Model, inputs: Inputs = INPUTS) -> IncrementalComparison:
    return compare_incremental(
        model,
        DECODING.taps(model.config),
        lambda module: DECODING.generate(module, inputs, GREEDY),
        lambda module, said: DECODING.forced(module, inputs, said),
    )


@pytest.mark.parametrize("name", CACHED)
def test_the_cached_path_is_the_full_path_at_every_tap(name: str, make_model: MakeModel) -> None:
    config = CACHED[name]
    found = incremental(make_model(config))
    assert found.status == "match", found.first_divergence
    decoder = [tap for tap in taps(config) if tap.name.startswith("decoder")]
    never_called = [tap for tap in decoder if "EncDecAttention.position_bias" in tap.name]
    assert found.taps == len(decoder) - len(never_called) > 20
    assert found.steps == STEPS
    assert found.largest and 0 < found.largest.max_rel_diff < 2e-5


def test_what_is_seen_of_the_encoder_does_not_grow() -> None:
    dims = {tap.name: tap.dims for tap in DECODING.taps(SMALL)}
    assert dims["decoder.block.0.layer.0.SelfAttention.scores"] == "batch heads length memory_length"
    assert dims["decoder.block.0.layer.1.EncDecAttention.scores"] == "batch heads length encoder_length"
    assert dims["decoder.block.0.layer.1.EncDecAttention.k"] == "batch encoder_length (heads d_kv)"
    assert not any(name.startswith("encoder") for name in dims)


Patch = Callable[[pytest.MonkeyPatch], None]


def forgotten_values(patch: pytest.MonkeyPatch) -> None:
    """Keys are kept, values are those of the newest position."""
    right = cache.AttentionCache.append

    def append(self: cache.AttentionCache, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        keys, _ = right(self, keys, values)
        return keys, values.expand_as(keys)

    patch.setattr(cache.AttentionCache, "append", append)


def positions_that_stand_still(patch: pytest.MonkeyPatch) -> None:
    right = AddPositions.forward
    patch.setattr(AddPositions, "forward", lambda self, x, offset=0: right(self, x, offset and offset - 1))


def memory_of_the_first_row(patch: pytest.MonkeyPatch) -> None:
    """From the second step on every row attends to the first row's input."""
    right = cache.AttentionCache.fill_once

    def fill_once(self: cache.AttentionCache, compute: Callable[[], Any]) -> tuple[Tensor, Tensor]:
        first = self.keys is None
        keys, values = right(self, compute)
        return (keys, values) if first else (keys[:1].expand_as(keys), values)

    patch.setattr(cache.AttentionCache, "fill_once", fill_once)


def past_that_is_not_counted(patch: pytest.MonkeyPatch) -> None:
    """The keys' positions begin one too late in the second step and after: an offset off by one."""
    right = T5Stack._context

    def context(self: T5Stack, *args: Any) -> Any:
        found = right(self, *args)
        if found.caches and found.relative_position.shape[1] > 1:
            found.relative_position = found.relative_position + 1
        return found

    patch.setattr(T5Stack, "_context", context)


BLOCK = "decoder.block.0.layer"
FAULTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[Any, str, int]] = {
    forgotten_values: (SMALL, f"{BLOCK}.0.SelfAttention.attended", 1),
    positions_that_stand_still: (LEARNED, "decoder.embed_positions", 1),
    memory_of_the_first_row: (SMALL, f"{BLOCK}.1.EncDecAttention.scores", 1),
    past_that_is_not_counted: (SMALL, f"{BLOCK}.0.SelfAttention.position_bias", 1),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_the_cache_is_found_where_it_is(
    fault: Patch, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, name, step = FAULTS[fault]
    model = make_model(config)
    fault(monkeypatch)
    found = incremental(model)
    first = found.first_divergence
    assert found.status == "diverged"
    assert first and (first.name, first.step) == (name, step)
    assert first.max_rel_diff > 1e-3 and first.index


def test_a_cache_that_is_too_short_is_a_difference_of_shapes(make_model: MakeModel) -> None:
    """Without relative positions, whose length would not fit."""
    model = make_model(two_stacks(own=replace(OWN, relative_attention_type=None)))

    def last_three(attention: Any, x: Tensor, context: Any) -> tuple[Tensor, Tensor]:
        keys, values = type(attention).keys_and_values(attention, x, context)
        return (keys[:, :, -3:], values[:, :, -3:]) if context.caches is not None else (keys, values)

    for block in model.decoder.block:
        attention = block.layer[0].SelfAttention
        attention.keys_and_values = partial(last_three, attention)
    first = incremental(model).first_divergence
    assert first and first.step == 3
    assert "[3, 6, 1, 3] (batch heads length memory_length) step by step, [3, 6, 1, 4] at once" in first.note


def test_a_model_without_a_cache_is_not_compared(make_model: MakeModel) -> None:
    for architecture in (LANGUAGE_MODEL, PREFIX):
        found = incremental(make_model(architecture), BEGINNINGS)
        assert found.status == "not compared" and "keeps no cache" in found.note


def test_a_module_without_taps_is_not_compared(make_model: MakeModel) -> None:
    model = make_model(SMALL)
    found = compare_incremental(nn.ModuleList([model]), DECODING.taps(SMALL), lambda _: ((1,),), lambda *_: 0)
    assert found.status == "not compared" and "no tap" in found.note


@pytest.mark.parametrize(
    "name", ["t5.1.0", "t5.1.1", "talking heads", "language model", "prefix language model"]
)
def test_forced_logits_say_what_was_generated(name: str, make_model: MakeModel) -> None:
    config = {**CACHED, **FAMILY}[name]
    model = make_model(config)
    inputs = INPUTS if config.architecture.is_encoder_decoder else BEGINNINGS
    said = DECODING.generate(model, inputs, GREEDY)
    with torch.no_grad():
        choices = DECODING.forced(model, inputs, said).argmax(-1)
    for row, again in zip(said, choices, strict=True):
        assert tuple(again[: len(row)].tolist()) == row


class Says(nn.Module):
    """A module whose generate returns what it is told to."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.weight, self.result = nn.Parameter(torch.zeros(1)), result

    def generate(self, input_ids: Tensor, max_new_tokens: int, num_beams: int) -> Any:
        assert input_ids.dtype == torch.int64 and max_new_tokens == STEPS and num_beams in (1, 3)
        return self.result


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([0, 5, 6, 1, 0, 0], (5, 6, 1)),
        ([0, 5, 6, 1, 4, 0], (5, 6, 1, 4)),  # goes on behind its end: that is seen
        ([0, 5, 0, 6, 1, 0], (5, 0, 6, 1)),
        ([0, 5, 6, 7, 8, 0], (5, 6, 7, 8, 0, 0, 0, 0, 0)),  # no end: zeros are what it says
        ([0, *range(5, 14), 0, 0], tuple(range(5, 14))),
        ([0, *range(5, 16)], tuple(range(5, 16))),  # more than it was asked for
    ],
)
def test_what_a_port_says_begins_behind_the_start_token(row: list[int], said: tuple[int, ...]) -> None:
    for result in (torch.tensor([row] * 3), np.array([row] * 3), [row] * 3):
        assert DECODING.generate(Says(result), INPUTS, BEAM) == (said, said, said)


@pytest.mark.parametrize(
    "result",
    [
        torch.tensor([[5, 6, 1]] * 3),
        torch.tensor([[0, 5, 1]] * 2),
        torch.tensor([[0.0, 5.0]] * 3),
        torch.tensor([0, 5, 1]),
        "text",
        [],
    ],
)
def test_other_layouts_are_refused(result: Any) -> None:
    with pytest.raises(InputError, match="begin with the start token 0"):
        DECODING.generate(Says(result), INPUTS, GREEDY)


def test_what_the_original_says_behind_the_end_is_cut() -> None:
    assert decoding.said_by_reference([5, 6, 1, 7, 8], 0, 4) == [5, 6, 1]
    assert decoding.said_by_reference([5, 6, 7, 8, 9], 0, 4) == [5, 6, 7, 8]
    assert decoding.said_by_reference([5, 1, 7, 8, 9, 1, 4], 2, 3) == [7, 8, 9]


REFUSED = {
    "aligned": (ALIGNED, GREEDY, INPUTS, "does not generate"),
    "beams of a language model": (LANGUAGE_MODEL, BEAM, BEGINNINGS, "language model decodes greedily"),
    "beams of experts": (MIXTURE, BEAM, INPUTS, "mixtures of experts"),
    "beams towards the encoder": (SPANS, BEAM, INPUTS, "positions towards the encoder"),
    "memory projections": (FAMILY["dynamic talking heads"], GREEDY, INPUTS, "computed from the memory"),
    "packed": (SMALL, GREEDY, INPUTS.having(sequence_ids=np.ones((3, 5), np.int32)), "packed examples"),
    "no start token": (LANGUAGE_MODEL, GREEDY, INPUTS, "the start token 0, then"),
    "padding inside": (
        LANGUAGE_MODEL,
        GREEDY,
        Inputs.from_arrays({"inputs": [[0, 5, 0, 6]], "targets": [[5, 0, 6, 7]]}),
        "padding inside",
    ),
    "beyond the table": (LEARNED, GenerationSettings("beam", 41, 2), INPUTS, "at most 40 positions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_original_cannot_decode_is_refused(name: str) -> None:
    config, settings, inputs, expected = REFUSED[name]
    with pytest.raises(InputError, match=expected):
        DECODING.check(config, inputs, settings)


def test_what_the_original_can_decode_is_not() -> None:
    DECODING.check(SMALL, INPUTS, BEAM)
    DECODING.check(MIXTURE, INPUTS, GREEDY)
    DECODING.check(SPANS, INPUTS, GREEDY)
    DECODING.check(LANGUAGE_MODEL, BEGINNINGS, GREEDY)
    DECODING.check(LEARNED, INPUTS, GenerationSettings("beam", 40, 2))


def test_what_is_not_the_same_step_by_step_is_not_compared() -> None:
    assert "routed together" in DECODING.incomparable(MIXTURE)
    assert "towards the encoder" in DECODING.incomparable(SPANS)
    assert all(not DECODING.incomparable(config) for config in CACHED.values())


def test_modules_of_transformers_are_understood() -> None:
    """Their calling convention: masks, decoder_input_ids, ids with the start token."""
    seen: dict[str, Any] = {}

    class Theirs(Says):
        def forward(self, **arguments: Tensor) -> Any:
            seen.update(arguments)
            return SimpleNamespace(logits=torch.zeros(3, 2, 4))

    DECODING.forced(Theirs(None), INPUTS, ((5, 1), (6,), (7, 8)))
    assert seen["decoder_input_ids"].tolist() == [[0, 5], [0, 6], [0, 7]]
    assert seen["decoder_attention_mask"].tolist() == [[1, 1]] * 3
    assert seen["attention_mask"].sum(1).tolist() == [5, 2, 3]
