"""WordPiece: Google's tokenization.FullTokenizer, and transformers' BertTokenizer on the same vocab.txt."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from porting.errors import InputError, Problem
from porting.tokenizer import Tokenizer

VOCABULARY = "vocab.txt"


def lower_case(directory: Path) -> bool:
    """Whether a checkpoint reads text in lower case, which only the name of its directory says.

    Source: `validate_case_matches_checkpoint` in Google's tokenization.py.
    """
    return not re.match(r"(?:multi_)?cased_", directory.resolve().name)


def run_reference(request: Mapping[str, Any]) -> None:
    """Let the original's tokenizer read texts, in the reference process; see `porting.tokenizer`."""
    from porting.references.tf1_compat import import_tf1

    import_tf1()
    from bert import tokenization

    directory = Path(request["checkpoint"]).parent
    tokenizer = tokenization.FullTokenizer(str(directory / VOCABULARY), do_lower_case=lower_case(directory))
    ids = [tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)) for text in request["texts"]]
    Path(request["output"]).write_text(json.dumps(ids), encoding="utf-8")


def encode(directory: Path, text: str) -> Sequence[int]:
    """The ids of a text as transformers' BertTokenizer gives them, without [CLS] and [SEP].

    Args:
        directory: holds the checkpoint and its vocab.txt.
        text: anything; what looks like a special token in it is text, as in the original.
    """
    read = _tokenizer(directory)(text, add_special_tokens=False, split_special_tokens=True)
    ids: list[int] = read["input_ids"]
    return ids


@lru_cache(maxsize=4)
def _tokenizer(directory: Path) -> Any:
    from transformers import BertTokenizer

    path = directory / VOCABULARY
    if not path.is_file():
        raise InputError(f"There is no {path}.", remedy="It is published with the checkpoint.")
    words = Counter(path.read_text(encoding="utf-8").splitlines())
    twice = [Problem(word, "one line", f"{count}") for word, count in words.items() if count > 1]
    if twice:
        # Google counts words, transformers lines: behind one that is there twice, all ids differ.
        raise InputError(f"{path} has words on several lines.", problems=twice)
    return BertTokenizer(str(directory / VOCABULARY), do_lower_case=lower_case(directory))


TOKENIZER = Tokenizer(reference=f"{__name__}:run_reference", encode=encode)
