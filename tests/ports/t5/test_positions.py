from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from porting.ports.t5.positions import AddPositions, inputs_region, positions_to_sentinels, sinusoids


def numpy_sinusoids(length: int, d_model: int) -> np.ndarray:
    """Sines, then cosines; wavelengths are a geometric series from 2 pi to 10000 times that."""
    number = d_model // 2
    wavelengths = np.geomspace(1, 10000, number) if number > 1 else np.ones(number)
    angles = np.arange(length)[:, None] / wavelengths
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


@pytest.mark.parametrize(("length", "d_model"), [(1, 4), (7, 12), (90, 22), (5, 2)])
def test_sinusoids_are_those_of_the_formula(length: int, d_model: int) -> None:
    found = sinusoids(length, d_model)
    assert found.shape == (length, d_model)
    np.testing.assert_allclose(found, numpy_sinusoids(length, d_model), atol=1e-5)


def test_the_slowest_sinusoid_hardly_moves_and_the_fastest_turns_by_one() -> None:
    first, second = sinusoids(2, 12)
    assert first.tolist() == [0.0] * 6 + [1.0] * 6
    assert second[0].item() == pytest.approx(np.sin(1.0))
    assert second[5].item() == pytest.approx(1e-4, rel=1e-4)


@pytest.mark.parametrize("kind", ["learned", "sinusoid"])
def test_positions_are_added_from_the_offset_on(kind: str) -> None:
    positions = AddPositions(kind, max_length=9, d_model=6)
    table = positions.weight.detach() if kind == "learned" else sinusoids(9, 6)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(positions(x), x + table[:3])
        torch.testing.assert_close(positions(x, offset=6), x + table[6:9])


@pytest.mark.parametrize("kind", ["learned", "sinusoid"])
def test_one_by_one_is_as_all_at_once(kind: str) -> None:
    positions = AddPositions(kind, max_length=9, d_model=6)
    x = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        steps = torch.cat([positions(x[:, i : i + 1], offset=i) for i in range(9)], dim=1)
        torch.testing.assert_close(steps, positions(x))


@pytest.mark.parametrize("kind", ["learned", "sinusoid"])
def test_more_positions_than_there_are_is_refused_with_the_number(kind: str) -> None:
    positions = AddPositions(kind, max_length=9, d_model=6)
    with pytest.raises(ValueError, match=r"10 positions; this model has 9 \(max_length\)"):
        positions(torch.zeros(1, 10, 6))
    with pytest.raises(ValueError, match="11 positions"):
        positions(torch.zeros(1, 2, 6), offset=9)
    assert positions(torch.zeros(1, 9, 6)).shape == (1, 9, 6)


@pytest.mark.parametrize("kind", ["learned", "sinusoid"])
def test_positions_take_the_type_of_what_they_are_added_to(kind: str) -> None:
    positions = AddPositions(kind, max_length=9, d_model=6)
    assert positions(torch.zeros(1, 3, 6, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_only_learned_positions_are_parameters() -> None:
    assert [tuple(p.shape) for p in AddPositions("learned", 9, 6).parameters()] == [(9, 6)]
    assert not list(AddPositions("sinusoid", 9, 6).parameters())


# --- the inputs part ---


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        ([5, 6, 1, 7, 8, 1, 0, 0], [1, 1, 1, 0, 0, 0, 1, 1]),  # inputs, 1, targets, 1, padding
        ([5, 1, 6, 1, 7, 8, 1, 9], [1, 1, 0, 0, 1, 1, 1, 0]),  # a second example behind the first
        ([5, 6, 7], [1, 1, 1]),
        ([1, 1, 1, 1], [1, 0, 1, 0]),
    ],
)
def test_the_inputs_part_ends_with_every_other_end(labels: list[int], part: list[int]) -> None:
    assert inputs_region(torch.tensor([labels])).long().tolist() == [part]


def test_examples_of_a_batch_have_inputs_parts_of_their_own() -> None:
    labels = torch.tensor([[5, 1, 6, 1], [5, 6, 7, 1]])
    assert inputs_region(labels).tolist() == [[True, True, False, False], [True] * 4]


