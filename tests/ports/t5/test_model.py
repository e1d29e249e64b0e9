from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers.models.t5.modeling_t5 import T5Attention as TheirAttention

from porting.capture import listening
from porting.ports.t5.attention import softmax
from porting.ports.t5.config import T5Config
from porting.ports.t5.model import T5Model, shift_right
from porting.ports.t5.relative_positions import relative_position_bucket
from porting.ports.t5.taps import taps
from tests.ports.t5.conftest import MakeModel
from tests.ports.t5.mesh_variables import SMALL, V1_1

CONFIGS = {
    "t5.1.0": SMALL,
    "t5.1.1": V1_1,
    "gated-silu, tied": replace(SMALL, feed_forward_proj="gated-silu"),
}

INPUTS = torch.tensor([[5, 6, 7, 8, 9, 4, 1], [11, 12, 1, 0, 0, 0, 0], [13, 1, 0, 0, 0, 0, 0]])
LABELS = torch.tensor([[21, 22, 23, 24, 1], [25, 26, 27, 1, 0], [28, 1, 0, 0, 0]])
PADDED = {"input_ids": INPUTS, "labels": LABELS}
PACKED = {
    **PADDED,
    "sequence_ids": torch.tensor([[1, 1, 1, 2, 2, 3, 3], [1, 1, 1, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0]]),
    "decoder_sequence_ids": torch.tensor([[1, 2, 2, 3, 3], [1, 1, 1, 1, 0], [1, 2, 0, 0, 0]]),
}
MASKED = {
    **PADDED,
    "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0, 0], [0, 1, 1, 0, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0]]),
    "decoder_attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]),
}
# Positions that see nothing: a full decoder beside an empty input, an example that the inputs do not hold.
BLIND = {
    **PADDED,
    "sequence_ids": torch.tensor([[1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0]]),
    "decoder_sequence_ids": torch.tensor([[1, 1, 2, 2, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]),
}
CASES = {"padded": PADDED, "packed": PACKED, "masked": MASKED, "blind": BLIND}


@contextmanager
def explicit(model: T5Model) -> Iterator[None]:
    """Compute scores and weights one by one, as when every tap is listened to."""
    with listening(model, taps(model.config), lambda _tap, _value: None):
        yield


def logits(model: T5Model, **arguments: Tensor) -> Tensor:
    with torch.no_grad():
        return model(**arguments).logits


def distance(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one.detach().double() - other.detach().double()).abs().max())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("case", CASES)
def test_the_fused_path_computes_what_the_tapped_path_computes(
    config: T5Config, case: str, make_model: MakeModel
) -> None:
    model = make_model(config)
    with torch.no_grad():
        fused = model(**CASES[case])
        with explicit(model):
            tapped = model(**CASES[case])
    assert float(fused.logits.abs().max()) > 0.1
    assert distance(fused.logits, tapped.logits) < 1e-5 * max(1, float(fused.logits.abs().max()))
    assert distance(fused.encoder_last_hidden_state, tapped.encoder_last_hidden_state) < 1e-5
    assert fused.loss.item() == pytest.approx(tapped.loss.item(), rel=1e-5)


def test_the_two_paths_are_two(make_model: MakeModel) -> None:
    """Else the test above compares a thing with itself."""
    model = make_model(SMALL)
    heard: list[str] = []
    model.encoder.block[0].layer[0].SelfAttention.scores.register_forward_hook(
        lambda *_: heard.append("scores")
    )
    logits(model, **PADDED)
    assert heard == ["scores"]


