"""Causes in LongT5's attention, where scores are heard and where they are not, as in recorded runs.

In tests/integration/test_long_localisation.py Google's own runs and transformers' LongT5 are the original.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.corpus import FAULTS
from porting.analysis.noise import TIMES
from porting.analysis.passes import Analysis, Arrays
from porting.diagnose.engine import diagnose
from porting.findings import Cause, Fault, TapFigures
from porting.inputs import Inputs
from porting.ports.t5 import PORT
from porting.ports.t5.candidates.windows import block_sizes
from porting.ports.t5.long_config import LOCAL, TRANSIENT_GLOBAL, LongT5Config
from porting.ports.t5.model import T5Model
from porting.ports.t5.taps import MASKED_BELOW
from tests.faulty import UNIT, Bench, randomise

UNHEARD = ("scores", "weights", "side_scores", "side_weights", "attended", "summaries", "mask_padding")
E0 = "encoder.block.0.layer.0.TransientGlobalSelfAttention"
# Longer than a few blocks of either kind, cut within a block, shorter than a block.
INPUTS = Inputs.from_arrays(
    {
        "inputs": [
            [2 + (7 * i + 3 * row) % 23 if i < real else 0 for i in range(27)]
            for row, real in enumerate((27, 18, 2))
        ],
        "targets": [[5, 6, 1], [9, 1, 0], [3, 4, 1]],
    }
)


def bench(kind: str, *, heard: bool) -> Bench:
    config = LongT5Config(
        vocab_size=31,
        d_model=12,
        d_kv=4,
        d_ff=10,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=3,
        encoder_attention_type=kind,
        local_radius=5,
        global_block_size=4,
    )
    model = T5Model(config).eval()
    randomise(model)
    found = [tap for tap in PORT.taps(config) if heard or tap.name.rpartition(".")[2] not in UNHEARD]
    return Bench(model, found, PORT.run, INPUTS, PORT.candidates(), wide=False)


@pytest.fixture(scope="module")
def heard() -> Bench:
    return bench(TRANSIENT_GLOBAL, heard=True)


@pytest.fixture(scope="module")
def unheard() -> Bench:
    return bench(TRANSIENT_GLOBAL, heard=False)


def explained(bench: Bench, change: Callable[[Any], None], name: str) -> Fault:
    """The diagnosis at one tap, held to some rounding of its largest number: much is computed before it."""
    lab = bench.lab(bench.faulty(change))
    port, original = lab.replay(name), lab.original(name)
    assert port is not None and original is not None
    assert port.shape != original.shape or not torch.allclose(port, original), "there is no fault"
    arrays = Arrays()
    if port.shape == original.shape:
        shown = original[original > MASKED_BELOW].abs().amax()
        arrays.put("isolated", name, port.numpy())
        arrays.put("floor", name, torch.full_like(original, float(shown) * UNIT / 8).numpy())
    analysis = Analysis({name: TapFigures()}, (name,), TIMES, UNIT, arrays=arrays)
    (fault,) = diagnose(lab, analysis, {}, bench.candidates)
    return fault


def cause_at(bench: Bench, change: Callable[[Any], None], name: str) -> Cause:
    fault = explained(bench, change, name)
    assert fault.cause is not None, fault.tried
    return fault.cause


# What the corpus breaks in the first layer, and where it shows first when everything is heard.
FIRST_HEARD = {
    "radius_one_too_large": "scores",
    "radius_without_its_end_ahead": "scores",
    "radius_not_looked_at": "scores",
    "encoder_sees_what_lies_before_only": "scores",
    "keys_beyond_the_sequence_seen": "scores",
    "blocks_before_and_behind_exchanged": "scores",
    "own_block_first": "scores",
    "local_bias_added_twice": "scores",
    "queries_divided_by_sqrt_d_kv_in_the_encoder": "scores",
    "side_bias_left_out": "side_scores",
    "summaries_that_no_block_fills_seen": "side_scores",
    "softmax_over_the_window_and_over_summaries_apart": "weights",
}


@pytest.mark.parametrize("name", FIRST_HEARD)
def test_what_is_not_heard_is_computed_again(unheard: Bench, name: str) -> None:
    fault = FAULTS[name]
    cause = cause_at(unheard, fault.apply, f"{E0}.o")
    assert cause.kind in fault.kinds
    assert fault.word in f"{cause.words} {cause.subject}"


@pytest.mark.parametrize("name", FIRST_HEARD)
def test_where_scores_and_weights_are_heard_the_cause_is_found_there(heard: Bench, name: str) -> None:
    fault = FAULTS[name]
    cause = cause_at(heard, fault.apply, f"{E0}.{FIRST_HEARD[name]}")
    assert cause.kind in fault.kinds
    word = "window alone" if FIRST_HEARD[name] == "weights" else fault.word
    assert word in f"{cause.words} {cause.subject}"


OF_SUMMARIES = {
    "blocks_of_summaries_one_too_long": "global_input_layer_norm",
    "padding_fills_up_a_block": "global_input_layer_norm",
    "padding_counted_into_a_summary": "global_input_layer_norm",
    "orphan_tokens_belong_to_none": "global_input_layer_norm",
    "orphan_tokens_make_a_block_of_their_own": "global_input_layer_norm",
    "summaries_not_normalised": "global_input_layer_norm",
    "side_bias_direction": "side_position_bias",
    "side_bias_off_by_one": "side_position_bias",
    "side_bias_with_unidirectional_buckets": "side_position_bias",
    "local_bias_counted_from_the_beginning_of_the_window": "position_bias",
}


@pytest.mark.parametrize("name", OF_SUMMARIES)
def test_summaries_and_biases(unheard: Bench, name: str) -> None:
    fault = FAULTS[name]
    cause = cause_at(unheard, fault.apply, f"{E0}.{OF_SUMMARIES[name]}")
    assert cause.kind in fault.kinds
    assert fault.word in f"{cause.words} {cause.subject}"


@pytest.mark.parametrize("name", ["orphan_tokens_belong_to_none", "padding_fills_up_a_block"])
def test_sums_are_explained_where_they_are_heard(heard: Bench, name: str) -> None:
    assert cause_at(heard, FAULTS[name].apply, f"{E0}.summaries").kind == "blocks"


def test_other_keys_of_summaries_are_named(unheard: Bench) -> None:
    def exchange(model: Any) -> None:
        module = model.get_submodule(E0)
        module.side_k.forward = lambda _x: torch.nn.functional.linear(kept[0], module.v.weight)
        module.global_input_layer_norm.register_forward_hook(
            lambda _module, _args, out: kept.__setitem__(slice(None), [out])
        )

    kept: list[Tensor] = []
    cause = cause_at(unheard, exchange, f"{E0}.side_k")
    assert cause.kind == "weight"
    assert f"{E0}.v.weight" in cause.words


def at_output(function: Callable[[Tensor], Tensor]) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        module = model.get_submodule(E0)
        right = module.o.forward
        module.o.forward = lambda x: function(right(x))

    return change


def test_what_no_way_explains_is_not_explained(unheard: Bench) -> None:
    fault = explained(unheard, at_output(lambda x: x + 0.1 * x.cos() * x.roll(2, 1)), f"{E0}.o")
    assert fault.cause is None


def test_local_attention_alone_has_no_summaries_to_be_wrong_about() -> None:
    without = bench(LOCAL, heard=False)
    place = "encoder.block.0.layer.0.LocalSelfAttention.o"
    cause = cause_at(without, FAULTS["radius_one_too_large"].apply, place)
    assert cause.kind == "mask"
    assert "6 away" in cause.words


@pytest.mark.parametrize(("length", "number", "sizes"), [(27, 6, [4]), (7, 3, [2]), (7, 1, [7, 6, 5, 4])])
def test_how_many_summaries_there_are_says_how_large_blocks_may_be(
    length: int, number: int, sizes: list[int]
) -> None:
    assert block_sizes(length, number) == sizes
