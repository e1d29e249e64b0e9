"""The port's side; the step "tokenizer" holds it against Google's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from porting.errors import InputError
from porting.ports.bert.tokenizer import encode, lower_case
from tests.ports.bert.make_checkpoint import WORDS


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n", encoding="utf-8")
    return WORDS.split()


def test_what_looks_like_a_special_token_is_text(tmp_path: Path, words: list[str]) -> None:
    assert [words[i] for i in encode(tmp_path, "The [CLS] jumps")] == [
        "the",
        "[",
        "cl",
        "##s",
        "]",
        "jump",
        "##s",
    ]


def test_a_cased_checkpoint_is_known_by_its_name(tmp_path: Path) -> None:
    assert lower_case(tmp_path / "uncased_L-12_H-768_A-12")
    assert lower_case(tmp_path / "chinese_L-12_H-768_A-12")
    assert not lower_case(tmp_path / "cased_L-12_H-768_A-12")
    assert not lower_case(tmp_path / "multi_cased_L-12_H-768_A-12")
    cased = tmp_path / "cased_L-2_H-128_A-2"
    cased.mkdir()
    (cased / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nThe\nthe\n")
    assert list(encode(cased, "The the THE")) == [5, 6, 1]


def test_a_vocabulary_with_a_word_on_two_lines_is_refused(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*words, "fox"]))
    with pytest.raises(InputError, match="fox: expected one line, found 2"):
        encode(tmp_path, "the fox")


def test_a_missing_vocabulary_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no .*vocab\.txt"):
        encode(tmp_path, "the fox")