@pytest.mark.parametrize("case", CASES)
def test_gradients_flow_alike_through_both_paths(case: str, make_model: MakeModel) -> None:
    model = make_model(V1_1)
    model(**CASES[case]).loss.backward()
    fused = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    with explicit(model):
        model(**CASES[case]).loss.backward()
    for name, parameter in model.named_parameters():
        scale = max(1.0, float(parameter.grad.abs().max()))
        assert distance(fused[name], parameter.grad) < 5e-5 * scale, name
        assert bool(torch.isfinite(parameter.grad).all())
    assert all(bool(gradient.any()) for gradient in fused.values()), "every parameter has a say"


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("projection", ["relu", "gated-gelu"])
def test_parameters_are_called_as_in_transformers(tied: bool, projection: str) -> None:
    config = replace(SMALL, tie_word_embeddings=tied, feed_forward_proj=projection)
    with torch.device("meta"):
        ours = T5Model(config).state_dict()
        theirs = transformers.T5ForConditionalGeneration(
            transformers.T5Config(**config.to_json())
        ).state_dict()
    duplicates = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    duplicates |= {"lm_head.weight"} if tied else set()
    assert duplicates <= set(theirs)
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items() if name not in duplicates
    }


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_are_those_of_transformers_at_the_published_sizes(bidirectional: bool) -> None:
    positions = torch.arange(-5000, 5001)
    options = {"bidirectional": bidirectional, "num_buckets": 32, "max_distance": 128}
    ours = relative_position_bucket(positions, **options)
    assert torch.equal(ours, TheirAttention._relative_position_bucket(positions, **options))
    assert ours.dtype == torch.int64
    # Distance 0 has the first bucket of the backward half, so nothing has that of the forward half.
    assert set(range(32)) - set(ours.tolist()) == ({16} if bidirectional else set())


def test_buckets_by_hand() -> None:
    def buckets(positions: list[int], bidirectional: bool) -> list[int]:
        return relative_position_bucket(
            torch.tensor(positions), bidirectional=bidirectional, num_buckets=8, max_distance=16
        ).tolist()

    # Of four buckets a side two hold one distance each, the others [2, 5.65) and beyond.
    assert buckets([0, -1, -2, -5, -6, -16, -999], True) == [0, 1, 2, 2, 3, 3, 3]
    assert buckets([1, 2, 5, 6, 999], True) == [5, 6, 6, 7, 7]
    # One way: four single distances, then [4, 5.65), [5.65, 8), [8, 11.3) and beyond; the future is bucket 0.
    expected = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 4, 6: 5, 7: 5, 8: 6, 11: 6, 12: 7, 99: 7}
    assert buckets([-distance for distance in expected], False) == list(expected.values())
    assert buckets([1, 99], False) == [0, 0]


def test_packed_examples_never_see_each_other(make_model: MakeModel) -> None:
    model = make_model(V1_1)
    packed = logits(
        model,
        input_ids=torch.tensor([[5, 6, 7, 8, 9, 1, 0]]),
        labels=torch.tensor([[21, 22, 23, 24, 1, 0]]),
        sequence_ids=torch.tensor([[1, 1, 1, 2, 2, 2, 0]]),
        decoder_sequence_ids=torch.tensor([[1, 1, 2, 2, 2, 0]]),
    )
    one = logits(model, input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[21, 22]]))
    two = logits(model, input_ids=torch.tensor([[8, 9, 1]]), labels=torch.tensor([[23, 24, 1]]))
    assert distance(packed[:, :2], one) < 1e-5
    assert distance(packed[:, 2:5], two) < 1e-5


def test_padding_changes_nothing_at_real_positions(make_model: MakeModel) -> None:
    model = make_model(SMALL)
    padded = logits(model, **PADDED)
    alone = logits(model, input_ids=INPUTS[1:2, :3], labels=LABELS[1:2, :4])
    assert distance(padded[1:2, :4], alone) < 1e-5


def test_what_the_decoder_says_never_depends_on_what_comes_later(make_model: MakeModel) -> None:
    model = make_model(SMALL)
    changed = LABELS.clone()
    changed[0, 3] = 42
    before, after = logits(model, **PADDED), logits(model, input_ids=INPUTS, labels=changed)
    assert distance(before[0, :4], after[0, :4]) < 1e-6, "position 3 reads label 2"
    assert distance(before[0, 4], after[0, 4]) > 1e-3


def test_the_encoder_reads_both_ways(make_model: MakeModel) -> None:
    model = make_model(SMALL)
    changed = INPUTS.clone()
    changed[0, 6] = 42
    assert (
        distance(logits(model, **PADDED)[0, 0], logits(model, input_ids=changed, labels=LABELS)[0, 0]) > 1e-4
    )


def test_an_attention_mask_is_padding(make_model: MakeModel) -> None:
    model = make_model(V1_1)
    with torch.no_grad():
        plain = model(**PADDED)
        masked = model(
            **PADDED, attention_mask=(INPUTS > 0).long(), decoder_attention_mask=(LABELS > 0).float()
        )
    assert distance(plain.logits, masked.logits) == 0
    assert plain.loss == masked.loss


