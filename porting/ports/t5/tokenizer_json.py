"""A SentencePiece unigram model as a tokenizer of the library `tokenizers`, which reads texts alike.

Where the library's own counterpart is not exact, it is helped:

- Its `Precompiled` takes a cluster of characters that are one to the eye, looks up the shortest rule for its
  beginning, and drops the rest; and it knows no rule of more than five bytes. Of "e" with two accents, as
  decomposed Vietnamese has them, one is lost, and decomposed Korean stays decomposed. SentencePiece applies
  the longest rule. Here separators keep clusters apart, so that the rules for single characters are applied,
  and what a rule would have composed is composed afterwards by Unicode's NFC, which other separators keep
  from the rest.
- Its model finds every piece in a text, control pieces and bytes too, and its special tokens are found
  anywhere. Where text has such a name and SentencePiece reads no such piece, a mark splits it in two, at a
  place where no piece goes across.
- It has no user-defined pieces: they get the score that SentencePiece gives them. Sentinels, which the
  original finds at the beginning of words only, are special tokens; the space before them is taken away.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from porting.ports.t5.sentencepiece_model import SPACE, Kind, SentencePieceModel

# Unassigned code points that no piece holds and no rule or Unicode form changes, and at which clusters end.
_KEEPS_APART, _SEPARATES, _IS_SPACE, _STANDS_IN = "\U000e0fff", "\U000e0ffe", "\U000e0ffd", "\U000e0ffc"
# Characters that are clusters of their own: Latin, Greek, Cyrillic, punctuation, kana, ideographs.
# U+000A is not among them: behind U+000D it is in one cluster with it.
_ALONE = (
    r"\x{00}-\x{09}\x{0B}-\x{2FF}\x{370}-\x{482}\x{48A}-\x{590}\x{1E00}-\x{200B}\x{2010}-\x{2027}"
    r"\x{3001}-\x{3029}\x{3041}-\x{3098}\x{30A0}-\x{30FF}\x{3400}-\x{9FFF}"
)
_FLOAT_MIN = 1.1754943508222875e-38


@dataclass(frozen=True)
class Built:
    """A `tokenizers.Tokenizer`, and names of tokens that it finds in a text where SentencePiece does not."""

    tokenizer: Any
    named: tuple[str, ...]


def build_tokenizer(model: SentencePieceModel, sentinels: Sequence[str]) -> Built:
    """The tokenizer.

    Args:
        model: without the sentinels.
        sentinels: names that get the IDs behind it, in this order: `<extra_id_99>`, ..., `<extra_id_0>`.

    Returns:
        A tokenizer whose `encode(text).ids` are SentencePiece's, and the end token, if the model has one.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import Unigram

    vocabulary = [(piece.text, score) for piece, score in zip(model.pieces, _scores(model), strict=True)]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=model.unknown_id, byte_fallback=model.byte_fallback))
    cuts = _cuts(model, sentinels)
    tokenizer.normalizer = _normalizer(model, sentinels, cuts)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(_SEPARATES, "removed")
    # What normalization leaves of a name is looked for in what it leaves of a text; where that is not the
    # name itself, `tokenizers` 0.23 takes it for the token's name.
    special = [piece.text for piece in model.pieces if piece.kind in (Kind.CONTROL, Kind.UNKNOWN)]
    apart = [name for name in special if name in cuts and tokenizer.normalizer.normalize_str(name) == name]
    tokenizer.add_tokens([AddedToken(name, normalized=name in apart, special=True) for name in special])
    tokenizer.add_tokens([AddedToken(name, normalized=True, special=True) for name in sentinels])
    words = decoders.Metaspace(prepend_scheme="always" if model.add_dummy_prefix else "never")
    steps: list[Any] = [decoders.ByteFallback()] if model.byte_fallback else []
    steps += [decoders.Replace("<extra_id_", f"{SPACE}<extra_id_")] if sentinels else []
    tokenizer.decoder = decoders.Sequence([*steps, words])
    if model.eos_id is not None:
        end = model.pieces[model.eos_id].text
        tokenizer.post_processor = processors.TemplateProcessing(
            single=["$A", end], pair=["$A", end, "$B", end], special_tokens=[(end, model.eos_id)]
        )
    others = [piece.text for piece in model.pieces if piece.kind in (Kind.BYTE, Kind.UNUSED)]
    named = [name for name in special if name not in apart]
    return Built(tokenizer, (*named, *(name for name in (*sentinels, *others) if name not in cuts)))


def _scores(model: SentencePieceModel) -> list[float]:
    """Source: `Model::EncodeOptimized` and `Model::Model` in unigram_model.cc; FLT_MIN is above zero."""
    normal = [piece.score for piece in model.pieces if piece.kind == Kind.NORMAL]
    highest, lowest = max([_FLOAT_MIN, *normal]), min([0.0, *normal])
    return [
        len(piece.text.encode()) * highest - 0.1
        if piece.kind == Kind.USER_DEFINED
        else piece.score
        if piece.kind == Kind.NORMAL
        else lowest
        for piece in model.pieces
    ]


