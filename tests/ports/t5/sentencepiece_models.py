"""SentencePiece models, trained here by SentencePiece itself, and what the original reads with them."""

from __future__ import annotations

import io
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import sentencepiece

ROOT = Path(__file__).parents[3]
# What T5's own model was trained with, as far as it shows.
T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
# A rule for one character, one for two, one that deletes, and one that makes several of one.
FEW_RULES = "212B\tC5\n41 30A\tC5\n1\t\nFB01\t66 69\n3A9 301\t38F\n"
MODELS: dict[str, dict[str, Any]] = {
    "nmt_nfkc": {},
    "nmt_nfkc with bytes": {"byte_fallback": True},
    "nmt_nfkc_cf": {"normalization_rule_name": "nmt_nfkc_cf"},
    "identity": {"normalization_rule_name": "identity"},
    "identity with bytes": {"normalization_rule_name": "identity", "byte_fallback": True},
    "all spaces kept": {"remove_extra_whitespaces": False},
    "no space before": {"add_dummy_prefix": False},
    "own symbols": {"user_defined_symbols": ["<mask>", "a\u2581b", "##"], "control_symbols": ["<ctrl>"]},
    "SentencePiece's own IDs": {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1},
    "phrases": {"split_by_whitespace": False},
}


def _sentences() -> list[str]:
    # A text that is never edited, so that the models stay what they are.
    lines = (ROOT / "LICENSE").read_text(encoding="utf-8").splitlines()
    other = [
        "\u4f60\u597d\uff0c\u4e16\u754c",
        "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440",
        "na\xefve caf\xe9 \xc5ngstr\xf6m",
        "Vi\u1ec7t Nam",
        "\ud55c\uad6d\uc5b4 \uc2dc\ud5d8",
    ]
    return [line for line in [*lines, *(other * 5)] if line.strip()]


@lru_cache
def trained(name: str = "", **options: Any) -> bytes:
    """A model of a few hundred pieces: one of MODELS, or with SentencePiece's own options."""
    written = io.BytesIO()
    asked = {**T5_IDS, "vocab_size": 700, "model_type": "unigram", "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_sentences()),
        model_writer=written,
        num_threads=1,
        minloglevel=2,
        **{**asked, **MODELS.get(name, {}), **options},
    )
    return written.getvalue()


def with_sentinels(content: bytes, count: int) -> bytes:
    """As seqio's `_load_model_internal` does it, with SentencePiece's own message class."""
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2
    model = messages.ModelProto.FromString(content)
    for i in reversed(range(count)):
        model.pieces.add(piece=f"\u2581<extra_id_{i}>", score=0.0, type=model.SentencePiece.USER_DEFINED)
    result: bytes = model.SerializeToString()
    return result


def original(content: bytes, sentinels: int = 100) -> Any:
    """SentencePiece's processor, as the original makes it."""
    return sentencepiece.SentencePieceProcessor(model_proto=with_sentinels(content, sentinels))


def write_config(directory: Path, vocab_size: int) -> None:
    """A T5's config.json."""
    config = {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": vocab_size,
        "d_model": 8,
        "d_kv": 4,
        "d_ff": 16,
        "num_layers": 1,
        "num_heads": 3,
        "is_encoder_decoder": True,
    }
    (directory / "config.json").write_text(json.dumps(config))