def test_a_masked_position_is_not_seen(make_model: MakeModel) -> None:
    model = make_model(V1_1)
    mask = torch.ones_like(INPUTS)
    mask[0, 4:] = 0
    changed = INPUTS.clone()
    changed[0, 4:] = 33
    one = logits(model, **PADDED, attention_mask=mask)
    other = logits(model, input_ids=changed, labels=LABELS, attention_mask=mask)
    assert distance(one[0], other[0]) < 1e-6
    assert distance(one[0], logits(model, **PADDED)[0]) > 1e-3


def test_a_mask_narrows_sequence_ids(make_model: MakeModel) -> None:
    model = make_model(SMALL)
    ids = PACKED["sequence_ids"]
    mask = (torch.arange(7) < 5).long().expand_as(ids)
    narrowed = {**PACKED, "sequence_ids": ids * mask}
    assert distance(logits(model, **PACKED, attention_mask=mask), logits(model, **narrowed)) == 0


def test_decoder_inputs_are_the_labels_shifted_right(make_model: MakeModel) -> None:
    model = make_model(SMALL)
    shifted = torch.tensor([[0, 21, 22, 23, 24], [0, 25, 26, 27, 0], [0, 28, 0, 0, 0]])
    assert torch.equal(shift_right(LABELS, LABELS.clamp(max=1)), shifted)
    given = logits(model, input_ids=INPUTS, decoder_input_ids=shifted)
    assert distance(given, logits(model, **PADDED)) == 0
    with torch.no_grad():
        assert model(input_ids=INPUTS, decoder_input_ids=shifted).loss is None


def test_decoder_inputs_as_transformers_shifts_them_agree_at_real_positions(make_model: MakeModel) -> None:
    model = make_model(SMALL)
    shifted = torch.cat([torch.zeros(3, 1, dtype=torch.long), LABELS[:, :-1]], 1)
    given = logits(model, input_ids=INPUTS, decoder_input_ids=shifted)
    real = LABELS > 0
    assert distance(given[real], logits(model, **PADDED)[real]) < 1e-5


def test_each_packed_example_begins_anew() -> None:
    ids = torch.tensor([[1, 1, 2, 2, 2, 0, 0]])
    labels = torch.tensor([[5, 6, 7, 8, 9, 0, 0]])
    assert shift_right(labels, ids).tolist() == [[0, 5, 0, 7, 8, 0, 0]]


def test_minus_100_is_padding(make_model: MakeModel) -> None:
    model = make_model(SMALL)
    masked = LABELS.masked_fill(LABELS == 0, -100)
    with torch.no_grad():
        one, other = model(input_ids=INPUTS, labels=masked), model(**PADDED)
    assert distance(one.logits, other.logits) == 0
    assert one.loss == other.loss
    assert bool((masked == -100).any()), "the caller's labels are left as they were"


def test_arguments_are_left_as_they_were(make_model: MakeModel) -> None:
    model = make_model(SMALL)
    arguments = {name: tensor.clone() for name, tensor in PACKED.items()}
    logits(model, **arguments)
    decoder_ids = torch.tensor([[0, 5], [0, 6], [0, 7]])
    logits(model, input_ids=INPUTS, decoder_input_ids=decoder_ids)
    assert all(torch.equal(arguments[name], PACKED[name]) for name in PACKED)
    assert decoder_ids.tolist() == [[0, 5], [0, 6], [0, 7]]


