"""Models of the family with random parameters: two paths, step by step, other types, gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from porting.capture import listening
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.cache import DecoderCache
from porting.ports.t5.layer_specs import MixtureSpec
from porting.ports.t5.mixture import MixtureOfExperts
from porting.ports.t5.model import T5Model, T5Output
from porting.ports.t5.taps import taps
from porting.ports.t5.token_ids import random_ids
from tests.ports.t5.conftest import MakeModel
from tests.ports.t5.family import (
    FAMILY,
    GROUPED,
    LANGUAGE_MODEL,
    LEARNED,
    MEMORY,
    MIXTURE,
    OWN,
    PREFIX,
    TALKING,
    TALKING_MEMORY,
    two_stacks,
)

BATCH, LENGTH = 3, 13
# Without experts: their capacity depends on how many tokens there are at once.
STEPWISE = {name: architecture for name, architecture in FAMILY.items() if name not in ("aligned", "experts")}


def ids(architecture: Architecture, seed: int = 0) -> dict[str, Tensor]:
    """Ids with padding, of the lengths 13 and 12 where there are two sequences."""
    made = random_ids(architecture, BATCH, LENGTH, seed)
    return {"input_ids": torch.tensor(made["inputs"]).long(), "labels": torch.tensor(made["targets"]).long()}


@contextmanager
def explicit(model: T5Model) -> Iterator[None]:
    """Compute scores and weights one by one, as when every tap is listened to."""
    with listening(model, taps(model.config), lambda _tap, _value: None):
        yield


def run(model: T5Model, **more: Tensor) -> T5Output:
    with torch.no_grad():
        return model(**ids(model.architecture), **more)


def both_paths(model: T5Model, **more: Tensor) -> tuple[T5Output, T5Output]:
    """(fused, tapped)"""
    fused = run(model, **more)
    with explicit(model):
        return fused, run(model, **more)


def distance(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    return float((one.detach().double() - other.detach().double()).abs().max())


def rounding(expected: Tensor) -> float:
    """How far from these another order of the same float32 operations may be."""
    return 1e-5 * max(1, float(expected.abs().max()))


# --- two paths ---


@pytest.mark.parametrize("architecture", FAMILY.values(), ids=FAMILY)
def test_the_fused_path_computes_what_the_tapped_path_computes(
    architecture: Architecture, make_model: MakeModel
) -> None:
    fused, tapped = both_paths(make_model(architecture))
    assert float(fused.logits.abs().max()) > 0.1
    assert distance(fused.logits, tapped.logits) < rounding(fused.logits)
    assert fused.loss.item() == pytest.approx(tapped.loss.item(), rel=1e-5)


TWO_STACKS = {name: architecture for name, architecture in FAMILY.items() if architecture.is_encoder_decoder}


@pytest.mark.parametrize("architecture", TWO_STACKS.values(), ids=TWO_STACKS)
def test_both_paths_take_the_sum_where_nothing_is_seen(
    architecture: Architecture, make_model: MakeModel
) -> None:
    """As where the decoder goes on with an example that the inputs do not hold."""
    model = make_model(architecture)
    packed = {
        "sequence_ids": torch.tensor([[1] * 7 + [2] * 6, [1] * 13, [1] * 5 + [0] * 8]),
        "decoder_sequence_ids": torch.tensor([[1] * 4 + [3] * 8, [1] * 6 + [2] * 6, [1] * 3 + [0] * 9]),
    }
    fused, tapped = both_paths(model, **packed)
    assert distance(fused.logits, run(model).logits) > 0.1
    assert distance(fused.logits, tapped.logits) < rounding(fused.logits)


def test_the_two_paths_are_two(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above compares a thing with itself."""
    calls: list[int] = []
    kernel = F.scaled_dot_product_attention

    def counted(*arguments: Tensor, **settings: object) -> Tensor:
        calls.append(1)
        return kernel(*arguments, **settings)

    monkeypatch.setattr(F, "scaled_dot_product_attention", counted)
    model = make_model(GROUPED)
    run(model)
    assert len(calls) == 6
    with explicit(model):
        run(model)
    assert len(calls) == 6


