"""Which tokenizer files come along, without any port's knowledge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from porting import tokenizer_files
from porting.errors import CheckpointError
from porting.port import port_named
from porting.tokenizer_files import FILE_NAMES, TokenizerFiles, copied_tokenizer_files, tokenizer_files_for

PORT = port_named("t5")


def fill(directory: Path) -> dict[str, bytes]:
    for name in (*FILE_NAMES, "model.ckpt-1.index", "README.md"):
        (directory / name).write_bytes(name.encode())
    return {name: name.encode() for name in FILE_NAMES}


def test_known_files_are_copied_as_they_are(tmp_path: Path) -> None:
    expected = fill(tmp_path)
    assert copied_tokenizer_files(tmp_path) == TokenizerFiles(expected)
    silent = replace(PORT, tokenizer_files=None)
    assert tokenizer_files_for(silent, tmp_path, None) == TokenizerFiles(expected)
    without_answer = replace(PORT, tokenizer_files=lambda _directory, _config: None)
    assert tokenizer_files_for(without_answer, tmp_path, None) == TokenizerFiles(expected)


def test_what_the_port_makes_goes_first(tmp_path: Path) -> None:
    fill(tmp_path)
    made = TokenizerFiles({"tokenizer.json": b"made"}, ("a note",), 3)
    port = replace(
        PORT, tokenizer_files=lambda directory, config: made if (directory, config) == (tmp_path, 7) else None
    )
    assert tokenizer_files_for(port, tmp_path, 7) is made


def test_nothing_there_is_nothing_copied(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").mkdir()
    assert copied_tokenizer_files(tmp_path) == TokenizerFiles({})


def test_a_file_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    monkeypatch.setattr(tokenizer_files, "MAX_FILE_BYTES", 20)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json is too large"):
        copied_tokenizer_files(tmp_path)
