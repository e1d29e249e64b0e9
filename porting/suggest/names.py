"""Names taken apart: words that mean the same on both sides, and numbers that count layers.

bert/encoder/layer_0/attention/self/query/kernel   attention self q, encoder; (0,); a weight
encoder.layers.0.self_attn.q_proj.weight           attention self q, encoder; (0,); a weight
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

# A number that counts something: not the 1 of `conv1d`, and not inside of another number.
_NUMBER = re.compile(r"(?<!\d)\d+(?![A-Za-z0-9])")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
WEIGHT, OFFSET, OTHER = "weight", "offset", ""

# How PyTorch and TensorFlow code call one thing; what is not here stands for itself.
_ALIKE = {
    "attention": "attn attention attentions att",
    "q": "q query queries",
    "k": "k key keys",
    "v": "v value values",
    "qkv": "qkv",
    "cross": "cross inter encdec crossattention",
    "norm": "norm ln layernorm rmsnorm groupnorm batchnorm bn normalization",
    "ffn": "ffn ff mlp feedforward fc densereludense boom",
    "input": "wi intermediate up c_fc",
    "gate": "gate gating",
    "output": "out output wo o proj down y",
    "dense": "dense linear lin",
    "embedding": "embedding embeddings embed emb embs embedder wte",
    "word": "word words token tokens tok vocab vocabulary shared",
    "position": "position positions positional pos wpe",
    "segment": "segment segments type types",
    "relative": "relative rel relpos",
    "encoder": "encoder enc",
    "decoder": "decoder dec",
    "final": "final last",
    "pooler": "pooler pool pooling",
    "head": "head logits lm classifier",
    "router": "router gating classifier_gate switch",
    "expert": "expert experts",
    "convolution": "conv convolution convolutional",
    "prediction": "prediction predictions",
    "seq": "seq sequence",
    "relationship": "relationship",
}
_CANONICAL = {word: name for name, words in _ALIKE.items() for word in words.split()}
# Several words that are one.
_PHRASES = {
    ("feed", "forward"): ("ffn",),
    ("dense", "relu", "dense"): ("ffn",),
    ("enc", "dec"): ("cross",),
    ("encoder", "decoder", "attention"): ("cross", "attention"),
    ("layer", "norm"): ("norm",),
    ("rms", "norm"): ("norm",),
    ("batch", "norm"): ("norm",),
    ("layer", "normalization"): ("norm",),
    ("batch", "normalization"): ("norm",),
    ("token", "type"): ("segment",),
    ("lm", "head"): ("head",),
    ("wte",): ("word", "embedding"),
    ("wpe",): ("position", "embedding"),
    ("c", "fc"): ("input",),
    ("c", "proj"): ("output",),
    ("c", "attn"): ("attention", "qkv"),
    ("q", "proj"): ("q",),
    ("k", "proj"): ("k",),
    ("v", "proj"): ("v",),
    ("in", "proj"): ("qkv",),
    ("query", "key", "value"): ("qkv",),
    ("q", "k", "v"): ("qkv",),
    ("multi", "head"): (),
    ("multihead",): (),
}
_LONGEST = max(map(len, _PHRASES))
# Containers: they say that something is counted, and their number says the rest.
_STRUCTURE = frozenset(
    [
        "layer",
        "layers",
        "block",
        "blocks",
        "h",
        "stack",
        "module",
        "modules",
        "model",
        "models",
        "transformer",
        "main",
    ]
)
_WEIGHTS = frozenset(
    ["weight", "weights", "kernel", "gamma", "scale", "w", "g", "table", "embedding", "embeddings", "lookup"]
)
_OFFSETS = frozenset(["bias", "biases", "beta", "b", "offset"])


@dataclass(frozen=True)
class Name:
    """A name taken apart.

    Attributes:
        text: as it is spelt.
        pattern: the same with `{}` for each number that counts: the family that it belongs to.
        numbers: these numbers.
        digits: the same as they are spelt, `007`.
        words: what it says, in canonical words, structure and kind left out; in order.
        kind: WEIGHT, OFFSET or OTHER, by its last scope.
    """

    text: str
    pattern: str
    numbers: tuple[int, ...]
    digits: tuple[str, ...]
    words: tuple[str, ...]
    kind: str

    @property
    def scope(self) -> str:
        """The name without its last part."""
        return re.split(r"[/.](?=[^/.]*$)", self.text)[0] if re.search(r"[/.]", self.text) else ""


def parse(text: str) -> Name:
    """Take a name apart."""
    digits = tuple(_NUMBER.findall(text))
    pattern = _NUMBER.sub("{}", text)
    scopes = re.split(r"[/.]", pattern)
    leaf = _split(scopes[-1])
    kind = OTHER
    if len(leaf) == 1 and (len(scopes) > 1 or leaf[0] in ("bias", "kernel", "weight")):
        kind = WEIGHT if leaf[0] in _WEIGHTS else OFFSET if leaf[0] in _OFFSETS else OTHER
    elif len(leaf) > 1 and leaf[-1] in ("weight", "weights", "kernel", "bias"):
        # in_proj_bias, output_bias; whether relative_attention_bias is an offset, its rank will say.
        kind = OFFSET if leaf[-1] == "bias" else WEIGHT
        leaf = leaf[:-1] if kind == WEIGHT else leaf
    if kind and len(leaf) == 1 and leaf[0] not in ("embedding", "embeddings"):
        scopes = scopes[:-1]
    elif kind == WEIGHT and len(leaf) >= 1 and scopes[-1]:
        scopes = [*scopes[:-1], "_".join(leaf)]
    words = [word for word, _ in groupby(word for scope in scopes for word in _words(scope))]
    return Name(text, pattern, tuple(map(int, digits)), digits, tuple(words), kind)


def _split(scope: str) -> list[str]:
    return [word.lower() for part in scope.split("_") for word in _WORD.findall(part)]


def _words(scope: str) -> list[str]:
    raw, i = _split(scope), 0
    found: list[str] = []
    while i < len(raw):
        for length in range(min(_LONGEST, len(raw) - i), 0, -1):
            phrase = _PHRASES.get(tuple(raw[i : i + length]))
            if phrase is not None:
                found += phrase
                i += length
                break
        else:
            if raw[i] not in _STRUCTURE:
                found.append(_CANONICAL.get(raw[i], raw[i]))
            i += 1
    return found


@dataclass(frozen=True)
class Family:
    """Names that differ in their numbers alone.

    Attributes:
        pattern: with `{}` for each number.
        words, kind: of each of them.
        members: numbers -> name.
        around: words of the names beside them, in the same scopes.
        implied: words that go without saying: a table in an nn.Embedding need not be called one.
    """

    pattern: str
    words: tuple[str, ...]
    kind: str
    members: dict[tuple[int, ...], str]
    around: frozenset[str]
    implied: frozenset[str] = frozenset()


def families(names: Mapping[str, str]) -> list[Family]:
    """Names sorted into families, in the order in which they appear.

    Args:
        names: name -> class of the module that holds it, which says what the name may leave out; or "".
    """
    parsed = [parse(name) for name in names]
    # The norm of a layer often says nothing of the layer; what lies beside it does.
    beside: dict[str, set[str]] = defaultdict(set)
    for name in parsed:
        scopes = re.split(r"[/.]", name.text)
        for depth in (1, 2, 3):
            if len(scopes) > depth:
                beside["/".join(scopes[:-depth])] |= set(name.words)
    grouped: dict[str, list[Name]] = defaultdict(list)
    for name in parsed:
        grouped[name.pattern].append(name)
    return [
        Family(
            pattern,
            members[0].words,
            members[0].kind,
            {name.numbers: name.text for name in members},
            frozenset(
                word
                for name in members
                for word in beside.get("/".join(re.split(r"[/.]", name.text)[:-2]), ())
            ),
            _implied(names[members[0].text]),
        )
        for pattern, members in grouped.items()
    ]


def _implied(owner: str) -> frozenset[str]:
    return frozenset(["embedding"] if owner == "Embedding" else ["norm"] if "Norm" in owner else [])
