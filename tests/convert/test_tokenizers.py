"""The tokenizer that lies beside a checkpoint goes along with it, there and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from porting.convert import check_directory, convert_checkpoint
from porting.errors import PortingError
from porting.tokenizer import TEXTS
from tests.convert.test_stream import bundle
from tests.ports.t5.mesh_variables import SMALL, mesh_shapes
from tests.ports.t5.sentencepiece_models import original, trained


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint, and a model of SentencePiece beside it."""
    shapes = mesh_shapes(replace(SMALL, vocab_size=1024))
    generator = np.random.default_rng(0)
    bundle(tmp_path / "source", {n: generator.random(s, dtype=np.float32) for n, s in shapes.items()})
    (tmp_path / "source" / "sentencepiece.model").write_bytes(trained("nmt_nfkc"))
    return tmp_path / "source"


def test_it_goes_there_and_back(source: Path, tmp_path: Path) -> None:
    conversion = convert_checkpoint(source, tmp_path / "model")
    assert conversion.tokenizer is not None
    assert {"spiece.model", "tokenizer.json", "tokenizer_config.json"} <= conversion.tokenizer.files.keys()
    assert conversion.tokenizer.texts > 100
    manifest = json.loads((tmp_path / "model" / "porting.json").read_text())
    assert manifest["tokenizer"]["texts_compared"] == conversion.tokenizer.texts
    assert "tokenizer.json" in {file["name"] for file in manifest["files"]}
    ours, theirs = AutoTokenizer.from_pretrained(tmp_path / "model"), original(trained("nmt_nfkc"))
    for text in ("The quick brown fox", TEXTS[0]):
        assert ours(text)["input_ids"] == [*theirs.encode(text), 1]

    back = convert_checkpoint(tmp_path / "model", tmp_path / "mesh", to="mesh")
    assert back.tokenizer is not None
    assert (tmp_path / "mesh" / "spiece.model").read_bytes() == trained("nmt_nfkc")
    assert check_directory(tmp_path / "mesh").others == ()


def test_it_can_be_left_away(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "model", tokenizer=False)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert not [name for name in names if "token" in name or "spiece" in name]


def test_one_that_is_damaged_is_said_before_anything_is_written(source: Path, tmp_path: Path) -> None:
    (source / "sentencepiece.model").write_bytes(b"no model")
    with pytest.raises(PortingError, match=r"sentencepiece\.model"):
        convert_checkpoint(source, tmp_path / "model", on_start=lambda _: pytest.fail("too late"))
    assert not (tmp_path / "model").exists()
    convert_checkpoint(source, tmp_path / "model", dry_run=True)
