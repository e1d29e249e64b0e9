from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from porting.ports.t5 import PORT
from porting.ports.t5.attention_specs import AttentionSpec
from porting.ports.t5.presets import preset, with_layers
from porting.ports.t5.tap_buckets import tap_buckets

CONFIG = preset("t5.1.1.small")


@pytest.mark.parametrize("tensor", ["position_bias", "scores", "weights"])
def test_buckets_are_those_of_the_layers_own_stack(tensor: str) -> None:
    encoder = tap_buckets(CONFIG, f"encoder.block.3.layer.0.SelfAttention.{tensor}", 5, 200)
    decoder = tap_buckets(CONFIG, f"decoder.block.0.layer.0.SelfAttention.{tensor}", 200, 5)
    assert encoder is not None and decoder is not None
    assert encoder.shape == (5, 200) and decoder.shape == (200, 5)
    # One distance a bucket up to 8 in both directions, up to 16 in one; the last ones share a bucket.
    assert encoder[0, :9].tolist() == [0, *range(17, 25)] and encoder[4, 0] == 4
    assert encoder[0, 130] == encoder[0, 199] == 31
    assert decoder[:17, 0].tolist() == list(range(17)) and decoder[199, 0] == 31
    assert np.all(decoder[0] == 0), "what lies ahead is hidden, and counted as here"


@pytest.mark.parametrize(
    "name",
    [
        "decoder.block.0.layer.1.EncDecAttention.scores",
        "encoder.block.0.layer.0.SelfAttention.q",
        "encoder.block.0.layer.0",
        "encoder.block.99.layer.0.SelfAttention.scores",
        "logits",
    ],
)
def test_other_taps_have_no_buckets(name: str) -> None:
    assert tap_buckets(CONFIG, name, 3, 3) is None


def test_positions_towards_the_encoder_have_no_bucket_of_their_own() -> None:
    spans = replace(CONFIG.architecture, first_sentinel_id=32000)
    spans = with_layers(spans, AttentionSpec, relative_attention_type="bias")
    names = [f"decoder.block.0.layer.{layer}.scores" for layer in ("0.SelfAttention", "1.EncDecAttention")]
    assert [tap_buckets(spans, name, 3, 3) is None for name in names] == [False, True]


def test_the_port_says_so() -> None:
    found = PORT.relative_buckets(CONFIG, "encoder.block.0.layer.0.SelfAttention.scores", 2, 2)
    assert found is not None and found.tolist() == [[0, 17], [1, 0]]
