"""The configuration: in transformers' terms, from Google's `bert_config.json`, a config.json, or the shapes.

The two differ in one word that matters: what Google calls "gelu" is the tanh approximation, which
transformers calls "gelu_new" (or "gelu_pytorch_tanh"); transformers' "gelu" is the exact one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from porting.config_file import read_json_config
from porting.errors import ConfigError, Problem
from porting.mapping import Shape
from porting.port import ResolvedConfig

MODEL_TYPE = "bert"
# Looked for beside a checkpoint, the best first. The second is what this port itself writes.
CONFIG_FILES = ("bert_config.json", "config.json")

# Google's name of an activation (get_activation in modeling.py) -> transformers'.
FROM_GOOGLE = {"gelu": "gelu_new", "relu": "relu", "tanh": "tanh", "linear": "linear", "": "linear"}
# transformers' names that this port computes; Google has no exact gelu.
TO_GOOGLE: dict[str, str | None] = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": None,
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
}
# All published BERTs have heads of this size.
_HEAD_SIZE = 64
# Far beyond every model: a config that asks for more is answered at once, not when memory is used up.
_MAX_SIZE, _MAX_LAYERS = 1 << 24, 1 << 12


@dataclass(frozen=True)
class Config:
    """Everything that shapes the model, named as in transformers' BertConfig.

    Attributes:
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size: sizes; heads have
            hidden_size / num_attention_heads each.
        max_position_embeddings: the longest input.
        type_vocab_size: number of segments.
        hidden_act: of the feed-forward layers and of the transform before the masked-LM logits, by
            transformers' name.
        layer_norm_eps: 1e-12 in every checkpoint of the original, which has no setting for it.
        hidden_dropout_prob, attention_probs_dropout_prob: in training.
        initializer_range: standard deviation of new weights.
        heads: whether the pre-training heads are there (transformers: BertForPreTraining, else BertModel).
    """

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    hidden_act: str = "gelu_new"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    heads: bool = True

    @property
    def head_size(self) -> int:
        """Of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def prefix(self) -> str:
        """What stands before the encoder's paths: transformers keeps it in `bert` where there are heads."""
        return "bert." if self.heads else ""


_FIELDS = tuple(field.name for field in fields(Config) if field.name != "heads")
_SIZES = tuple(field.name for field in fields(Config) if field.type == "int")
_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "initializer_range", "layer_norm_eps")

# Of Google's multilingual configs; its code never reads them.
_UNUSED = frozenset(
    {
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    }
)
# Values of transformers' config that would make another model, and the only ones that this port has.
_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": (MODEL_TYPE,),
    "position_embedding_type": ("absolute", None),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
    "is_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
}
# Whatever else changes sizes or what is computed; Google's code would store it and build something else.
_FOREIGN = ("embedding_size", "num_hidden_groups", "inner_group_num", "true_hidden_size", "rotary_value")


def read_config(path: Path, shapes: Mapping[str, Shape]) -> ResolvedConfig:
    """From Google's `bert_config.json`, or from a config.json of transformers (`model_type` tells which).

    Whether there are heads is what neither says: the variables do. What the file leaves open is inferred from
    the shapes, so that one line is enough to override an assumption: {"num_attention_heads": 4}.

    Args:
        path: the file.
        shapes: the checkpoint's variables and their shapes.

    Raises:
        ConfigError: it cannot be read, or describes what this port does not have.
    """
    content = read_json_config(path)
    heads = has_heads(shapes)
    given = {name: content[name] for name in _FIELDS if name in content}
    if content.get("model_type") == MODEL_TYPE:
        _check_fixed(content, path)
    else:
        _check_google(content, path)
        if "hidden_act" in given:
            given["hidden_act"] = _from_google(given["hidden_act"], path)
    if all(name in given for name in _SIZES):
        return ResolvedConfig(_checked({**given, "heads": heads}, str(path)), origin=str(path))
    inferred = infer_config(shapes, given)
    return ResolvedConfig(
        inferred.config, f"{path}, the rest {inferred.origin}", inferred.inferred, inferred.assumed
    )