@pytest.mark.parametrize("shared_kv", [False, True])
def test_grouped_heads_are_plain_heads_whose_keys_and_values_repeat(
    shared_kv: bool, make_model: MakeModel
) -> None:
    own, memory = (
        replace(spec, num_memory_heads=number, shared_kv=shared_kv)
        for spec, number in ((OWN, 2), (MEMORY, 3))
    )
    grouped = make_model(two_stacks(own, memory))
    plain = make_model(two_stacks())
    state = {}
    for name, tensor in grouped.state_dict().items():
        layer, _, projection = name.removesuffix(".weight").rpartition(".")
        if projection not in ("k", "v", "kv"):
            state[name] = tensor
            continue
        heads = tensor.view(-1, OWN.d_kv, grouped.config.d_model)
        repeated = heads.repeat_interleave(OWN.num_heads // len(heads), dim=0).flatten(0, 1)
        state |= {f"{layer}.{one}.weight": repeated for one in projection}
    plain.load_state_dict(state)
    expected = run(plain).logits
    assert distance(run(grouped).logits, expected) < rounding(expected)


# --- step by step ---


def decoded(model: T5Model, *, stepwise: bool, padded: bool = True) -> Tensor:
    """Logits after each of eight tokens, all at once or one by one."""
    generator = torch.Generator().manual_seed(4)
    tokens = torch.randint(2, 44, (BATCH, 8), generator=generator)  # no sentinels
    tokens[:, 0] = 0
    memory = None
    if model.architecture.is_encoder_decoder:
        read = ids(model.architecture)["input_ids"] if padded else tokens.clamp(min=2, max=36)
        memory = model.encode(read, read.clamp(max=1))
    if not stepwise:
        return model.project(model.decoder(model.embed(tokens), torch.ones_like(tokens), memory, tokens))
    cache = DecoderCache()
    steps = [model.decoder(model.embed(tokens[:, i : i + 1]), None, memory, cache=cache) for i in range(8)]
    assert cache.length == 8
    return model.project(torch.cat(steps, dim=1))


@pytest.mark.parametrize("architecture", STEPWISE.values(), ids=STEPWISE)
def test_one_by_one_gives_what_all_at_once_gives(architecture: Architecture, make_model: MakeModel) -> None:
    model = make_model(architecture)
    padded = architecture.first_sentinel_id is None  # padding moves where a span begins, as in the original
    with torch.no_grad():
        whole = decoded(model, stepwise=False, padded=padded)
        steps = decoded(model, stepwise=True, padded=padded)
    assert distance(whole[:, 0], whole[:, -1]) > 0.1
    assert distance(whole, steps) < rounding(whole)


@pytest.mark.parametrize("projection", ["m2l", "m2w"])
def test_step_by_step_the_newest_position_projects_for_all_before_it(
    projection: str, make_model: MakeModel
) -> None:
    """As in Mesh's TalkingHeadsSelfAttention.call, whose memory is the newest position while decoding."""
    model = make_model(two_stacks(replace(TALKING, dynamic_projections=(projection,)), TALKING_MEMORY))
    with torch.no_grad():
        whole, steps = decoded(model, stepwise=False), decoded(model, stepwise=True)
    assert distance(whole[:, :1], steps[:, :1]) < 1e-5
    assert distance(whole[:, 1:], steps[:, 1:]) > 0.1


def test_more_steps_than_there_are_positions_are_refused(make_model: MakeModel) -> None:
    model = make_model(replace(LEARNED, decoder=replace(LEARNED.decoder, max_length=7)))
    with torch.no_grad(), pytest.raises(ValueError, match="8 positions; this model has 7"):
        decoded(model, stepwise=True)


# --- who sees whom ---


def changed_by(model: T5Model, labels: Tensor, position: int) -> list[bool]:
    """Which logits change when the token said at a position is another."""
    other = labels.clone()
    other[:, position] += 1

    def logits(said: Tensor) -> Tensor:
        return model(input_ids=F.pad(said, (1, 0))[:, :-1], labels=said).logits

    with torch.no_grad():
        difference = (logits(labels) - logits(other)).abs().amax((0, 2))
    return (difference > 1e-6).tolist()


LABELS = torch.tensor([[11, 12, 13, 1, 21, 22, 1]])  # inputs, 1, targets, 1


def test_a_language_model_sees_what_was_said_before(make_model: MakeModel) -> None:
    model = make_model(LANGUAGE_MODEL)
    assert changed_by(model, LABELS, 2) == [False] * 3 + [True] * 4
    assert changed_by(model, LABELS, 5) == [False] * 6 + [True]


def test_a_prefix_model_sees_all_inputs_and_earlier_targets(make_model: MakeModel) -> None:
    model = make_model(PREFIX)
    assert changed_by(model, LABELS, 2) == [True] * 7
    assert changed_by(model, LABELS, 4) == [False] * 5 + [True] * 2


# --- other types ---


@pytest.mark.parametrize("architecture", FAMILY.values(), ids=FAMILY)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_near(
    dtype: torch.dtype, architecture: Architecture, make_model: MakeModel
) -> None:
    wide = run(make_model(architecture))
    model = make_model(architecture).to(dtype)
    output, tapped = both_paths(model)
    assert output.logits.dtype == dtype
    assert output.loss.dtype == torch.float32
    assert bool(torch.isfinite(output.logits).all())
    assert bool(torch.isfinite(output.loss))
    assert bool(torch.isfinite(tapped.logits).all())
    # A few positions may go to other experts, a softmax that mixes heads sharpens: the bulk is near.
    off = (output.logits.float() - wide.logits).abs().median()
    assert float(off) < 0.05 * float(wide.logits.abs().max())


# --- gradients ---


@contextmanager
def used_experts(model: T5Model) -> Iterator[set[str]]:
    """Path of each expert that a token passes through."""
    used: set[str] = set()

    def listen(path: str) -> object:
        def hook(_module: object, _inputs: object, held: Tensor) -> None:
            for expert in torch.nonzero(held.detach().abs().sum((1, 2, 3))).flatten().tolist():
                used.add(f"{path}.experts.expert_{expert}.")

        return hook

    handles = [
        module.expert_inputs.register_forward_hook(listen(path))
        for path, module in model.named_modules()
        if isinstance(module, MixtureOfExperts)
    ]
    yield used
    for handle in handles:
        handle.remove()


def without_gradient(model: T5Model) -> set[str]:
    model.zero_grad()
    model(**ids(model.architecture)).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(grad is None or bool(torch.isfinite(grad).all()) for grad in gradients.values())
    return {name for name, grad in gradients.items() if grad is None or float(grad.abs().max()) == 0}


@pytest.mark.parametrize("architecture", FAMILY.values(), ids=FAMILY)
def test_gradients_reach_every_parameter_that_is_used(
    architecture: Architecture, make_model: MakeModel
) -> None:
    model = make_model(architecture)
    with used_experts(model) as used:
        idle = without_gradient(model)
    unused = {name for name in dict(model.named_parameters()) if ".expert_" in name}
    unused = {name for name in unused if not any(name.startswith(path) for path in used)}
    assert idle == unused


@pytest.mark.parametrize("gating", ["top_2", "expert_selection"])
def test_gradients_reach_every_expert_where_tokens_have_several(gating: str, make_model: MakeModel) -> None:
    spec = MixtureSpec(
        num_experts=3, d_ff=20, gating=gating, word_embed_mode="concat", group_size=14, capacity_factor=3.0
    )
    assert without_gradient(make_model(two_stacks(feed_forward=spec))) == set()


def test_both_paths_have_the_same_gradients(make_model: MakeModel) -> None:
    model = make_model(GROUPED)
    assert without_gradient(model) == set()
    fused = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    with explicit(model):
        assert without_gradient(model) == set()
    for name, parameter in model.named_parameters():
        assert distance(fused[name], parameter.grad) < 5e-5 * max(1.0, float(parameter.grad.abs().max())), (
            name
        )


# --- experts ---


def test_the_balance_of_experts_is_part_of_the_loss(make_model: MakeModel) -> None:
    """As a share of it that grows with the coefficient."""
    losses = []
    for coefficient in (0.0, 0.1, 0.3):
        spec = MixtureSpec(num_experts=3, d_ff=20, group_size=14, capacity_factor=3.0, loss_coef=coefficient)
        losses.append(run(make_model(two_stacks(feed_forward=spec))).loss.item())
    assert losses[1] - losses[0] > 0.1
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-3)


def test_tokens_that_overflow_pass_by(make_model: MakeModel) -> None:
    model = make_model(MIXTURE)
    mixture = model.encoder.block[0].layer[1].mlp
    mixture.spec = replace(mixture.spec, group_size=1000, capacity_factor=0.01, min_expert_capacity=1)
    heard: list[Tensor] = []
    mixture.register_forward_hook(lambda _module, _inputs, output: heard.append(output))
    run(model)
    reached = (heard[0].abs().sum(-1) > 0).sum().item()
    assert 1 <= reached <= 3
