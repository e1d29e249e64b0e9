from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from porting.suggest.assignment import assign


def best_total(scores: np.ndarray) -> float:
    """By trying everything; a score of 0 stands for no pair."""
    if scores.shape[0] > scores.shape[1]:
        scores = scores.T
    rows = range(scores.shape[0])
    return max(
        sum(max(scores[row, column], 0) for row, column in zip(rows, columns, strict=True))
        for columns in permutations(range(scores.shape[1]), len(rows))
    )


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10**6), st.booleans())
def test_the_total_is_the_largest_there_is(rows: int, columns: int, seed: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.uniform(-0.5, 1.0, (rows, columns))
    if ties:
        scores = np.round(scores * 2) / 2
    pairs = assign(scores)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert sum(scores[pair] for pair in pairs) == pytest.approx(best_total(scores))


def test_the_best_pair_is_left_where_its_neighbours_gain_more() -> None:
    # Greedy would take 0.9 and be left with 0.0.
    assert assign(np.array([[0.9, 0.8], [0.8, 0.0]])) == [(0, 1), (1, 0)]


def test_equal_scores_are_settled_by_order_and_nothing_pairs_with_nothing() -> None:
    assert assign(np.ones((3, 3))) == [(0, 0), (1, 1), (2, 2)]
    assert assign(np.zeros((2, 2))) == []
    assert assign(np.zeros((0, 3))) == assign(np.zeros((3, 0))) == []
