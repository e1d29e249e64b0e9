"""What is searched fits every kind of model, and reaches the edges of its buckets."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from porting import Inputs
from porting.ports.t5.architecture import Architecture, StackSpec
from porting.ports.t5.attention_specs import AttentionSpec
from porting.ports.t5.layer_specs import FeedForwardSpec
from porting.ports.t5.presets import preset
from porting.ports.t5.revealing import bucket_edges, fit_ids, lengths, revealing_ids
from porting.ports.t5.token_ids import check_ids


def self_attention(**options: object) -> AttentionSpec:
    options = {"relative_attention_type": "bias_shared", **options}
    return AttentionSpec(kind="SelfAttention", num_heads=2, d_kv=4, **options)


def stack(*, autoregressive: bool, **options: object) -> StackSpec:
    layers = (options.pop("attention", self_attention()), FeedForwardSpec(d_ff=8))
    return StackSpec(layers=layers, num_blocks=1, autoregressive=autoregressive, **options)


ENCODER, DECODER = stack(autoregressive=False), stack(autoregressive=True)
SIZES = {"vocab_size": 128, "d_model": 8}
MODELS = {
    "encoder-decoder": Architecture(encoder=ENCODER, decoder=DECODER, **SIZES),
    "two vocabularies": Architecture(
        encoder=ENCODER, decoder=DECODER, source_vocab_size=64, shared_embedding=False, **SIZES
    ),
    "few positions": Architecture(
        encoder=stack(autoregressive=False, positions="learned", max_length=20),
        decoder=stack(autoregressive=True, positions="learned", max_length=17),
        **SIZES,
    ),
    "language model": Architecture(decoder=DECODER, **SIZES),
    "prefix language model": Architecture(
        decoder=stack(autoregressive=True, input_full_attention=True), **SIZES
    ),
    "aligned": Architecture(encoder=ENCODER, **SIZES),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_input_can_be_read_and_stays_as_it_is_when_fitted(name: str) -> None:
    model = MODELS[name]
    for label, ids in islice(revealing_ids(model), 60):
        Inputs.from_arrays(ids.arrays(), label)
        check_ids(model, ids)
        again = fit_ids(model, ids)
        assert again.arrays().keys() == ids.arrays().keys()
        for field, array in ids.arrays().items():
            np.testing.assert_array_equal(again.arrays()[field], array, err_msg=f"{label}: {field}")


@pytest.mark.parametrize("name", ["language model", "aligned", "few positions"])
def test_what_is_left_of_an_input_is_made_to_fit(name: str) -> None:
    model = MODELS[name]
    segments = {"sequence_ids": [[1] * 5], "decoder_sequence_ids": [[1] * 3 + [2] * 37]}
    for more in ({}, segments):
        ids = Inputs.from_arrays({"inputs": [[7] * 5], "targets": [[8] * 40], **more})
        check_ids(model, fit_ids(model, ids))


def test_a_language_model_reads_what_it_says_shifted_anew_in_each_example() -> None:
    ids = Inputs.from_arrays(
        {
            "inputs": [[9, 9]],
            "targets": [[5, 6, 7, 8]],
            "sequence_ids": [[1, 1]],
            "decoder_sequence_ids": [[1, 1, 2, 2]],
        }
    )
    fitted = fit_ids(MODELS["language model"], ids)
    assert fitted["inputs"].tolist() == [[0, 5, 0, 7]]
    assert fitted.get("sequence_ids") is not None and fitted.get("sequence_ids").tolist() == [[1, 1, 2, 2]]
    assert fitted.get("decoder_sequence_ids") is None


def test_examples_of_a_prefix_language_model_have_two_parts() -> None:
    cases = dict(islice(revealing_ids(MODELS["prefix language model"]), 12))
    ends = (cases["one id repeated"]["targets"] == 1).sum(1)
    assert (ends == 2).all()


def test_lengths_reach_the_edges_of_the_buckets() -> None:
    # 32 buckets up to 128: of the decoder 16 exact ones, the first wide one begins at 16, the last at 113.
    assert bucket_edges(self_attention(), bidirectional=False)[::15] == [16, 113]
    assert {1, 16, 17, 113, 114, 128, 129, 160} <= set(lengths(MODELS["encoder-decoder"]))


def test_lengths_reach_the_edges_of_long_t5s_blocks() -> None:
    found = set(lengths(preset("long-t5-tglobal-base")))
    assert {15, 16, 17, 128, 129, 385} <= found


def test_lengths_follow_the_config() -> None:
    other = self_attention(relative_attention_max_distance=256, relative_attention_num_buckets=20)
    model = Architecture(
        encoder=stack(autoregressive=False, attention=other),
        decoder=stack(autoregressive=True, attention=other),
        **SIZES,
    )
    assert {256, 257, 320} <= set(lengths(model))
    none = stack(autoregressive=True, attention=self_attention(relative_attention_type=None))
    assert {64, 160} <= set(lengths(Architecture(decoder=none, **SIZES)))
    assert max(lengths(MODELS["few positions"])) == 17
