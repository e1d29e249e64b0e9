"""A SentencePiece model file, read without SentencePiece, and checked before that library sees it.

Source: sentencepiece_model.proto; field numbers are those of its ModelProto, TrainerSpec and NormalizerSpec.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

from porting.checkpoint.protobuf_wire import Message, encode_field
from porting.errors import CheckpointError, ConfigError, Problem
from porting.ports.t5.charsmap import CharsMap, read_charsmap

MAX_PIECES = 2_000_000
SPACE = "\u2581"
UNIGRAM = 1
_MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}


class Kind(IntEnum):
    """`ModelProto.SentencePiece.Type`: what a piece may be used for."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_KINDS = {int(kind): kind for kind in Kind}
_SCORE = struct.Struct("<f")


class Piece(NamedTuple):
    """One piece: its text, in which a space is U+2581; its log probability, a float32; what it is."""

    text: str
    score: float
    kind: Kind = Kind.NORMAL


@dataclass(frozen=True)
class SentencePieceModel:
    """What a model file says of how text is read.

    Attributes:
        pieces: by ID.
        unknown_id: what is read where no piece fits.
        pad_id, eos_id, bos_id: None where the model has none.
        charsmap: the normalizer's rules as they stand in the file; empty: characters stay as they are.
        rules: ... as far as they rewrite several characters at once.
        add_dummy_prefix: text is read as if it began with a space.
        remove_extra_whitespaces: spaces at both ends are dropped, and one is left of several.
        byte_fallback: what no piece fits is read as its UTF-8 bytes.
        content: the file.
    """

    pieces: tuple[Piece, ...]
    unknown_id: int
    pad_id: int | None
    eos_id: int | None
    bos_id: int | None
    charsmap: bytes
    rules: CharsMap | None
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    byte_fallback: bool
    content: bytes

    def with_sentinels(self, names: Sequence[str]) -> SentencePieceModel:
        """With further pieces at the end, as the original adds them when it loads a model.

        Source: `_load_model_internal` in seqio/vocabularies.py: each is user-defined, its score 0, and begins
        with a space: text is a sentinel only at the beginning of a word.
        """
        pieces = [Piece(SPACE + name, 0.0, Kind.USER_DEFINED) for name in names]
        # Repeated fields of a message may lie anywhere in it, so that more of them are appended.
        content = self.content + b"".join(map(_encoded, pieces))
        return replace(self, pieces=(*self.pieces, *pieces), content=content)


def read_model(content: bytes, where: str) -> SentencePieceModel:
    """Read and check a model file.

    Args:
        content: the whole file.
        where: its path, for errors.

    Raises:
        CheckpointError: it is no model file, or a damaged one.
        ConfigError: it is of a kind that `tokenizers` cannot read as SentencePiece does.
    """
    message = Message.parse(content, where)
    if not 0 < message.count(1) <= MAX_PIECES:
        problem = Problem(where, f"1 to {MAX_PIECES} pieces", str(message.count(1)))
        raise CheckpointError(f"{where} is no SentencePiece model", problems=[problem])
    pieces = tuple(_piece(each, where) for each in message.all_bytes_of(1))
    _check_pieces(pieces, where)
    trainer, normalizer = message.message(2), message.message(3)
    _check_kind(trainer, normalizer, where)
    blob = normalizer.bytes_of(2)
    return SentencePieceModel(
        pieces=pieces,
        unknown_id=next(i for i, piece in enumerate(pieces) if piece.kind == Kind.UNKNOWN),
        pad_id=_control_id(trainer, 48, "<pad>", pieces),
        eos_id=_control_id(trainer, 47, "</s>", pieces),
        bos_id=_control_id(trainer, 46, "<s>", pieces),
        charsmap=blob,
        rules=read_charsmap(blob, where) if blob else None,
        add_dummy_prefix=_flag(normalizer, 3),
        remove_extra_whitespaces=_flag(normalizer, 4),
        byte_fallback=bool(trainer.integer(35)),
        content=content,
    )