def _check_google(content: Mapping[str, Any], path: Path) -> None:
    known = {*_FIELDS, *_UNUSED} - {"layer_norm_eps"}
    problems = [
        Problem(name, "a setting of Google's BertConfig", f"{value!r}")
        for name, value in content.items()
        if name not in known
    ]
    if problems:
        raise ConfigError(
            f"{path} says what this port does not know.",
            problems=problems,
            remedy="If it belongs to another architecture, this is not its port; if it is a config.json of"
            ' transformers, it lacks "model_type": "bert".',
        )


def _from_google(name: Any, path: Path) -> str:
    known = FROM_GOOGLE.get(str(name or "").lower())
    if known is None:
        problem = Problem("hidden_act", f"one of {', '.join(filter(None, FROM_GOOGLE))}", repr(name))
        raise ConfigError(f"{path} names an activation that the original does not have.", problems=[problem])
    return known


def _check_fixed(content: Mapping[str, Any], origin: Path | str) -> None:
    problems = [
        Problem(name, " or ".join(map(repr, allowed)), repr(content[name]))
        for name, allowed in _FIXED.items()
        if name in content and content[name] not in allowed
    ]
    problems += [Problem(name, "none", repr(content[name])) for name in _FOREIGN if name in content]
    if problems:
        raise ConfigError(f"{origin} describes a model that this port does not have.", problems=problems)


def _checked(values: Mapping[str, Any], origin: str) -> Config:
    """A Config of these values. Raises ConfigError for all that cannot be."""
    problems = [
        Problem(name, "a whole number above 0", repr(values.get(name)))
        for name in _SIZES
        if type(values.get(name)) is not int or values[name] < 1
    ]
    problems += [
        Problem(name, f"at most {largest}", repr(values[name]))
        for name, largest in {**dict.fromkeys(_SIZES, _MAX_SIZE), "num_hidden_layers": _MAX_LAYERS}.items()
        if not problems and values[name] > largest
    ]
    problems += [
        Problem(name, "a number", repr(values[name]))
        for name in _RATES
        if name in values and type(values[name]) not in (int, float)
    ]
    act = values.get("hidden_act", "gelu_new")
    if str(act) not in TO_GOOGLE:
        problems.append(Problem("hidden_act", f"one of {', '.join(TO_GOOGLE)}", repr(act)))
    if not problems and values["hidden_size"] % values["num_attention_heads"]:
        problems.append(
            Problem(
                "num_attention_heads",
                f"a divisor of hidden_size, {values['hidden_size']}",
                repr(values["num_attention_heads"]),
            )
        )
    if problems:
        raise ConfigError(f"The config ({origin}) does not describe a BERT.", problems=problems)
    return Config(**values)


_SHAPES = {
    "vocab_size": ("bert/embeddings/word_embeddings", 0),
    "hidden_size": ("bert/embeddings/word_embeddings", 1),
    "max_position_embeddings": ("bert/embeddings/position_embeddings", 0),
    "type_vocab_size": ("bert/embeddings/token_type_embeddings", 0),
    "intermediate_size": ("bert/encoder/layer_0/intermediate/dense/kernel", 1),
}


