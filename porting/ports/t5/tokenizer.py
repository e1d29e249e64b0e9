"""T5's tokenizer against the original's: SentencePiece with seqio's sentinels, and what is made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from porting.errors import InputError
from porting.ports.t5.sentencepiece_model import SPACE
from porting.ports.t5.tokenizer_files import EXTRA_IDS, find_model, panics_named, read_vocabulary
from porting.ports.t5.tokenizer_json import build_tokenizer
from porting.tokenizer import Tokenizer


def run_reference(request: Mapping[str, Any]) -> None:
    """Let SentencePiece read texts, in the reference process; see `porting.tokenizer`.

    The model is extended with SentencePiece's own message class, as `_load_model_internal` does it in
    seqio/vocabularies.py.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2
    path = _model_path(Path(request["checkpoint"]).parent)
    model = messages.ModelProto.FromString(path.read_bytes())
    if not any(piece.piece.lstrip(SPACE) == "<extra_id_0>" for piece in model.pieces):
        for i in reversed(range(EXTRA_IDS)):
            model.pieces.add(piece=f"{SPACE}<extra_id_{i}>", score=0.0, type=model.SentencePiece.USER_DEFINED)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    ids = [processor.encode(text) for text in request["texts"]]
    Path(request["output"]).write_text(json.dumps(ids), encoding="utf-8")


def encode(directory: Path, text: str) -> Sequence[int]:
    """The IDs of a text by the tokenizer.json that is made for a directory, without the end token.

    Args:
        directory: holds the checkpoint and its SentencePiece model.
        text: anything.

    Raises:
        InputError: there is no SentencePiece model.
    """
    ids: list[int] = _tokenizer(directory).encode(text, add_special_tokens=False).ids
    return ids


@lru_cache(maxsize=4)
def _tokenizer(directory: Path) -> Any:
    path = _model_path(directory)
    with panics_named(path):
        found = read_vocabulary(path, rows=None)
        return build_tokenizer(found.model, found.sentinels).tokenizer


def _model_path(directory: Path) -> Path:
    path = find_model(directory)
    if path is None:
        remedy = "Put the tokenizer's spiece.model beside the checkpoint."
        raise InputError(f"There is no SentencePiece model in {directory}.", remedy=remedy)
    return path


TOKENIZER = Tokenizer(reference=f"{__name__}:run_reference", encode=encode)
