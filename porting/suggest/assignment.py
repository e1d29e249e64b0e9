"""The assignment of the largest total score: each row to at most one column, and the other way round.

Jonker and Volgenant's shortest augmenting paths (Computing 38, 1987), O(n^3) with the inner loop in NumPy:
a greedy choice would take the best pair first and leave its neighbours the wrong ones, where several names
are nearly alike (`wi_0`, `wi_1`). Equal totals are settled by the order of rows and columns, always alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def assign(scores: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of (row, column) of the largest total; a score of 0 or less is no pair.

    Args:
        scores: float64 [rows, columns].
    """
    rows, columns = scores.shape
    if not rows or not columns:
        return []
    if rows > columns:
        return sorted((row, column) for column, row in assign(scores.T))
    costs = -np.maximum(scores, 0.0)
    row_potential, column_potential = np.zeros(rows + 1), np.zeros(columns + 1)
    row_of = np.zeros(columns + 1, dtype=np.int64)  # 1-based; 0: free. Column 0 is where a path begins.
    for row in range(1, rows + 1):
        row_of[0] = row
        column = 0
        shortest = np.full(columns + 1, np.inf)
        came_from = np.zeros(columns + 1, dtype=np.int64)
        seen = np.zeros(columns + 1, dtype=bool)
        while row_of[column]:
            seen[column] = True
            current = row_of[column]
            reduced = costs[current - 1] - row_potential[current] - column_potential[1:]
            better = ~seen[1:] & (reduced < shortest[1:])
            shortest[1:][better] = reduced[better]
            came_from[1:][better] = column
            open_columns = np.where(seen, np.inf, shortest)
            open_columns[0] = np.inf
            nearest = int(open_columns.argmin())
            delta = shortest[nearest]
            row_potential[row_of[seen]] += delta
            column_potential[seen] -= delta
            shortest[~seen] -= delta
            column = nearest
        while column:
            row_of[column] = row_of[came_from[column]]
            column = int(came_from[column])
    pairs = [(int(row_of[column]) - 1, column - 1) for column in range(1, columns + 1) if row_of[column]]
    return sorted((row, column) for row, column in pairs if scores[row, column] > 0)