def _piece(data: bytes, where: str) -> Piece:
    try:
        found = _usual_piece(data)
        if found:
            return found
        message = Message.parse(data, where)
        kind = Kind(message.integer(3) if message.count(3) else Kind.NORMAL)
        (score,) = struct.unpack("<f", struct.pack("<I", message.fixed32(2)))
        return Piece(message.bytes_of(1).decode("utf-8"), score, kind)
    except ValueError as error:
        problem = Problem(where, "a piece in UTF-8 of a known kind", str(error))
        raise CheckpointError(f"{where} is damaged", problems=[problem]) from None


def _usual_piece(data: bytes) -> Piece | None:
    """A piece as it is always written: text of less than 128 bytes, score, and perhaps its kind.

    There are hundreds of thousands of them, and taking them apart without a schema takes seconds.
    """
    if data[:1] != b"\x0a" or len(data) < 7 or data[1] > 0x7F:
        return None
    end = 2 + data[1]
    rest = data[end:]
    if rest[:1] != b"\x15" or not (len(rest) == 5 or (len(rest) == 7 and rest[5] == 0x18)):
        return None
    kind = _KINDS[rest[6]] if len(rest) == 7 and rest[6] in _KINDS else None
    if len(rest) == 7 and kind is None:
        return None
    return Piece(data[2:end].decode("utf-8"), _SCORE.unpack_from(rest, 1)[0], kind or Kind.NORMAL)


def _check_pieces(pieces: Sequence[Piece], where: str) -> None:
    problems = []
    twice = [text for text, count in Counter(piece.text for piece in pieces).items() if count > 1]
    problems += [Problem(repr(text), "one piece", "several") for text in twice[:10]]
    for number, piece in enumerate(pieces):
        if not piece.text or "\0" in piece.text:
            problems.append(Problem(f"piece {number}", "text without null characters", repr(piece.text)))
        if not math.isfinite(piece.score):
            problems.append(Problem(f"score of piece {number}", "a number", str(piece.score)))
    unknown = sum(piece.kind == Kind.UNKNOWN for piece in pieces)
    if unknown != 1:
        problems.append(Problem("pieces for what is unknown", "1", str(unknown)))
    if problems:
        raise CheckpointError(f"{where} is damaged", problems=problems[:20])


def _check_kind(trainer: Message, normalizer: Message, where: str) -> None:
    """Raise ConfigError for what nothing else but SentencePiece reads alike, and no T5 is known to use."""
    problems = []
    model_type = trainer.integer(3) if trainer.count(3) else UNIGRAM
    if model_type != UNIGRAM:
        problems.append(Problem("model_type", "unigram", _MODEL_TYPES.get(model_type, str(model_type))))
    if not _flag(normalizer, 5):
        problems.append(Problem("escape_whitespaces", "true", "false"))
    if trainer.integer(24):
        problems.append(Problem("treat_whitespace_as_suffix", "false", "true"))
    if problems:
        raise ConfigError(
            f"{where} cannot be written as a tokenizer.json that reads alike.", problems=problems
        )


def _flag(message: Message, number: int) -> bool:
    """A bool whose default is true."""
    return bool(message.integer(number)) if message.count(number) else True


def _control_id(trainer: Message, field: int, default: str, pieces: Sequence[Piece]) -> int | None:
    """The ID of a control piece. As in SentencePiece its text decides, not what the trainer was asked for."""
    text = trainer.bytes_of(field).decode("utf-8", "replace") or default
    found = (i for i, piece in enumerate(pieces) if piece.text == text and piece.kind == Kind.CONTROL)
    return next(found, None)


def _encoded(piece: Piece) -> bytes:
    """A piece as field 1 of a ModelProto."""
    (score,) = struct.unpack("<I", struct.pack("<f", piece.score))
    body = encode_field(1, piece.text.encode()) + encode_field(2, score, fixed32=True)
    return encode_field(1, body + encode_field(3, int(piece.kind)))
