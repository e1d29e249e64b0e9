"""What an architecture must give so that its tokenizer can be held against the original's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from porting.errors import ReferenceRunError
from porting.references.process import run_in_process

# What tokenizers have been seen to differ in: spaces, case, accents, composed and decomposed, scripts without
# spaces, characters outside of the vocabulary, long words, punctuation, controls, what looks like a token.
TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "",
    " leading and trailing ",
    "two  spaces\tand a tab\nand a line",
    "UPPER lower MiXeD",
    "na\u00efve caf\u00e9 \u00c5ngstr\u00f6m",
    "cafe\u0301",
    "\u4f60\u597d\uff0c\u4e16\u754c",
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u0645\u0631\u062d\u0628\u0627",
    "\U0001f469\u200d\U0001f52c \U0001f600",
    "don't, won't; (can't) -- e.g. 3.14 and 1,000",
    "supercalifragilisticexpialidociously" * 3,
    "http://example.org/a?b=c&d=e",
    "[CLS] <s> </s> <pad> [MASK] <extra_id_0>",
    "no\u00a0break zero\u200bwidth \ufeffmark",
)


@dataclass(frozen=True)
class Tokenizer:
    """How text becomes ids; `Port.tokenizer`.

    Attributes:
        reference: "module:function" that lets the original's own tokenizer work, in the reference process.
            Its request has `checkpoint` (a path), `texts` (a list) and `output`: the file in which it leaves
            a JSON list of lists of ids.
        encode: the port's ids of one text; called with the directory of the checkpoint, in which a
            vocabulary may lie.
    """

    reference: str
    encode: Callable[[Path, str], Sequence[int]]


@dataclass(frozen=True)
class TextDifference:
    """A text that both sides read differently. `index`: the first place at which the ids differ."""

    text: str
    reference: tuple[int, ...]
    port: tuple[int, ...]
    index: int


def compare_tokenizer(
    tokenizer: Tokenizer, checkpoint: Path, texts: Sequence[str] = TEXTS
) -> list[TextDifference]:
    """The texts of which the port's ids are not the original's.

    Args:
        tokenizer: of the port.
        checkpoint: the checkpoint's path; a vocabulary may lie beside it.
        texts: what both read.

    Raises:
        ReferenceRunError: the original's tokenizer cannot be run here, or failed.
    """
    with tempfile.TemporaryDirectory(prefix="porting-tokens-") as folder:
        output = Path(folder) / "ids.json"
        request = {"checkpoint": str(checkpoint.resolve()), "texts": list(texts), "output": str(output)}
        run_in_process(tokenizer.reference, request)
        original = [tuple(int(i) for i in ids) for ids in json.loads(output.read_text(encoding="utf-8"))]
    if len(original) != len(texts):
        raise ReferenceRunError(f"The original's tokenizer read {len(original)} of {len(texts)} texts.")
    found = []
    for text, expected in zip(texts, original, strict=True):
        ids = tuple(int(i) for i in tokenizer.encode(checkpoint.parent, text))
        if ids != expected:
            index = next(i for i, (a, b) in enumerate(zip_longest(expected, ids)) if a != b)
            found.append(TextDifference(text, expected, ids, index))
    return found
