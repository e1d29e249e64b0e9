"""What AutoTokenizer loads against SentencePiece itself, on models that SentencePiece trained here."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import porting.ports.t5.tokenizer_files as module
from porting.errors import CheckpointError, ConfigError, PortingError
from porting.ports.t5.port import PORT
from porting.ports.t5.sentencepiece_model import read_model
from porting.ports.t5.tokenizer import TOKENIZER
from porting.ports.t5.tokenizer_check import T5_TEXTS, equally_likely
from porting.ports.t5.tokenizer_files import find_model, tokenizer_files
from porting.ports.t5.tokenizer_json import build_tokenizer
from porting.tokenizer import TEXTS, compare_tokenizer
from porting.tokenizer_files import TokenizerFiles
from tests.ports.t5.sentencepiece_models import (
    FEW_RULES,
    MODELS,
    original,
    trained,
    with_sentinels,
    write_config,
)

SENTINELS = [f"<extra_id_{i}>" for i in reversed(range(100))]
# Scripts that are younger than the Unicode of some library here: what one composes, another leaves.
YOUNG = [(0x105C0, 0x105FF), (0x11380, 0x113FF), (0x16100, 0x1613F), (0x16D40, 0x16D7F), (0xE0FFC, 0xE0FFF)]
CONTROLS = {"<pad>", "</s>", "<unk>", "<s>", "<ctrl>"}


def config(rows: int = 1024) -> Any:
    return PORT.config_from_json(
        {
            "model_type": "t5",
            "vocab_size": rows,
            "d_model": 8,
            "d_kv": 4,
            "d_ff": 16,
            "num_layers": 1,
            "num_heads": 3,
        }
    )


def written(directory: Path, content: bytes, rows: int = 1024, name: str = "spiece.model") -> TokenizerFiles:
    (directory / name).write_bytes(content)
    found = tokenizer_files(directory, config(rows))
    assert found is not None
    return found


def loaded(directory: Path, found: TokenizerFiles, rows: int = 1024) -> Any:
    """By transformers, from a directory in which only these files and a config.json lie."""
    from transformers import AutoTokenizer

    directory.mkdir()
    for name, content in found.files.items():
        (directory / name).write_bytes(content)
    write_config(directory, rows)
    return AutoTokenizer.from_pretrained(directory)


@lru_cache
def both(name: str) -> tuple[Any, Any, Callable[[list[int], list[int]], bool]]:
    """SentencePiece, the tokenizer made of its model, and whether two readings are equally likely."""
    content = trained(name)
    model = read_model(content, name)
    made = build_tokenizer(model, SENTINELS).tokenizer
    extended = model.with_sentinels(SENTINELS)
    return original(content), made, lambda a, b: equally_likely(extended, a, b)


@pytest.mark.parametrize("name", MODELS)
def test_auto_tokenizer_reads_as_the_original(name: str, tmp_path: Path) -> None:
    sentencepiece, (_, _, tied) = original(trained(name)), both(name)
    found = written(tmp_path, trained(name))
    tokenizer = loaded(tmp_path / "model", found)
    assert found.texts > 130
    end = [sentencepiece.eos_id()]
    for text in (*TEXTS, *T5_TEXTS, " ".join(SENTINELS), "x<mask>## a\u2581b<ctrl> <extra_id_3>##"):
        if name == "no space before" and text.strip() in SENTINELS:
            continue
        ids, expected = tokenizer(text).input_ids, [*sentencepiece.encode(text), *end]
        assert ids == expected or tied(ids, expected), text
    sentinels = tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_99>"])
    assert (
        sentinels == [len(sentencepiece) - 1, len(sentencepiece) - 100] == [len(tokenizer) - 1, sentinels[1]]
    )


def test_what_transformers_says_of_it(tmp_path: Path) -> None:
    sentencepiece = original(trained("nmt_nfkc"))
    found = written(tmp_path, trained("nmt_nfkc"))
    tokenizer = loaded(tmp_path / "model", found)
    # transformers 4.57 would give token_type_ids too, which no T5 takes.
    said = json.loads(found.files["tokenizer_config.json"])["model_input_names"]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    read = tokenizer("the model <extra_id_0> reads<extra_id_1>", "and the text")
    assert list(read) == said == ["input_ids", "attention_mask"]
    assert read.input_ids.count(1) == 2
    assert set(SENTINELS) <= set(tokenizer.all_special_tokens)
    text = "the model <extra_id_0> reads <extra_id_1>"
    ids = sentencepiece.encode(text)
    assert tokenizer.decode(ids) == sentencepiece.decode(ids) == text
    assert tokenizer.decode([*ids, 1, 0, 0], skip_special_tokens=True) == "the model reads"
    tokenizer.save_pretrained(tmp_path / "again")
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert [again(each).input_ids for each in T5_TEXTS] == [tokenizer(each).input_ids for each in T5_TEXTS]
    tokenizer.add_special_tokens({"additional_special_tokens": ["<new>"]})
    assert len(tokenizer) - 1 in tokenizer("one<new>more").input_ids


def anything() -> st.SearchStrategy[str]:
    """Unicode text in which what is rare elsewhere is frequent."""
    assigned = st.characters(exclude_categories=("Cs", "Cn")).filter(
        lambda c: not any(first <= ord(c) <= last for first, last in YOUNG)
    )
    marks = st.sampled_from([chr(c) for c in range(0x300, 0x3100) if unicodedata.combining(chr(c))])
    syllables = st.characters(min_codepoint=0x1100, max_codepoint=0x11FF)
    halves = st.characters(min_codepoint=0xFF61, max_codepoint=0xFF9F)
    spaces = st.sampled_from(list(" \t\r\n\u00a0\u2581\u3000\x01\u200b\u200d"))
    words = st.sampled_from(
        ["<extra_id_0>", "<extra_id_17>", " <extra_id_5>", "<extra_id_", "</s>", "<pad>", "<0x41>"]
    )
    letters = st.sampled_from(list("abcAEOUeou<>/_0x\u0e33\u1100\uac00\u3042\u0e01\u00c5"))
    return st.lists(assigned | marks | syllables | halves | spaces | words | letters, max_size=12).map(
        "".join
    )


@pytest.mark.parametrize(
    "name", ["nmt_nfkc", "nmt_nfkc with bytes", "nmt_nfkc_cf", "identity with bytes", "phrases"]
)
def test_any_text_is_read_as_the_original_reads_it(name: str) -> None:
    sentencepiece, made, tied = both(name)

    @given(anything())
    @settings(max_examples=300, deadline=None, derandomize=True)
    @example("e\u0302\u0301\u0323 \u1112\u1161\u11ab \uff8a\uff9e")
    def check(text: str) -> None:
        if sentencepiece.normalize(text).strip("\u2581 ") in CONTROLS:
            return  # see the test below
        expected, ids = sentencepiece.encode(text), made.encode(text, add_special_tokens=False).ids
        assert ids == expected or tied(ids, expected)

    check()


def test_bytes_become_text_again() -> None:
    sentencepiece, made, _ = both("nmt_nfkc with bytes")
    for text in ("one \U0001f600 two <extra_id_3>", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35"):
        ids = sentencepiece.encode(text)
        assert made.decode(ids, skip_special_tokens=False) == sentencepiece.decode(ids) == text


def test_decomposed_text_keeps_its_accents() -> None:
    sentencepiece, made, _ = both("nmt_nfkc with bytes")
    for text in (
        "Tie\u0302\u0301ng Vie\u0323\u0302t",
        "\u1112\u1161\u11ab\u1100\u116e\u11a8",
        "\uff8a\uff9e",
        "\u2460\u0301",
    ):
        assert made.normalizer.normalize_str(text) == sentencepiece.normalize(text)


def test_the_only_text_that_is_a_control_piece_is_its_name_alone() -> None:
    sentencepiece, made, _ = both("nmt_nfkc")
    assert made.encode("</s>", add_special_tokens=False).ids == [1] != sentencepiece.encode("</s>")
    for text in ("a </s> b", "</s></s>", "</s>.", "<pad> <unk>"):
        assert made.encode(text, add_special_tokens=False).ids == sentencepiece.encode(text)


def test_names_that_cannot_be_kept_apart_are_said(tmp_path: Path) -> None:
    """Pieces go across every place in them, as may be in a large vocabulary."""
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2
    model = messages.ModelProto.FromString(trained("identity with bytes"))
    for pair in {a + b for name in ("</s>", "<0x41>", "<extra_id_0>") for a, b in pairwise(name)}:
        if not any(piece.piece == pair for piece in model.pieces):
            model.pieces.add(piece=pair, score=-9.0)
    found = written(tmp_path, model.SerializeToString())
    assert any(
        note.startswith("</s>, <extra_id_") and "unlike in the original" in note for note in found.notes
    )
    tokenizer = loaded(tmp_path / "model", found)
    assert tokenizer("a </s>").input_ids[-2:] == [1, 1]
    sentinel = len(model.pieces) + 99
    assert tokenizer("a <extra_id_0>").input_ids[-2:] == [sentinel, 1]


# How many sentinels there are.


def test_100_sentinels_where_there_is_room(tmp_path: Path) -> None:
    size = len(read_model(trained("nmt_nfkc"), "").pieces)
    found = written(tmp_path, trained("nmt_nfkc"), rows=size + 100)
    assert f"<extra_id_0> is {size + 99}" in found.notes[0] and "assumed" in found.notes[0]
    none = written(tmp_path, trained("nmt_nfkc"), rows=size + 99)
    assert "no sentinels" in none.notes[0]
    tokenizer = loaded(tmp_path / "model", none)
    assert len(tokenizer) == size
    assert tokenizer("a <extra_id_0>").input_ids == [
        *original(trained("nmt_nfkc"), 0).encode("a <extra_id_0>"),
        1,
    ]


def test_a_model_that_brings_its_sentinels_keeps_them(tmp_path: Path) -> None:
    """As mT5's does."""
    content = with_sentinels(trained("nmt_nfkc"), 7)
    tokenizer = loaded(tmp_path / "model", written(tmp_path, content))
    sentencepiece = original(content, 0)
    assert len(tokenizer) == len(sentencepiece)
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") == len(sentencepiece) - 1
    for text in (*T5_TEXTS, "<extra_id_6> <extra_id_7>"):
        assert tokenizer(text).input_ids == [*sentencepiece.encode(text), 1]


