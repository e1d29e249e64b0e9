"""The SentencePiece model beside a checkpoint, and what transformers' AutoTokenizer loads instead of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from porting.checkpoint.files import lfs_remedy, named_os_errors, read_file
from porting.errors import CheckpointError, ConfigError, PortingError, Problem
from porting.ports.t5.config import Config
from porting.ports.t5.sentencepiece_model import SPACE, Kind, SentencePieceModel, read_model
from porting.ports.t5.tokenizer_json import build_tokenizer
from porting.tokenizer_files import MAX_FILE_BYTES, TokenizerFiles

MODEL_NAMES = ("spiece.model", "sentencepiece.model")
# `DEFAULT_EXTRA_IDS` in t5/data/utils.py. The vocabulary of a model is padded to a multiple of 128.
EXTRA_IDS = 100
WITHOUT = "--no-tokenizer converts without it."
# More of them make every text slow to read; SentencePiece's own models have a handful.
_MAX_CONTROLS = 1000
# transformers' VERY_LARGE_INTEGER: relative positions have no longest text.
_NO_MAX_LENGTH = int(1e30)


@dataclass(frozen=True)
class Vocabulary:
    """A model file and its sentinels.

    Attributes:
        original: what the original reads text with: all pieces, sentinels included.
        model: ... without the sentinels that are its last pieces.
        sentinels: their names, by ID: `<extra_id_0>` is the last.
        notes: what was assumed, in words.
    """

    original: SentencePieceModel
    model: SentencePieceModel
    sentinels: tuple[str, ...]
    notes: tuple[str, ...] = ()


def tokenizer_files(directory: Path, config: Config) -> TokenizerFiles | None:
    """`Port.tokenizer_files`.

    Returns:
        `spiece.model` as it is, and `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`,
        made of it. None if there is no SentencePiece model in `directory`.

    Raises:
        CheckpointError: several models lie there, or one that is damaged.
        ConfigError: the model does not fit the checkpoint, or cannot be written as a `tokenizer.json` that
            reads texts alike.
    """
    from porting.ports.t5.tokenizer_check import check_tokenizer

    path = find_model(directory)
    if path is None:
        return None
    architecture = config.architecture
    rows = min([architecture.vocab_size, *architecture.embedding_rows.values()])
    found = read_vocabulary(path, rows)
    with panics_named(path):
        text, named = _written(found)
        checked = check_tokenizer(found, text, path, named)
    settings, notes = _settings(found)
    written = {
        "spiece.model": read_file(path, MAX_FILE_BYTES),
        "tokenizer.json": text.encode(),
        "tokenizer_config.json": _json({**_LOADING, **settings}),
        "special_tokens_map.json": _json(settings),
    }
    if (directory / "tokenizer.json").is_file():
        notes = (*notes, f"tokenizer.json was made of {path.name}; the one beside it was not copied")
    if named:
        shown = ", ".join(named[:5]) + (", ..." if named[5:] else "")
        notes = (*notes, f"{shown}: read as a token wherever a text has it, unlike in the original")
    if found.sentinels and not found.model.add_dummy_prefix:
        notes = (
            *notes,
            "a text that is nothing but a sentinel is read as that sentinel, unlike in the original",
        )
    return TokenizerFiles(written, (*found.notes, *notes, *checked.notes), checked.texts)


def _written(found: Vocabulary) -> tuple[str, tuple[str, ...]]:
    """The tokenizer.json; a large one takes much memory, which is free again before it is read."""
    built = build_tokenizer(found.model, found.sentinels)
    return built.tokenizer.to_str(), built.named


# transformers' own T5Tokenizer takes tokenizer.json apart and builds something else of it (5.23: no
# byte fallback, white space always dropped). This class takes it as it is.
_LOADING = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_input_names": ["input_ids", "attention_mask"],
    "model_max_length": _NO_MAX_LENGTH,
    "clean_up_tokenization_spaces": False,
}


def find_model(directory: Path) -> Path | None:
    """The SentencePiece model of a directory: by its usual names, or the only file there that looks like one.

    Raises:
        CheckpointError: there are several, and nothing says which of them counts.
    """
    with named_os_errors(directory):
        files = sorted(path for path in directory.iterdir() if path.is_file())
    found = [path for path in files if path.name in MODEL_NAMES]
    if not found:
        found = [path for path in files if path.suffix in (".model", ".spm") and path.name[0] != "."]
    if len(found) == 2 and found[0].name in MODEL_NAMES:
        first, second = (read_file(path, MAX_FILE_BYTES) for path in found)
        found = found[:1] if first == second else found
    if len(found) > 1:
        problems = [Problem(str(path), "one SentencePiece model", "one of several") for path in found]
        remedy = f"Keep the one that the model was trained with as {MODEL_NAMES[0]}. {WITHOUT}"
        raise CheckpointError(f"{directory} holds several tokenizers.", problems=problems, remedy=remedy)
    return found[0] if found else None


def read_vocabulary(path: Path, rows: int | None) -> Vocabulary:
    """Read a model file, and say which sentinels belong to it.

    Args:
        path: of the model file.
        rows: of the embedding matrix; None: there is room for all sentinels.

    Raises:
        CheckpointError: it is damaged.
        ConfigError: it has more pieces than the model has rows, or is of a kind that cannot be written.
    """
    content = read_file(path, MAX_FILE_BYTES)
    if remedy := lfs_remedy(content):
        raise CheckpointError(f"{path} is not the file itself.", remedy=remedy)
    try:
        model = read_model(content, str(path))
    except (CheckpointError, ConfigError) as error:
        raise type(error)(
            error.message, problems=error.problems, remedy=f"{error.remedy} {WITHOUT}".strip()
        ) from None
    size = len(model.pieces)
    if rows is not None and size > rows:
        problem = Problem("pieces", f"at most {rows}, the rows of the embedding", str(size))
        raise ConfigError(f"{path} is not the tokenizer of this model.", problems=[problem], remedy=WITHOUT)
    if sum(piece.kind == Kind.CONTROL for piece in model.pieces) > _MAX_CONTROLS:
        problem = Problem("control pieces", f"at most {_MAX_CONTROLS}", "more")
        raise ConfigError(
            f"{path} cannot be written as a tokenizer.json.", problems=[problem], remedy=WITHOUT
        )
    own = _own_sentinels(model)
    if own:
        shorter = replace(model, pieces=model.pieces[: size - len(own)])
        return Vocabulary(model, shorter, own)
    if any(re.fullmatch(f"{SPACE}?<extra_id_0>", piece.text) for piece in model.pieces):
        note = "the SentencePiece model has <extra_id_0> among its pieces, and no sentinels were added"
        return Vocabulary(model, model, (), (note,))
    if rows is not None and rows - size < EXTRA_IDS:
        note = f"no sentinels: {size} pieces leave room for {rows - size} of {EXTRA_IDS} among {rows} IDs"
        return Vocabulary(model, model, (), (note,))
    names = tuple(f"<extra_id_{i}>" for i in reversed(range(EXTRA_IDS)))
    note = (
        f"assumed: {EXTRA_IDS} sentinels behind the {size} pieces, as t5's default vocabulary has them "
        f"(<extra_id_0> is {size + EXTRA_IDS - 1})"
    )
    return Vocabulary(model.with_sentinels(names), model, names, (note,))


def _own_sentinels(model: SentencePieceModel) -> tuple[str, ...]:
    """Names of the sentinels that are a model's last pieces, as in mT5's; `<extra_id_0>` is the last."""
    names: list[str] = []
    for piece in reversed(model.pieces):
        if piece.text != f"{SPACE}<extra_id_{len(names)}>" or piece.kind != Kind.USER_DEFINED:
            break
        names.append(piece.text[1:])
    return tuple(reversed(names))


def _settings(found: Vocabulary) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Special tokens in transformers' terms, and what is to be said of them."""
    pieces, notes = found.model.pieces, []
    settings: dict[str, Any] = {"unk_token": pieces[found.model.unknown_id].text}
    eos, pad = found.model.eos_id, found.model.pad_id
    if eos is None:
        notes.append("the SentencePiece model has no end token: nothing is appended to texts")
    else:
        settings["eos_token"] = pieces[eos].text
        if eos != 1:
            notes.append(
                f"the end token is {eos} in the SentencePiece model, and 1 in generation_config.json"
            )
    if pad != 0:
        # The original pads with 0, whatever piece that is: PAD_ID in seqio/vocabularies.py.
        said = "no padding token" if pad is None else f"{pieces[pad].text} at {pad}"
        fits = pieces[0].kind in (Kind.CONTROL, Kind.UNKNOWN)
        notes.append(
            f"the SentencePiece model has {said}, and T5 pads with 0: "
            + (f"pad_token is {pieces[0].text}" if fits else "there is no pad_token")
        )
        pad = 0 if fits else None
    if pad is not None:
        settings["pad_token"] = pieces[pad].text
    if found.sentinels:
        settings["additional_special_tokens"] = list(reversed(found.sentinels))
    return settings, tuple(notes)


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


@contextmanager
def panics_named(path: Path) -> Iterator[None]:
    """Turn what the libraries raise over a model that they cannot use into a ConfigError on `path`."""
    try:
        yield
    except PortingError:
        raise
    except BaseException as error:
        # `tokenizers` is written in Rust, whose panics are no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        problem = Problem(str(path), "a usable SentencePiece model", f"{type(error).__name__}: {error}"[:300])
        raise ConfigError("The tokenizer cannot be converted.", problems=[problem], remedy=WITHOUT) from error


def original_processor(model: SentencePieceModel) -> Any:
    """SentencePiece's own processor of a model, sentinels included; raises what the library raises."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model.content)
    if processor.get_piece_size() != len(model.pieces):
        raise ValueError(f"SentencePiece sees {processor.get_piece_size()} pieces of {len(model.pieces)}")
    return processor


def piece_ids(names: Sequence[str], behind: SentencePieceModel) -> dict[str, int]:
    """IDs of sentinels that follow the pieces of a model."""
    return {name: len(behind.pieces) + i for i, name in enumerate(names)}
