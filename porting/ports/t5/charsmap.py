"""SentencePiece's `precompiled_charsmap`: which characters its normalizer rewrites, read and checked.

Source: `Normalizer::DecodePrecompiledCharsMap` and `Normalizer::NormalizePrefix` in sentencepiece's
normalizer.cc, and the double array of darts-clone (`darts.h`): four bytes of size, a double-array trie of
that many bytes, and the replacements, each ended by a null byte.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from porting.errors import CheckpointError, Problem

Integers = npt.NDArray[np.int64]

# The longest key that is followed, in bytes, and the most places of the trie that are looked at.
# SentencePiece's own rules have keys of up to 12 bytes, and 225,000 of them.
MAX_KEY_BYTES = 64
MAX_PLACES = 4_000_000
_LABELS = np.arange(1, 256, dtype=np.int64)


@dataclass(frozen=True)
class CharsMap:
    """The rules that rewrite several characters at once, as far as a tokenizer must know them.

    Attributes:
        joined: for each character the characters that stand right before it in some rule.
    """

    joined: Mapping[str, frozenset[str]]


def read_charsmap(blob: bytes, where: str) -> CharsMap:
    """Walk the whole trie.

    Neither SentencePiece nor `tokenizers` checks where a trie leads, and a forged one leads out of it.

    Args:
        blob: `normalizer_spec.precompiled_charsmap`, not empty.
        where: the file, for errors.

    Raises:
        CheckpointError: it is damaged: a place outside of the trie, a replacement without an end, or text
            that is not UTF-8.
    """
    size = int.from_bytes(blob[:4], "little")
    if len(blob) < 4 or size % 4 or not 4 <= size <= len(blob) - 4:
        raise _damaged(where, "a trie and its replacements", f"{len(blob)} bytes, a trie of {size}")
    units = np.frombuffer(blob[4 : 4 + size], "<u4").astype(np.int64)
    replacements = blob[4 + size :]
    pairs: defaultdict[int, set[int]] = defaultdict(set)
    starts = []
    for previous, current, values in _walk(units, where):
        starts.append(values)
        for first, second in np.unique(np.stack([previous, current]), axis=1).T.tolist():
            pairs[second].add(first)
    _check_replacements(np.unique(np.concatenate(starts)), replacements, where)
    try:
        joined = {chr(second): frozenset(map(chr, firsts)) for second, firsts in pairs.items()}
        replacements.decode("utf-8")
        "".join(joined).encode("utf-8")
    except ValueError as error:
        raise _damaged(where, "text in UTF-8", str(error)) from None
    return CharsMap(joined)


def _walk(units: Integers, where: str) -> Iterator[tuple[Integers, Integers, Integers]]:
    """From the root downwards, byte by byte.

    Yields:
        For each length of keys: characters that stand one behind the other in a key, before and behind, int64
        [pairs] each, and where the replacements of the keys that end here begin, int64 [keys].
    """
    # What is known of a place: where it is, the bytes that are still to come of the character, the character
    # as far as it was read, and the one before it (-1: none).
    places = np.array([[_offset(units[:1])[0], 0, 0, -1]], dtype=np.int64)
    looked_at = 0
    for _ in range(MAX_KEY_BYTES):
        looked_at += len(places)
        if looked_at > MAX_PLACES:
            raise _damaged(where, f"at most {MAX_PLACES} places in the trie", "more")
        found = [_step(units, part, where) for part in np.array_split(places, len(places) // 10_000 + 1)]
        places = np.concatenate([children for children, _ in found])
        values = np.concatenate([values for _, values in found])
        whole = places[places[:, 1] == 0]
        within = whole[whole[:, 3] >= 0]
        yield within[:, 3], within[:, 2], values
        # A place is reached by many keys: the trie shares their ends.
        places[places[:, 1] == 0, 3] = whole[:, 2]
        places[places[:, 1] == 0, 2] = 0
        places = np.unique(places, axis=0)
        if not len(places):
            return
    raise _damaged(where, f"keys of at most {MAX_KEY_BYTES} bytes", "a longer one")


def _step(units: Integers, places: Integers, where: str) -> tuple[Integers, Integers]:
    """The children of places, int64 [children, 4], and where replacements begin that belong to their keys."""
    children = places[:, :1] ^ _LABELS
    if (children >= len(units)).any() or (places[:, 0] >= len(units)).any():
        raise _damaged(where, f"places below {len(units)}", f"{max(children.max(), places[:, 0].max())}")
    # The label takes eight bits, and bit 31 says that a unit is a value and no child.
    parents, labels = np.nonzero((units[children] & 0x800000FF) == _LABELS)
    at = children[parents, labels]
    byte = _LABELS[labels]
    below = at ^ _offset(units[at])
    ends = below[(units[at] >> 8 & 1) == 1]
    if (ends >= len(units)).any():
        raise _damaged(where, f"places below {len(units)}", f"{ends.max()}")
    missing, character, previous = places[parents, 1:].T
    first = missing == 0
    length = np.select([byte < 0x80, byte < 0xC0, byte < 0xE0, byte < 0xF0, byte < 0xF8], [1, 9, 2, 3, 4], 9)
    wrong = np.where(first, length == 9, (byte & 0xC0) != 0x80)
    if wrong.any():
        raise _damaged(where, "keys in UTF-8", f"a byte {byte[wrong][0]:#x}")
    character = np.where(
        first, byte & np.where(length == 1, 0x7F, 0xFF >> (length + 1)), character << 6 | byte & 0x3F
    )
    missing = np.where(first, length, missing) - 1
    if (character > 0x10FFFF).any():
        raise _damaged(where, "keys in UTF-8", "a code point above 0x10ffff")
    return np.stack([below, missing, character, previous], axis=1), units[ends] & 0x7FFFFFFF


def _offset(units: Integers) -> Integers:
    """Where the children of a unit are, relative to it: `DoubleArrayUnit::offset`."""
    return (units >> 10) << ((units & 0x200) >> 6)


def _check_replacements(starts: Integers, replacements: bytes, where: str) -> None:
    if len(starts) and (starts[-1] >= len(replacements) or not replacements.endswith(b"\0")):
        raise _damaged(where, f"replacements within {len(replacements)} bytes", f"one at {starts[-1]}")
    inside = np.frombuffer(replacements, np.uint8)[starts] if len(starts) else np.empty(0, np.uint8)
    if ((inside & 0xC0) == 0x80).any():
        raise _damaged(where, "replacements in UTF-8", "one that begins within a character")


def _damaged(where: str, expected: str, found: str) -> CheckpointError:
    problem = Problem("normalizer_spec.precompiled_charsmap", expected, found)
    return CheckpointError(f"{where} is damaged", problems=[problem])