def _normalizer(model: SentencePieceModel, sentinels: Sequence[str], cuts: Mapping[str, int]) -> Any:
    """Source: `Normalizer::Normalize` in normalizer.cc."""
    from tokenizers import normalizers

    steps = [_replace(f"[{_KEEPS_APART}{_SEPARATES}{_IS_SPACE}]", _STANDS_IN)]
    any_sentinel = "|".join(map(re.escape, sentinels))
    if sentinels:
        # Rules for characters leave a user-defined piece alone, whose space is a written U+2581 here.
        steps += [_replace(f"{SPACE}(?={any_sentinel})", _IS_SPACE)]
    steps += _character_steps(model)
    if model.remove_extra_whitespaces:
        # What is stripped behind are written spaces too, and what is stripped before are not.
        steps += [_replace(r"\A +", ""), _replace(" +", SPACE), _replace(rf"{SPACE}+\z", "")]
    else:
        steps += [_replace(" ", SPACE)]
    steps += [_replace(_IS_SPACE, SPACE)]
    if model.add_dummy_prefix:
        steps += [normalizers.Prepend(SPACE)]
    tokens = {piece.text for piece in model.pieces if piece.kind in (Kind.CONTROL, Kind.UNKNOWN)}
    # Bytes and sentinels are many, and are cut at the same place.
    alike: defaultdict[tuple[str, bool, bool], list[str]] = defaultdict(list)
    for name, place in cuts.items():
        alike[name[:place], name in sentinels, name in tokens].append(name[place:])
    for (start, is_sentinel, is_token), ends in alike.items():
        before, behind = re.escape(start), "|".join(map(re.escape, ends))
        cut = rf"(?<={before})(?={behind})"
        if is_sentinel:
            cut += f"(?<!{SPACE}{before})"
        if is_token:
            # A text that is nothing but a token's name stays whole, so that the name itself does.
            steps += [_replace(rf"\A{SPACE}(?={before}(?:{behind})\z)", "")]
        if is_token or is_sentinel:
            cut += rf"(?:(?<!\A{before})|(?!(?:{behind})\z))"
        steps += [_replace(cut, _SEPARATES)]
    if sentinels:
        steps += [_replace(f"{SPACE}(?={any_sentinel})", "")]
    return normalizers.Sequence(steps)


def _character_steps(model: SentencePieceModel) -> list[Any]:
    """The rules for characters, as the charsmap has them."""
    from tokenizers import normalizers

    if model.rules is None:
        return []
    single = normalizers.Precompiled(model.charsmap)
    split = rf"(?m)(?<=.)(?=[^{_ALONE}])|(?<=[^{_ALONE}{_KEEPS_APART}{_SEPARATES}])(?=.)|(?<=\r)(?=\n)"
    if not model.rules.joined:
        return [_replace(split, _SEPARATES), single, normalizers.Replace(_SEPARATES, "")]
    keep = rf"(?m)(?<=.)(?=[^{_ALONE}])(?!{_joined(model.rules.joined)})"
    return [
        _replace(keep, _KEEPS_APART),
        _replace(split, _SEPARATES),
        single,
        normalizers.Replace(_SEPARATES, ""),
        normalizers.NFC(),
        normalizers.Replace(_KEEPS_APART, ""),
    ]


def _joined(joined: Mapping[str, frozenset[str]]) -> str:
    """A pattern for the places between two characters that stand side by side in a rule."""
    behind: defaultdict[frozenset[str], list[str]] = defaultdict(list)
    for second, firsts in joined.items():
        behind[firsts].append(second)
    return "|".join(
        f"(?=[{_ranges(seconds)}])(?<=[{_ranges(firsts)}])"
        for firsts, seconds in sorted(behind.items(), key=lambda item: min(item[1]))
    )


def _ranges(characters: Iterable[str]) -> str:
    """The inside of a character class."""
    runs: list[list[int]] = []
    for number in sorted(map(ord, characters)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return "".join(rf"\x{{{a:X}}}" if a == b else rf"\x{{{a:X}}}-\x{{{b:X}}}" for a, b in runs)


def _cuts(model: SentencePieceModel, sentinels: Sequence[str]) -> dict[str, int]:
    """Where text that looks like a piece, but may not be read as one, is cut, in characters.

    A name is cut where no piece that may be read goes across, and where a character on either side is a piece
    of its own: SentencePiece has a border there in any case. Names without such a place are left out.
    """
    readable = [p.text for p in model.pieces if p.kind in (Kind.NORMAL, Kind.USER_DEFINED)]
    hidden = [p.text for p in model.pieces if p.kind not in (Kind.NORMAL, Kind.USER_DEFINED)]
    names = (*hidden, *sentinels)
    written = "\0".join(readable)
    across = {
        pair for pair in {pair for name in names for pair in pairwise(name)} if "".join(pair) in written
    }
    alone = {text for text in readable if len(text) == 1}
    found = {}
    for name in names:
        for place, (first, second) in enumerate(pairwise(name), 1):
            fused = not model.byte_fallback and first not in alone and second not in alone
            if (first, second) not in across and not fused:
                found[name] = place
                break
    return found


def _replace(pattern: str, content: str) -> Any:
    from tokenizers import Regex, normalizers

    return normalizers.Replace(Regex(pattern), content)