# --- spans ---

FIRST_SENTINEL = 90
# The example of Mesh's relative_position_spans; <S> is 90 and more, <BOS> is 0.
INPUTS = [11, 12, 13, 99, 16, 17, 18, 98]  # A B C <S> F G H <S>
TARGETS = [0, 99, 14, 15, 98, 19, 20, 21]  # <BOS> <S> D E <S> I J K


def spans(
    ids: list[int] | None, memory: list[int], own: list[int] | None = None, its: list[int] | None = None
) -> Tensor:
    """Relative positions [l, m] of one example."""
    length = len(ids) if ids is not None else 1
    return positions_to_sentinels(
        None if ids is None else torch.tensor([ids]),
        torch.tensor([own or [1] * length]),
        torch.tensor([memory]),
        torch.tensor([its or [1] * len(memory)]),
        FIRST_SENTINEL,
    )[0]


def test_a_token_stands_where_its_sentinel_stands_in_the_inputs() -> None:
    found = spans(TARGETS, INPUTS)
    assert found.shape == (8, 8)
    # <BOS> at the beginning, D and E at the first sentinel, I J K at the second.
    assert found[:, 0].tolist() == [0, 3, 3, 3, 7, 7, 7, 7]
    assert found[2].tolist() == [3, 2, 1, 0, -1, -2, -3, -4]


def test_without_sentinels_every_token_stands_at_the_beginning() -> None:
    found = spans([0, 14, 15], [11, 12, 13, 16])
    assert found.tolist() == [[0, -1, -2, -3]] * 3


def test_the_first_sentinel_id_is_a_sentinel_and_the_one_before_is_none() -> None:
    assert spans([0, 90, 14], [11, 90, 12])[:, 0].tolist() == [0, 1, 1]
    assert spans([0, 89, 14], [11, 89, 12])[:, 0].tolist() == [0, 0, 0]


def test_a_sentinel_that_the_inputs_lack_stands_behind_them() -> None:
    assert spans([0, 99, 14, 98], INPUTS[:6])[:, 0].tolist() == [0, 3, 3, 6]


def test_step_by_step_every_token_stands_at_the_beginning() -> None:
    assert spans(None, INPUTS).tolist() == [[0, -1, -2, -3, -4, -5, -6, -7]]


def test_packed_examples_count_their_own_sentinels() -> None:
    inputs = [11, 99, 12, 21, 22, 98, 23]
    targets = [0, 99, 13, 0, 98, 24]
    found = spans(targets, inputs, [1, 1, 1, 2, 2, 2], [1, 1, 1, 2, 2, 2, 2])
    # Of the second example: the sentinel before it counts for both sides.
    assert found[:, 0].tolist() == [0, 1, 1, 3, 5, 5]
    assert found[4].tolist() == [5, 4, 3, 2, 1, 0, -1]


def test_the_longer_side_keeps_examples_apart() -> None:
    inputs = [99, 98, 97, 96, 95]
    assert spans([5, 6], inputs, [1, 2], [1, 1, 1, 1, 2])[:, 0].tolist() == [0, 4]
    targets = [99, 98, 97, 96, 5]
    assert spans(targets, [11, 12], [1, 1, 1, 1, 2], [1, 2])[:, 0].tolist() == [1, 1, 1, 1, 2]


def test_rows_of_a_batch_stand_apart() -> None:
    found = positions_to_sentinels(
        torch.tensor([TARGETS, [0, 14, 15, 99, 16, 17, 18, 19]]),
        torch.ones(2, 8, dtype=torch.long),
        torch.tensor([INPUTS, [99, 12, 13, 14, 15, 16, 17, 18]]),
        torch.ones(2, 8, dtype=torch.long),
        FIRST_SENTINEL,
    )
    assert found[0].tolist() == spans(TARGETS, INPUTS).tolist()
    assert found[1, :, 0].tolist() == [0] * 8
