"""The demonstration's task: put distinct letters in alphabetical order.

Ids as in T5: 0 pads, 1 ends a sequence, 2 is unknown; 3 to 28 are the letters a to z.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

PAD, END, FIRST_LETTER = 0, 1, 3
LETTERS = 26
VOCAB_SIZE = FIRST_LETTER + LETTERS
MAX_LETTERS = 10
LENGTH = MAX_LETTERS + 1


def examples(
    count: int, generator: np.random.Generator, *, test: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, int32 [count, LENGTH] each.

    Words whose ids sum to a multiple of ten are for testing: no training ever sees them.
    """
    inputs = np.zeros((count, LENGTH), np.int32)
    targets = np.zeros((count, LENGTH), np.int32)
    row = 0
    while row < count:
        size = int(generator.integers(2, MAX_LETTERS + 1))
        word = FIRST_LETTER + generator.permutation(LETTERS)[:size]
        if (int(word.sum()) % 10 == 0) != test:
            continue
        inputs[row, : size + 1] = [*word, END]
        targets[row, : size + 1] = [*np.sort(word), END]
        row += 1
    return inputs, targets


def as_text(ids: Iterable[int]) -> str:
    """Letters up to the end of the sequence."""
    text = ""
    for token in ids:
        if token == END:
            break
        if token >= FIRST_LETTER:
            text += chr(ord("a") + int(token) - FIRST_LETTER)
    return text
