"""The vocab.txt beside a checkpoint, and what transformers' AutoTokenizer loads instead of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from porting.checkpoint.files import read_file
from porting.errors import ConfigError, Problem
from porting.tokenizer_files import MAX_FILE_BYTES, TokenizerFiles

from .config import Config
from .tokenizer import VOCABULARY, lower_case

# `WordpieceTokenizer` in Google's tokenization.py; transformers' own class gives up at 100.
_MAX_WORD_LENGTH = 200
_SPECIAL = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_REMEDY = "--no-tokenizer converts without it."


def tokenizer_files(directory: Path, config: Config) -> TokenizerFiles | None:
    """`Port.tokenizer_files`.

    Returns:
        `vocab.txt` as it is, and `tokenizer.json` and `tokenizer_config.json`, made of it. None if there is
        no vocab.txt in `directory`.

    Raises:
        CheckpointError: it cannot be read.
        ConfigError: it is not text, has a word twice or more words than the model, or lacks one of [UNK],
            [CLS] and [SEP].
    """
    path = directory / VOCABULARY
    if not path.is_file():
        return None
    content = read_file(path, MAX_FILE_BYTES)
    words = _words(content, path, config.vocab_size)
    lower = lower_case(directory)
    special = {name: word for name, word in _SPECIAL.items() if word in words}
    settings = {
        # transformers' own BertTokenizer takes tokenizer.json apart; this class takes it as it is.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": config.max_position_embeddings,
        "clean_up_tokenization_spaces": True,
        "do_lower_case": lower,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        **special,
    }
    files = {
        VOCABULARY: content,
        "tokenizer.json": _tokenizer(words, lower, list(special.values())).to_str().encode(),
        "tokenizer_config.json": (json.dumps(settings, indent=2) + "\n").encode(),
    }
    how = "in lower case" if lower else "as it is written"
    note = f"assumed: text is read {how}, by the name of the directory {directory.resolve().name}"
    return TokenizerFiles(files, (note,))


def _words(content: bytes, path: Path, rows: int) -> dict[str, int]:
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8: {error}", remedy=_REMEDY) from None
    words = [line.strip() for line in (lines[:-1] if not lines[-1] else lines)]
    problems = [
        Problem(repr(word), "one line", str(count)) for word, count in Counter(words).items() if count > 1
    ]
    if len(words) > rows:
        problems.append(Problem("words", f"at most {rows}, the rows of the embedding", str(len(words))))
    problems += [Problem(word, "a line", "none") for word in ("[UNK]", "[CLS]", "[SEP]") if word not in words]
    if problems:
        raise ConfigError(
            f"{path} is not the vocabulary of this model.", problems=problems[:20], remedy=_REMEDY
        )
    return {word: number for number, word in enumerate(words)}


def _tokenizer(words: dict[str, int], lower: bool, special: list[str]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece

    tokenizer = Tokenizer(WordPiece(words, unk_token="[UNK]", max_input_chars_per_word=_MAX_WORD_LENGTH))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(word, words[word]) for word in ("[CLS]", "[SEP]")],
    )
    return tokenizer