def test_the_decoder_needs_something_to_read(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="give labels or decoder_input_ids"):
        make_model(SMALL)(input_ids=INPUTS)
    with pytest.raises(ValueError, match="below 0 that are not -100"):
        make_model(SMALL)(input_ids=INPUTS, labels=LABELS - 1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("denominator", [None, 233.0])
def test_the_loss_from_first_principles(
    smoothing: float, denominator: float | None, make_model: MakeModel
) -> None:
    model = make_model(replace(SMALL, label_smoothing=smoothing, loss_denominator=denominator))
    with torch.no_grad():
        output = model(**PADDED)
    scores, labels = output.logits.double().numpy(), LABELS.numpy()
    total = 0.0
    for row, column in zip(*np.nonzero(labels), strict=True):
        log_probabilities = scores[row, column] - np.log(np.exp(scores[row, column]).sum())
        wanted = np.full(50, smoothing / 50)
        wanted[labels[row, column]] += 1 - smoothing
        total -= (wanted * log_probabilities).sum()
    assert output.loss.item() == pytest.approx(total / (denominator or labels.size), rel=1e-5)
    assert output.loss.shape == ()


@pytest.mark.parametrize("tied", [True, False])
def test_only_a_tied_output_is_scaled(tied: bool, make_model: MakeModel) -> None:
    model = make_model(replace(SMALL, tie_word_embeddings=tied))
    hidden = torch.randn(1, 2, 12)
    matrix = model.shared.weight / 12**0.5 if tied else model.lm_head.weight
    assert distance(model.project(hidden), hidden @ matrix.T) < 1e-5


def test_weights_of_a_row_that_sees_nothing_are_ones_as_in_mesh() -> None:
    scores = torch.tensor([[-1e9, -1e9, -1e9], [0.0, -1e9, 0.0]])
    assert softmax(scores).tolist() == [[1, 1, 1], [0.5, 0, 0.5]]
    random = torch.randn(4, 7)
    assert distance(softmax(random), random.softmax(-1)) < 1e-6


def test_gradients_of_a_row_that_sees_nothing_are_those_of_mesh() -> None:
    """exp(x - log(sum(exp(x - max))) - max): each of m positions takes 1/m of the sum."""
    scores = torch.full((1, 4), -1e9, requires_grad=True)
    upstream = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    softmax(scores).backward(upstream)
    assert scores.grad.tolist() == (upstream - upstream.mean()).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_half_precision_stays_near(dtype: torch.dtype, case: str, make_model: MakeModel) -> None:
    wide = logits(make_model(SMALL), **CASES[case])
    model = make_model(SMALL).to(dtype)
    with torch.no_grad():
        output = model(**CASES[case])
    assert output.logits.dtype == dtype
    assert output.loss.dtype == torch.float32
    assert bool(torch.isfinite(output.logits).all())
    with explicit(model), torch.no_grad():
        tapped = model(**CASES[case])
    assert distance(wide, tapped.logits) < 0.1 * float(wide.abs().max())
    if (dtype, case) != (torch.float16, "blind"):  # float16 has no number beside which a score is lost
        assert distance(wide, output.logits) < 0.1 * float(wide.abs().max())


def test_dropout_acts_in_training_only(make_model: MakeModel) -> None:
    model = make_model(SMALL)
    assert distance(logits(model, **PADDED), logits(model, **PADDED)) == 0
    model.train()
    assert distance(logits(model, **PADDED), logits(model, **PADDED)) > 0


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_unpadded_logits_are_those_of_transformers(config: T5Config, make_model: MakeModel) -> None:
    model = make_model(config)
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**config.to_json())).eval()
    if not config.tie_word_embeddings:  # transformers 5 ties them whatever the config says
        theirs.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    report = theirs.load_state_dict(model.state_dict(), strict=False)
    assert not report.unexpected_keys
    ids = {"input_ids": INPUTS[:1], "decoder_input_ids": torch.tensor([[0, 21, 22, 23]])}
    with torch.no_grad():
        if config.tie_word_embeddings:
            theirs.tie_weights()
        expected = theirs(**ids).logits
    assert distance(logits(model, **ids), expected) < 1e-5 * max(1, float(expected.abs().max()))


def test_every_argument_that_transformers_and_we_both_take_means_the_same() -> None:
    ours = set(inspect.signature(T5Model.forward).parameters)
    theirs = set(inspect.signature(transformers.T5ForConditionalGeneration.forward).parameters)
    assert ours - theirs == {"sequence_ids", "decoder_sequence_ids"}


def test_ids_of_any_integer_type_and_masks_of_any_kind_mean_the_same(make_model: MakeModel) -> None:
    model = make_model(V1_1)
    ids, labels = torch.tensor([[5, 6, 1, 0], [7, 1, 0, 0]]), torch.tensor([[8, 1, 0], [9, 3, 1]])
    expected = model(input_ids=ids, labels=labels)
    for dtype in (torch.int32, torch.int16):
        output = model(input_ids=ids.to(torch.int32), labels=labels.to(dtype))
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.loss, expected.loss)
    masked = model(input_ids=ids, labels=labels, attention_mask=ids != 0)
    assert torch.equal(masked.logits, expected.logits)
    tokens = model.generate(ids.to(torch.int32), max_new_tokens=3, num_beams=2)
    assert torch.equal(tokens, model.generate(ids, max_new_tokens=3, num_beams=2))
