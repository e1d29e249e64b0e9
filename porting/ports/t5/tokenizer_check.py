"""Whether a tokenizer.json reads texts as SentencePiece does with the model that it was made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from porting.errors import ConfigError, Problem
from porting.ports.t5.sentencepiece_model import Kind, SentencePieceModel
from porting.ports.t5.tokenizer_files import WITHOUT, Vocabulary, original_processor, piece_ids
from porting.tokenizer import TEXTS

# What SentencePiece's normalizer and T5's sentinels make hard, beyond TEXTS.
T5_TEXTS = (
    "<extra_id_0> begins, <extra_id_1> stands within, and ends <extra_id_2>",
    "<extra_id_0>",
    " <extra_id_0> ",
    "no space<extra_id_0>before, none <extra_id_1>behind, none<extra_id_2>at<extra_id_3>all",
    "<extra_id_0><extra_id_1> <extra_id_2>  <extra_id_3>",
    "<extra_id_10> <extra_id_1>0 <extra_id_100> <extra_id_> <extra_id_01> < extra_id_1 > <EXTRA_ID_1>",
    "(<extra_id_0>) \u201c<extra_id_1>\u201d <extra_id_2>, <extra_id_3>.",
    "\u2581<extra_id_0> a\u2581<extra_id_1> a \u2581<extra_id_2>",
    "translate English to German: That is good.",
    "a   b \t c \r\n d\u3000e\u2003f\u00a0g\u2028h",
    "   ",
    "\t\n",
    "\u2581 written \u2581\u2581 spaces\u2581",
    "\ufb01ne \uff46\uff55\uff4c\uff4c \uff57\uff49 \u2460 \u338f \xbd x\xb2 \u2167 \u337f \ufdfa",
    "cafe\u0301 Tie\u0302\u0301ng Vie\u0323\u0302t \u1112\u1161\u11ab\u1100\u116e\u11a8",
    "\u304b\u3099 \uff8a\uff9e \xaa\u0300",
    "a\u0301\u0323 \u212b\u0301 \u2460\u0301 \u0627\u0653 >\u0338",
    "control\x01 \x02charac\x7fters \x1b[0m \u0085 \u200e\u200f\u202a \u00ad soft",
    "\u0645\u064f\u062d\u064e\u0645\u064e\u0651\u062f \u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u10d2\u10d0 \u13a0 \u2c80",
    "\U00020000 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd \U0001f3f3\ufe0f\u200d\U0001f308 \ue000 \U0010fffd",
    "x" * 300,
    "Donaudampfschifffahrtsgesellschaftskapit\u00e4n " * 5,
    "3.14159, 1,000,000 -1e-5 0x1F 2024-02-29 10:30 \u0663\u0664 \u216b",
    'if (a < b && b > c) { return "</s>"; } // <pad> <unk> <0x41>',
)
_MAX_PIECE_TEXTS = 300


@dataclass(frozen=True)
class Checked:
    """How many texts were read alike, and what is to be said of them, in words."""

    texts: int
    notes: tuple[str, ...]


def check_tokenizer(found: Vocabulary, text: str, path: Path, named: Sequence[str] = ()) -> Checked:
    """Let both read the same texts.

    Args:
        found: the SentencePiece model and its sentinels.
        text: the tokenizer.json.
        path: of the model, for the error.
        named: what the tokenizer is known to find where the original does not; no text has it.

    Raises:
        ConfigError: they give different IDs; shows the text and both.
    """
    from tokenizers import Tokenizer

    processor = original_processor(found.original)
    tokenizer = Tokenizer.from_str(text)
    problems = [
        Problem(f"ID of {name}", str(number), str(tokenizer.token_to_id(name)))
        for name, number in piece_ids(found.sentinels, found.model).items()
        if tokenizer.token_to_id(name) != number
    ]
    texts = sample(found, named)
    end = [] if found.model.eos_id is None else [found.model.eos_id]
    tied = 0
    for each in texts:
        expected = [*processor.encode(each), *end]
        ids = tokenizer.encode(each).ids
        if ids != expected:
            if equally_likely(found.original, expected, ids):
                tied += 1
            else:
                problems.append(Problem(_shown(each), f"the original's {expected}", str(ids)))
    if problems:
        raise ConfigError(
            f"The tokenizer.json made of {path} does not read texts as SentencePiece does.",
            problems=problems[:5],
            remedy=WITHOUT,
        )
    note = (
        f"{tied} of {len(texts)} texts can be read in equally likely ways, and both sides chose differently"
    )
    return Checked(len(texts) - tied, (note,) if tied else ())


def sample(found: Vocabulary, named: Sequence[str] = ()) -> list[str]:
    """The texts that both sides must read alike."""
    texts = [*TEXTS, *T5_TEXTS]
    if found.sentinels:
        ascending = list(reversed(found.sentinels))
        texts += [" ".join(ascending), "".join(ascending), "a".join(ascending)]
        texts += [f"word {name}word" for name in ascending]
    special = [piece.text for piece in found.model.pieces if piece.kind == Kind.USER_DEFINED]
    texts += [f"{name} a {name}b c{name}" for name in special[:_MAX_PIECE_TEXTS]]
    for name in named:
        instead = f" {name}" if name in found.sentinels else ""
        texts = [each.replace(name, instead) for each in texts]
    if not found.model.add_dummy_prefix:
        # Such a name alone cannot be told from the token itself; with a space before every text it can.
        texts = [each for each in texts if each.strip() not in found.sentinels]
    return list(dict.fromkeys(texts))


def equally_likely(model: SentencePieceModel, first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether two ways to read a text are so equally likely that rounding decides.

    SentencePiece sums log probabilities in float32, `tokenizers` in float64.
    """
    known = all(0 <= i < len(model.pieces) for i in [*first, *second])
    if not known or sorted(first) == sorted(second):
        return known and "".join(_texts(model, first)) == "".join(_texts(model, second))
    if "".join(_texts(model, first)) != "".join(_texts(model, second)):
        return False
    sums = [math.fsum(model.pieces[i].score for i in ids) for ids in (first, second)]
    return math.isclose(*sums, rel_tol=1e-6)


def _texts(model: SentencePieceModel, ids: Sequence[int]) -> list[str]:
    return [model.pieces[i].text for i in ids]


def _shown(text: str) -> str:
    return ascii(text if len(text) < 100 else text[:97] + "...")
