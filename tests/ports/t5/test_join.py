"""An encoder and a decoder that are unlike, from one config."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from porting.errors import ConfigError
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.config import T5Config
from porting.ports.t5.spelling import join, spelling
from tests.ports.t5.conftest import MakeModel

ENCODER = T5Config(300, 24, 5, 40, 3, 3, 4)
DECODER = T5Config(200, 24, 7, 56, 2, 2, 3, feed_forward_proj="gated-gelu")


@pytest.mark.parametrize("tied", [True, False])
def test_it_runs_on_two_vocabularies_a_source_mask_and_1024_tokens_each_side(
    make_model: MakeModel, tied: bool
) -> None:
    model = make_model(join(ENCODER, replace(DECODER, tie_word_embeddings=tied)))
    source = torch.randint(1, 300, (1, 1024))
    target = torch.randint(1, 200, (1, 1024))
    mask = torch.ones_like(source).bool()
    mask[:, 700:] = False
    with torch.no_grad():
        output = model(input_ids=source, attention_mask=mask, labels=target)
        cut = model(input_ids=source[:, :700], labels=target)
    assert output.logits.shape == (1, 1024, 200)
    assert output.loss.isfinite()
    torch.testing.assert_close(output.logits, cut.logits, atol=1e-3, rtol=1e-4)
    assert model.generate(source, max_new_tokens=3, attention_mask=mask).shape[0] == 1


def test_each_half_is_its_own() -> None:
    architecture = join(ENCODER, DECODER)
    encoder, decoder = architecture.stacks.values()
    assert (len(encoder.places), len(decoder.places)) == (6, 6)
    assert (encoder.layers[0].num_heads, decoder.layers[1].num_heads) == (4, 3)
    assert (encoder.layers[1].d_ff, decoder.layers[2].d_ff) == (40, 56)
    assert architecture.embedding_rows == {"encoder": 300, "decoder": 200}
    assert spelling(architecture) == architecture
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


def test_two_halves_of_one_are_that_one() -> None:
    assert spelling(join(DECODER, DECODER, shared_embedding=True)) == DECODER


@pytest.mark.parametrize(
    ("encoder", "shared", "said"),
    [(replace(ENCODER, d_model=25), False, "d_model"), (ENCODER, True, "source_vocab_size")],
)
def test_halves_that_do_not_fit_are_refused(encoder: T5Config, shared: bool, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        join(encoder, DECODER, shared_embedding=shared)