def test_a_tokenizer_with_more_pieces_than_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the tokenizer of this model") as caught:
        written(tmp_path, trained("nmt_nfkc"), rows=128)
    assert "--no-tokenizer" in str(caught.value)


def test_unusual_ids_are_said(tmp_path: Path) -> None:
    found = written(tmp_path, trained("SentencePiece's own IDs"))
    assert any("end token is 2" in note for note in found.notes)
    assert any("no padding token" in note and "pad_token is <unk>" in note for note in found.notes)
    tokenizer = loaded(tmp_path / "model", found)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 2, 0)


# Which file.


def test_nothing_there_is_nothing_made(tmp_path: Path) -> None:
    assert tokenizer_files(tmp_path, config()) is None


@pytest.mark.parametrize("name", ["spiece.model", "sentencepiece.model", "cc_all.32000.model", "mine.spm"])
def test_the_model_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    assert set(written(tmp_path, trained("identity"), name=name).files) == {
        "spiece.model",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
    }


def test_several_models_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    for name in ("one.model", "two.model"):
        (tmp_path / name).write_bytes(name.encode())
    with pytest.raises(CheckpointError, match="several tokenizers") as caught:
        find_model(tmp_path)
    assert "Keep the one that the model was trained with as spiece.model" in str(caught.value)
    for name in ("spiece.model", "sentencepiece.model"):
        (tmp_path / name).write_bytes(b"alike")
    found = find_model(tmp_path)
    assert found is not None and found.name in ("spiece.model", "sentencepiece.model")
    (tmp_path / "spiece.model").write_bytes(b"unlike")
    with pytest.raises(CheckpointError, match="several tokenizers"):
        find_model(tmp_path)