def infer_config(shapes: Mapping[str, Shape], given: Mapping[str, Any] | None = None) -> ResolvedConfig:
    """From variables and shapes alone, where no config lies beside a checkpoint.

    Nothing in them tells the number of attention heads (query's kernel is [d_model, d_model] whatever it is),
    nor the activation.

    Args:
        shapes: the checkpoint's variables and their shapes.
        given: values that are known, in transformers' terms.

    Raises:
        ConfigError: sizes cannot be read off, or the heads cannot be assumed.
    """
    given = dict(given or {})
    problems = [
        Problem(name, f"a matrix, for {size}", f"{shapes[name]}" if name in shapes else "none")
        for size, (name, _) in _SHAPES.items()
        if len(shapes.get(name, ())) != 2
    ]
    problems += [
        Problem(name, "a size above 0", f"{shapes[name]}")
        for name in dict.fromkeys(name for name, _ in _SHAPES.values())
        if not problems and 0 in shapes[name]
    ]
    if problems:
        raise ConfigError("The config cannot be inferred from these variables.", problems=problems)
    found = {size: shapes[name][axis] for size, (name, axis) in _SHAPES.items()}
    found["num_hidden_layers"] = 1 + max(_layers(shapes))
    heads = has_heads(shapes)
    inferred = [f"{name} {value}" for name, value in found.items() if name not in given]
    inferred.append("with the pre-training heads" if heads else "without pre-training heads")
    assumed = []
    if "num_attention_heads" not in given:
        number, left = divmod(found["hidden_size"], _HEAD_SIZE)
        if left:
            raise ConfigError(
                f"The number of attention heads cannot be read off shapes nor assumed: {found['hidden_size']}"
                f" is no multiple of {_HEAD_SIZE}, which is the size of a head in every published BERT.",
                remedy='Say it in a file: {"num_attention_heads": 4}, and give that with --config FILE.',
            )
        given["num_attention_heads"] = number
        assumed.append(
            f"num_attention_heads {number} (heads of {_HEAD_SIZE}, as in all published BERTs; shapes do not"
            ' tell: override with --config and {"num_attention_heads": n})'
        )
    if "hidden_act" not in given:
        assumed.append(
            'hidden_act "gelu" as Google means it (override with --config and {"hidden_act": "relu"})'
        )
    config = _checked({**found, **given, "heads": heads}, "inferred")
    return ResolvedConfig(config, "inferred from the variables", tuple(inferred), tuple(assumed))


def has_heads(names: Iterable[str]) -> bool:
    """Whether the pre-training heads are among these variables."""
    return any(name.startswith(("cls/predictions/", "cls/seq_relationship/")) for name in names)


def _layers(names: Iterable[str]) -> list[int]:
    matches = (re.match(r"bert/encoder/layer_([0-9]{1,9})/", name) for name in names)
    return [int(match[1]) for match in matches if match]


def config_to_json(config: Config) -> dict[str, Any]:
    """The contents of config.json, as transformers' BertConfig reads them."""
    content = asdict(config)
    heads = content.pop("heads")
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["BertForPreTraining" if heads else "BertModel"],
        **content,
        "pad_token_id": 0,
        "tie_word_embeddings": True,
    }


def config_from_json(content: Mapping[str, Any]) -> Config:
    """A config.json as `config_to_json` or transformers writes it.

    Raises:
        ConfigError: something is missing, or it is a model that this port does not have.
    """
    _check_fixed(content, "The config.json")
    architectures = content.get("architectures") or ["BertForPreTraining"]
    known = {"BertForPreTraining": True, "BertModel": False}
    if not isinstance(architectures, list) or [*map(str, architectures)] not in [[name] for name in known]:
        problem = Problem("architectures", f"one of {', '.join(known)}", f"{architectures}")
        raise ConfigError("The config.json is of a model that this port does not have.", problems=[problem])
    given = {name: content[name] for name in _FIELDS if name in content}
    return _checked({**given, "heads": known[architectures[0]]}, "config.json")


def google_config(config: Config) -> dict[str, Any]:
    """What the original's BertConfig is made of.

    Raises:
        ConfigError: the original does not have such a model.
    """
    act = TO_GOOGLE[config.hidden_act]
    problems = []
    if act is None:
        problems.append(Problem("hidden_act", "an activation of the original", config.hidden_act))
    if config.layer_norm_eps != 1e-12:
        problems.append(Problem("layer_norm_eps", "1e-12, which is fixed", f"{config.layer_norm_eps}"))
    if problems:
        raise ConfigError(
            "Google's original cannot be built from this config.",
            problems=problems,
            remedy='Its "gelu" is transformers\' "gelu_new"; take the checkpoint\'s own bert_config.json.',
        )
    names = [name for name in _FIELDS if name != "layer_norm_eps"]
    return {**{name: getattr(config, name) for name in names}, "hidden_act": act}
