"""Each gating on logits small enough to route by hand, and against plain numpy on random ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from porting.ports.t5.layer_specs import GATINGS, MixtureSpec
from porting.ports.t5.routing import Routing, route

SPEC = MixtureSpec(num_experts=3, d_ff=20)
# Five tokens, three experts: probabilities that are easy to say.
GATES = [
    [0.7, 0.2, 0.1],
    [0.6, 0.1, 0.3],
    [0.1, 0.8, 0.1],
    [0.9, 0.06, 0.04],
    [0.2, 0.3, 0.5],
]
ALL_REAL = [1, 1, 1, 1, 1]
# The third token is padding.
PADDED = [1, 1, 0, 1, 1]


def routed(
    gating: str,
    gates: list[list[float]],
    real: list[int],
    capacity: int,
    **settings: object,
) -> Routing:
    """One group, routed by probabilities."""
    spec = replace(SPEC, gating=gating, **settings)
    logits = torch.tensor([gates], dtype=torch.float32).log()
    return route(spec, logits, torch.tensor([real], dtype=torch.float32), capacity)


def places(routing: Routing) -> list[list[int]]:
    """The tokens that each expert of the only group holds, in order of their places; -1: an empty place."""
    return torch.where(routing.filled, routing.tokens, -1)[0].tolist()


def weights(routing: Routing) -> list[list[float]]:
    return [[round(weight, 5) for weight in expert] for expert in routing.weights[0].tolist()]


# --- the best expert, first come first served ---


def test_switch_sends_each_token_to_its_best_expert() -> None:
    routing = routed("switch", GATES, ALL_REAL, 4)
    assert places(routing) == [[0, 1, 3, -1], [2, -1, -1, -1], [4, -1, -1, -1]]
    assert weights(routing) == [[0.7, 0.6, 0.9, 0], [0.8, 0, 0, 0], [0.5, 0, 0, 0]]


def test_switch_lets_pass_by_what_comes_too_late() -> None:
    routing = routed("switch", GATES, ALL_REAL, 2)
    assert places(routing) == [[0, 1], [2, -1], [4, -1]]
    assert weights(routing) == [[0.7, 0.6], [0.8, 0], [0.5, 0]]


def test_switch_keeps_no_place_for_padding() -> None:
    routing = routed("switch", GATES, [0, 1, 0, 1, 1], 2)
    assert places(routing) == [[1, 3], [-1, -1], [4, -1]]


def test_switch_loss_is_balance_with_padding_taken_out_of_the_mean() -> None:
    # Shares of tokens 3/5, 1/5, 1/5; mean probabilities 0.5, 0.292, 0.208.
    balance = (0.6 * 0.5 + 0.2 * 0.292 + 0.2 * 0.208) / 3 * 9
    assert routed("switch", GATES, ALL_REAL, 4).loss.item() == pytest.approx(balance, rel=1e-5)
    assert routed("switch", GATES, PADDED, 4).loss.item() == pytest.approx(balance * 4 / 5, rel=1e-5)


# --- the best expert, the surest first ---


def test_switch_max_keeps_the_tokens_that_are_surest() -> None:
    routing = routed("switch_max", GATES, ALL_REAL, 2)
    assert places(routing) == [[3, 0], [2, -1], [4, -1]]
    assert weights(routing) == [[0.9, 0.7], [0.8, 0], [0.5, 0]]


def test_switch_max_never_takes_padding() -> None:
    assert places(routed("switch_max", GATES, [1, 1, 0, 0, 1], 2)) == [[0, 1], [-1, -1], [4, -1]]


def test_switch_max_of_tokens_as_sure_takes_the_first() -> None:
    even = [[0.6, 0.3, 0.1]] * 5
    assert places(routed("switch_max", even, [1, 0, 1, 1, 1], 2))[0] == [0, 2]


# --- two experts ---


def test_top_2_fills_the_second_choices_after_all_first_ones() -> None:
    routing = routed("top_2", GATES, ALL_REAL, 3)
    # Second choices: 1, 2, 0 (as good as 2, but first), 1, 1.
    assert places(routing) == [[0, 1, 3], [2, 0, 3], [4, 1, -1]]
    expected = [
        [0.7 / 0.9, 0.6 / 0.9, 0.9 / 0.96],
        [0.8 / 0.9, 0.2 / 0.9, 0.06 / 0.96],
        [0.5 / 0.8, 0.3 / 0.9, 0],
    ]
    np.testing.assert_allclose(routing.weights[0], expected, rtol=1e-5)


def test_top_2_never_routes_padding() -> None:
    routing = routed("top_2", GATES, PADDED, 5)
    assert places(routing) == [[0, 1, 3, -1, -1], [0, 3, 4, -1, -1], [4, 1, -1, -1, -1]]


def test_top_2_may_leave_the_second_choice_out() -> None:
    routing = routed("top_2", GATES, ALL_REAL, 3, second_policy="none")
    assert places(routing) == [[0, 1, 3], [2, -1, -1], [4, -1, -1]]
    assert weights(routing)[0] == [0.77778, 0.66667, 0.9375], "normalised by both all the same"


def test_top_2_goes_to_the_second_only_above_the_threshold() -> None:
    routing = routed("top_2", GATES, ALL_REAL, 3, second_policy="threshold", second_threshold=0.25)
    # Second gates, normalised: 0.222, 0.333, 0.111, 0.0625, 0.375.
    assert places(routing) == [[0, 1, 3], [2, 4, -1], [4, 1, -1]]


def test_top_2_loss_counts_real_tokens_and_the_second_place_if_asked() -> None:
    first = np.array([3, 0, 1]) / 5  # of all five, padding too
    proxy = (np.array(GATES)[[0, 1, 3, 4]]).sum(0) / 5
    loss = (first * proxy).mean() * 9
    assert routed("top_2", GATES, PADDED, 3).loss.item() == pytest.approx(loss, rel=1e-5)
    second = np.array([0, 3, 1]) / 5
    rest = np.array([[0, 2 / 3, 1 / 3], [0, 1 / 4, 3 / 4], [0.1, 0.8, 0.1], [0, 0.6, 0.4], [0.4, 0.6, 0]])
    loss += (second * rest.mean(0)).mean() * 9 / 2
    both = routed("top_2", GATES, PADDED, 3, use_second_place_loss=True)
    assert both.loss.item() == pytest.approx(loss, rel=1e-5)


# --- the n best experts ---


def test_top_n_of_one_keeps_the_gate_as_it_is() -> None:
    routing = routed("top_n", GATES, PADDED, 2, experts_per_token=1)
    assert places(routing) == [[0, 1], [-1, -1], [4, -1]]
    assert weights(routing) == [[0.7, 0.6], [0, 0], [0.5, 0]]


def test_top_n_of_all_sends_tokens_to_every_expert() -> None:
    routing = routed("top_n", GATES, ALL_REAL, 5, experts_per_token=3)
    assert places(routing) == [[0, 1, 3, 2, 4], [2, 0, 3, 4, 1], [4, 1, 0, 2, 3]]
    expected = [[GATES[token][expert] for token in held] for expert, held in enumerate(places(routing))]
    np.testing.assert_allclose(routing.weights[0], expected, rtol=1e-5)


def test_top_n_of_two_is_top_2() -> None:
    one, other = (routed(name, GATES, PADDED, 3, experts_per_token=2) for name in ("top_n", "top_2"))
    assert places(one) == places(other)
    np.testing.assert_allclose(one.weights, other.weights, rtol=1e-6)
    assert one.loss.item() == pytest.approx(other.loss.item(), rel=1e-6)


def test_top_n_holds_later_choices_to_the_policy() -> None:
    settings = {"second_policy": "threshold", "second_threshold": 0.25, "experts_per_token": 3}
    routing = routed("top_n", GATES, ALL_REAL, 5, **settings)
    assert places(routing) == [[0, 1, 3, -1, -1], [2, 4, -1, -1, -1], [4, 1, -1, -1, -1]]


# --- no token left behind ---


def test_ntlb_sends_what_overflows_to_the_next_best_expert() -> None:
    routing = routed("ntlb", GATES, ALL_REAL, 2, experts_per_token=2)
    # The fourth token finds its best expert full, and its second best with one place left.
    assert places(routing) == [[0, 1], [2, 3], [4, -1]]
    assert weights(routing) == [[0.7, 0.6], [0.8, 0.06], [0.5, 0]]


def test_ntlb_leaves_behind_what_finds_no_place_among_its_choices() -> None:
    full = [[0.7, 0.2, 0.1]] * 5
    assert places(routed("ntlb", full, ALL_REAL, 2, experts_per_token=2)) == [[0, 1], [2, 3], [-1, -1]]
    assert places(routed("ntlb", full, ALL_REAL, 2, experts_per_token=3)) == [[0, 1], [2, 3], [4, -1]]


def test_ntlb_never_routes_padding() -> None:
    full = [[0.7, 0.2, 0.1]] * 5
    assert places(routed("ntlb", full, [1, 0, 1, 0, 1], 2, experts_per_token=2)) == [
        [0, 2],
        [4, -1],
        [-1, -1],
    ]


def test_ntlb_loss_counts_every_choice() -> None:
    density = np.array([[3, 1, 1], [1, 3, 1]]) / 5  # first and second choices
    proxy = np.array(GATES).mean(0)
    loss = (density * proxy).mean() * 9
    routing = routed("ntlb", GATES, ALL_REAL, 2, experts_per_token=2)
    assert routing.loss.item() == pytest.approx(loss, rel=1e-5)
    padded = routed("ntlb", GATES, PADDED, 2, experts_per_token=2)
    assert padded.loss.item() == pytest.approx(loss * 4 / 5, rel=1e-5)


# --- experts that choose ---


def test_experts_select_the_tokens_that_suit_them_most() -> None:
    # What each expert gives to each token; the columns sum to 1.
    given = [[0.5, 0.1, 0.2], [0.1, 0.2, 0.2], [0.1, 0.4, 0.2], [0.25, 0.05, 0.3], [0.05, 0.25, 0.1]]
    routing = routed("expert_selection", given, ALL_REAL, 2)
    assert places(routing) == [[0, 3], [2, 4], [3, 0]]
    # Tokens that two experts take count half.
    np.testing.assert_allclose(routing.weights[0], [[0.25, 0.125], [0.4, 0.25], [0.15, 0.1]], rtol=1e-5)
    mean = np.array(given).mean(1)
    assert routing.loss.item() == pytest.approx((mean**2).mean() * 5 * 5, rel=1e-5)


def test_experts_that_select_give_padding_no_weight() -> None:
    given = [[0.5, 0.1, 0.2], [0.1, 0.2, 0.2], [0.1, 0.4, 0.2], [0.25, 0.05, 0.3], [0.05, 0.25, 0.1]]
    real = [1, 0, 0, 1, 0]
    routing = routed("expert_selection", given, real, 3)
    kept = np.array(given)[[0, 3]]
    kept = kept / kept.sum(0)
    for expert in range(3):
        found = dict(
            zip(routing.tokens[0, expert].tolist(), routing.weights[0, expert].tolist(), strict=True)
        )
        assert sum(weight for token, weight in found.items() if not real[token]) == 0
        assert (found[0], found[3]) == pytest.approx(tuple(kept[:, expert] / 3), rel=1e-5)
    mean = np.array([kept[0].mean(), kept[1].mean(), 0, 0, 0])
    assert routing.loss.item() == pytest.approx((mean[:2] ** 2).sum() / 5 * 2 * 5, rel=1e-5)


# --- all of them ---

SETTINGS = {"experts_per_token": 2}


@pytest.mark.parametrize("gating", [name for name in GATINGS if name != "expert_selection"])
def test_equal_gates_go_to_the_first_expert(gating: str) -> None:
    even = [[1 / 3, 1 / 3, 1 / 3]] * 2
    routing = routed(gating, even, [1, 1], 2, **SETTINGS)
    assert places(routing)[0] == [0, 1]
    later = places(routing)[1:]
    assert later == ([[0, 1], [-1, -1]] if gating in ("top_2", "top_n") else [[-1, -1], [-1, -1]])


@pytest.mark.parametrize("gating", GATINGS)
def test_groups_are_routed_apart(gating: str) -> None:
    spec = replace(SPEC, gating=gating, **SETTINGS)
    logits = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(5))
    real = torch.tensor([[1.0] * 7, [1.0] * 4 + [0.0] * 3, [0.0, 1.0] * 3 + [1.0], [1.0] + [0.0] * 6])
    together = route(spec, logits, real, 2)
    apart = [route(spec, logits[i : i + 1], real[i : i + 1], 2) for i in range(4)]
    assert torch.equal(together.tokens * together.filled, torch.cat([r.tokens * r.filled for r in apart]))
    assert torch.equal(together.weights, torch.cat([r.weights for r in apart]))
    assert together.loss.item() == pytest.approx(np.mean([r.loss.item() for r in apart]), rel=1e-5)


@pytest.mark.parametrize("gating", [name for name in GATINGS if name != "expert_selection"])
def test_a_group_of_padding_goes_nowhere(gating: str) -> None:
    routing = routed(gating, GATES, [0, 0, 0, 0, 0], 4, **SETTINGS)
    assert not bool(routing.filled.any())
    assert float(routing.weights.abs().max()) == 0
    assert routing.loss.item() == 0


@pytest.mark.parametrize("gating", GATINGS)
def test_losses_reach_the_router(gating: str) -> None:
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(3), requires_grad=True)
    routing = route(replace(SPEC, gating=gating, **SETTINGS), logits, torch.ones(2, 5), 2)
    for value in (routing.loss, routing.weights.sum()):
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=True)
        assert float(gradient.abs().max()) > 1e-4


def by_turns(gates: np.ndarray, real: np.ndarray, capacity: int, choices: int) -> np.ndarray:
    """Token by token and choice by choice: who goes where, [tokens, experts], 1 where a token has a place."""
    order = np.argsort(-gates, axis=1, kind="stable")
    taken = np.zeros(gates.shape[1], int)
    went = np.zeros(gates.shape, int)
    for choice in range(choices):
        for token in np.flatnonzero(real):
            expert = order[token, choice]
            if taken[expert] < capacity:
                taken[expert] += 1
                went[token, expert] = 1
    return went


@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 12),
    experts=st.integers(2, 5),
    capacity=st.integers(1, 6),
    choices=st.integers(1, 3),
    coarse=st.booleans(),
)
def test_first_come_first_served_as_in_plain_numpy(
    seed: int, tokens: int, experts: int, capacity: int, choices: int, coarse: bool
) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(tokens, experts)).astype(np.float32)
    logits = np.round(logits) if coarse else logits  # many ties
    real = generator.integers(0, 2, tokens).astype(np.float32)
    choices = min(choices, experts)
    gates = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    for gating, number in (("switch", 1), ("top_2", 2), ("top_n", choices)):
        spec = MixtureSpec(num_experts=experts, d_ff=20, gating=gating, experts_per_token=choices)
        routing = route(spec, torch.tensor(logits[None]), torch.tensor(real[None]), capacity)
        found = np.zeros((tokens, experts))
        for expert in range(experts):
            held = routing.tokens[0, expert][routing.filled[0, expert]]
            assert len(set(held.tolist())) == len(held)
            found[held, expert] = routing.weights[0, expert][routing.filled[0, expert]]
        went = by_turns(np.float32(np.exp(logits)) if coarse else gates, real, capacity, number)
        best = np.sort(gates, axis=1)[:, ::-1][:, :number].sum(1, keepdims=True)
        expected = went * (gates if number == 1 else gates / best)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7, err_msg=gating)
