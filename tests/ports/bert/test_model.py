"""The model by itself; what it computes is held against the original in tests/integration/test_bert.py."""

from __future__ import annotations

import pytest
import torch

from porting.capture import listening
from porting.ports.bert.config import Config
from porting.ports.bert.ids import random_ids
from porting.ports.bert.model import BertForPreTraining, BertModel, build_model
from porting.ports.bert.port import NAMES, run
from porting.ports.bert.taps import taps

HEADS = Config(51, 24, 2, 3, 40, 36, 3)


@pytest.fixture(scope="module")
def model() -> BertForPreTraining:
    torch.manual_seed(0)
    found = build_model(HEADS).eval()
    for parameter in found.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert isinstance(found, BertForPreTraining)
    return found


@pytest.fixture
def arguments() -> dict[str, torch.Tensor]:
    made = random_ids(HEADS, 3, 24, 0)
    return {NAMES.get(name, name): torch.from_numpy(a).long() for name, a in made.arrays().items()}


def test_every_tap_is_heard(model: BertForPreTraining) -> None:
    heard = []
    with listening(model, taps(HEADS), lambda tap, _value: heard.append(tap.name)):
        outputs = run(model, random_ids(HEADS, 3, 24, 0))
    assert [*heard, *outputs] == [tap.name for tap in taps(HEADS)]


def test_the_fused_kernel_computes_what_the_taps_hear(
    model: BertForPreTraining, arguments: dict[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        fused = model(**arguments)
        with listening(model, taps(HEADS), lambda _tap, _value: None):
            explicit = model(**arguments)
    torch.testing.assert_close(fused.last_hidden_state, explicit.last_hidden_state, rtol=1e-4, atol=1e-5)
    assert not torch.equal(fused.last_hidden_state, explicit.last_hidden_state)


def test_masks_segments_and_positions_have_defaults(
    model: BertForPreTraining, arguments: dict[str, torch.Tensor]
) -> None:
    ids = arguments["input_ids"]
    with torch.no_grad():
        plain = model(ids)
        spelled = model(ids, torch.ones_like(ids), torch.zeros_like(ids))
        chosen = model(**arguments)
        everywhere = model(ids, arguments["attention_mask"], arguments["token_type_ids"])
    torch.testing.assert_close(plain.prediction_logits, spelled.prediction_logits)
    assert plain.loss is None
    assert plain.prediction_logits.shape == (3, 24, 51)
    at = arguments["masked_lm_positions"][..., None].expand(-1, -1, 51)
    torch.testing.assert_close(
        chosen.prediction_logits, everywhere.prediction_logits.gather(1, at), rtol=1e-5, atol=1e-5
    )


def test_no_weights_leave_the_loss_of_the_next_sentence(
    model: BertForPreTraining, arguments: dict[str, torch.Tensor]
) -> None:
    arguments["masked_lm_weights"] = torch.zeros_like(arguments["masked_lm_weights"])
    with torch.no_grad():
        found = model(**arguments)
        relation = found.seq_relationship_logits
        expected = torch.nn.functional.cross_entropy(relation, arguments["next_sentence_labels"])
    torch.testing.assert_close(found.loss, expected)


def test_without_heads_it_is_the_encoder_alone() -> None:
    config = Config(51, 24, 2, 3, 40, 36, 3, heads=False)
    encoder = build_model(config).eval()
    assert isinstance(encoder, BertModel)
    output = encoder(torch.tensor([[1, 2, 3]]))
    assert output.last_hidden_state.shape == (1, 3, 24)
    assert output.prediction_logits is None
    assert run(encoder, random_ids(config, 2, 5, 0)) == {}


def test_dropout_is_on_in_training_and_only_there(
    model: BertForPreTraining, arguments: dict[str, torch.Tensor]
) -> None:
    with torch.no_grad():
        again = [model(**arguments).loss for _ in range(2)]
        assert torch.equal(*again)
        model.train()
        different = [model(**arguments).loss for _ in range(2)]
        model.eval()
    assert not torch.equal(*different)