def test_a_tokenizer_json_beside_it_is_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    found = written(tmp_path, trained("identity"))
    assert any("the one beside it was not copied" in note for note in found.notes)
    assert json.loads(found.files["tokenizer.json"])["model"]["type"] == "Unigram"


# What cannot be used.


@pytest.mark.parametrize("kind", ["bpe", "word", "char"])
def test_other_kinds_of_models_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"model_type: expected unigram, found {kind}") as caught:
        written(tmp_path, trained("identity", model_type=kind))
    assert "--no-tokenizer" in str(caught.value)


def test_a_space_behind_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="treat_whitespace_as_suffix"):
        written(tmp_path, trained("identity", treat_whitespace_as_suffix=True))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no SentencePiece model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"not a model at all", "corrupt"),
        (b"\x0a\x05\x0a\x01a\x18\x09", "known kind"),
    ],
)
def test_other_files_are_refused(content: bytes, said: str, tmp_path: Path) -> None:
    with pytest.raises(PortingError, match=said):
        written(tmp_path, content)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model whose charsmap has five rules."""
    rules = tmp_path_factory.mktemp("rules") / "rules.tsv"
    rules.write_text(FEW_RULES)
    return trained(normalization_rule_tsv=str(rules), vocab_size=400)


def test_own_rules_for_characters_are_followed(small: bytes, tmp_path: Path) -> None:
    tokenizer = loaded(tmp_path / "model", written(tmp_path, small))
    sentencepiece = original(small)
    for text in ("\u212b A\u030a \ufb01ne \x01 \u03a9\u0301\u0301", "A\u0301 \u1112\u1161"):
        assert tokenizer(text).input_ids == [*sentencepiece.encode(text), 1]


def damaged(content: bytes) -> Iterator[bytes]:
    """Cut, and with bytes changed, put in and taken out, often where the charsmap and the settings are."""
    chance = random.Random(5)
    for _ in range(40):
        yield content[: chance.randrange(len(content))]
    for _ in range(360):
        bytes_ = bytearray(content)
        for _ in range(chance.choice([1, 1, 2, 8])):
            at = chance.choice([chance.randrange(len(bytes_)), len(bytes_) - 1 - chance.randrange(2000)])
            step = chance.random()
            if step < 0.6:
                bytes_[at] = chance.randrange(256)
            elif step < 0.8:
                bytes_.insert(at, chance.randrange(256))
            else:
                del bytes_[at]
        yield bytes(bytes_)


def test_damaged_models_are_our_error(small: bytes, tmp_path: Path) -> None:
    refused = 0
    for content in damaged(small):
        try:
            written(tmp_path, content)
        except PortingError as error:
            refused += 1
            assert re.search(r"spiece\.model", str(error))
    assert 200 < refused < 400  # some are still models


def test_a_trie_that_leads_out_of_itself_is_refused(small: bytes) -> None:
    model = read_model(small, "")
    size = int.from_bytes(model.charsmap[:4], "little")
    for at in range(4, min(size, 1200), 4):
        blob = bytearray(model.charsmap)
        blob[at : at + 4] = ((0x3FFFFF << 10) | 0x200 | blob[at]).to_bytes(4, "little")
        forged = small.replace(model.charsmap, bytes(blob))
        try:
            read_model(forged, "forged")
        except CheckpointError as error:
            assert "precompiled_charsmap" in str(error)
            break
    else:
        raise AssertionError("no forged trie was refused")


def test_a_tokenizer_that_reads_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check, not what is made: here it is made wrong on purpose."""
    from tokenizers import normalizers

    right = build_tokenizer

    def wrong(model: Any, sentinels: Any) -> Any:
        built = right(model, sentinels)
        built.tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Lowercase(), built.tokenizer.normalizer]
        )
        return built

    monkeypatch.setattr(module, "build_tokenizer", wrong)
    with pytest.raises(ConfigError, match="does not read texts as SentencePiece does") as caught:
        written(tmp_path, trained("nmt_nfkc"))
    assert "UPPER lower MiXeD" in str(caught.value) and "--no-tokenizer" in str(caught.value)
    assert re.search(r"expected the original's \[\d.*found \[\d", str(caught.value))


def test_sentinels_in_another_order_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = build_tokenizer
    monkeypatch.setattr(module, "build_tokenizer", lambda model, names: right(model, list(reversed(names))))
    with pytest.raises(ConfigError, match="ID of <extra_id_99>"):
        written(tmp_path, trained("nmt_nfkc"))


def test_the_original_in_a_process_of_its_own_reads_alike(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(trained("nmt_nfkc with bytes"))
    checkpoint = tmp_path / "model.ckpt-1"
    _, _, tied = both("nmt_nfkc with bytes")
    found = compare_tokenizer(TOKENIZER, checkpoint, [*TEXTS, *T5_TEXTS])
    assert [each.text for each in found if not tied(list(each.reference), list(each.port))] == []
