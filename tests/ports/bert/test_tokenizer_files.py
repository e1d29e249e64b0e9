"""What AutoTokenizer loads of a vocab.txt; tests/integration/test_tokenizers.py has Google's beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from porting.errors import CheckpointError, ConfigError
from porting.ports.bert.port import PORT
from porting.ports.bert.tokenizer import encode
from porting.tokenizer import TEXTS
from porting.tokenizer_files import TokenizerFiles, tokenizer_files_for
from tests.ports.bert.make_checkpoint import CONFIG, WORDS


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "uncased_L-2"
    directory.mkdir()
    (directory / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n", encoding="utf-8")
    return directory


def made(directory: Path) -> TokenizerFiles:
    return tokenizer_files_for(PORT, directory, PORT.config_from_json(CONFIG))


def loaded(directory: Path, found: TokenizerFiles) -> Any:
    from transformers import AutoTokenizer

    directory.mkdir()
    for name, content in found.files.items():
        (directory / name).write_bytes(content)
    (directory / "config.json").write_text(json.dumps({**CONFIG, "model_type": "bert"}))
    return AutoTokenizer.from_pretrained(directory)


def test_auto_tokenizer_reads_as_the_port_does(source: Path, tmp_path: Path) -> None:
    found = made(source)
    assert found.files["vocab.txt"] == (source / "vocab.txt").read_bytes()
    assert "in lower case" in found.notes[0] and "uncased_L-2" in found.notes[0]
    tokenizer = loaded(tmp_path / "model", found)
    for text in TEXTS:
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ids == list(encode(source, text))
    read = tokenizer("the fox", "the dog")
    assert read.token_type_ids == [0, 0, 0, 0, 1, 1, 1]
    words = WORDS.split()
    assert [words[i] for i in read.input_ids] == ["[CLS]", "the", "fox", "[SEP]", "the", "dog", "[SEP]"]
    assert tokenizer.mask_token_id in tokenizer("a [MASK]").input_ids
    assert tokenizer.model_max_length == CONFIG["max_position_embeddings"]
    assert tokenizer.decode(tokenizer("the fox jumps").input_ids, skip_special_tokens=True) == "the fox jumps"


def test_a_cased_vocabulary_keeps_case(tmp_path: Path) -> None:
    source = tmp_path / "cased_L-2"
    source.mkdir()
    (source / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nThe\nthe\n")
    tokenizer = loaded(tmp_path / "model", made(source))
    assert tokenizer("The the THE", add_special_tokens=False).input_ids == [5, 6, 1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[UNK]\n[CLS]\n[SEP]\nfox\nfox\n", "'fox': expected one line, found 2"),
        (
            "\n".join(f"w{i}" for i in range(60)).encode(),
            "expected at most 51, the rows of the embedding, found 60",
        ),
        (b"[UNK]\n[CLS]\nfox", r"\[SEP\]: expected a line, found none"),
        (b"\xff\xfe", "not text in UTF-8"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(content: bytes, said: str, source: Path) -> None:
    (source / "vocab.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        made(source)
    assert "--no-tokenizer" in str(caught.value)


def test_a_vocabulary_that_cannot_be_read_is_said(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("porting.ports.bert.tokenizer_files.MAX_FILE_BYTES", 10)
    with pytest.raises(CheckpointError, match="too large"):
        made(source)
