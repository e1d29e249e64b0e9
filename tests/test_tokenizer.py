"""A tokenizer held against the original's; the original here is Python code in the reference process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from porting.errors import ReferenceRunError
from porting.tokenizer import TEXTS, Tokenizer, compare_tokenizer


def original(request: Mapping[str, Any]) -> None:
    """Bytes, in lower case; the vocabulary's name comes first."""
    ids = [[len(Path(request["checkpoint"]).name), *text.lower().encode()] for text in request["texts"]]
    Path(request["output"]).write_text(json.dumps(ids))


def loses_one(request: Mapping[str, Any]) -> None:
    Path(request["output"]).write_text(json.dumps([[1]] * (len(request["texts"]) - 1)))


REFERENCE = f"{__name__}:original"
CHECKPOINT = Path("somewhere/model.ckpt")


def test_the_same_ids_are_no_difference() -> None:
    right = Tokenizer(REFERENCE, lambda _folder, text: [10, *text.lower().encode()])
    assert compare_tokenizer(right, CHECKPOINT) == []


def test_a_difference_names_the_text_and_the_first_place() -> None:
    wrong = Tokenizer(REFERENCE, lambda _folder, text: [10, *text.encode()])
    (found,) = compare_tokenizer(wrong, CHECKPOINT, ["lower", "then UPPER"])
    assert found.text == "then UPPER" and found.index == 6
    assert found.reference[6] == ord("u") and found.port[6] == ord("U")


def test_ids_that_end_early_are_a_difference() -> None:
    short = Tokenizer(REFERENCE, lambda _folder, text: [10, *text.lower().encode()][:3])
    (found,) = compare_tokenizer(short, CHECKPOINT, ["abcd"])
    assert found.index == 3


def test_the_vocabularys_folder_reaches_the_port() -> None:
    seen: list[Path] = []
    listens = Tokenizer(REFERENCE, lambda folder, text: [seen.append(folder) or 10, *text.encode()])
    compare_tokenizer(listens, CHECKPOINT, ["a"])
    assert seen == [CHECKPOINT.parent]


def test_an_original_that_loses_texts_is_an_error() -> None:
    with pytest.raises(ReferenceRunError, match="read 1 of 2 texts"):
        compare_tokenizer(
            Tokenizer(f"{__name__}:loses_one", lambda _folder, _text: []), CHECKPOINT, ["a", "b"]
        )


def test_the_texts_are_awkward() -> None:
    assert "" in TEXTS and any("\u0301" in text for text in TEXTS) and any("\n" in text for text in TEXTS)
