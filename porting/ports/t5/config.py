"""The T5 configuration: one immutable value, in the terms that transformers uses in `config.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from porting.errors import ConfigError, Problem

# feed_forward_proj of config.json -> activation of the first (or only) factor. transformers reads
# "gated-gelu" as its gelu_new, the tanh approximation, which is what Mesh's gelu is.
FEED_FORWARD_ACTIVATIONS = {
    "relu": "relu",
    "gelu_new": "gelu_new",
    "silu": "silu",
    "gated-relu": "relu",
    "gated-gelu": "gelu_new",
    "gated-silu": "silu",
}


@dataclass(frozen=True)
class T5Config:
    """Sizes and constants of a T5. Names and defaults are those of transformers' T5Config.

    Attributes:
        vocab_size: rows of the embedding, padding to a multiple of 128 included.
        d_model: width of the hidden states.
        d_kv: width of one head's queries, keys and values.
        d_ff: width of the feed-forward layer's inner activations.
        num_layers, num_decoder_layers: blocks in the encoder and in the decoder.
        num_heads: attention heads.
        relative_attention_num_buckets, relative_attention_max_distance: see T5's paper, section 2.1
            (arXiv 1910.10683), and `_relative_position_bucket` in Mesh's transformer_layers.py.
        layer_norm_epsilon: epsilon of the RMS norm (Mesh: `sublayer_rms_norm.epsilon`).
        dropout_rate: used in training only.
        feed_forward_proj: a key of FEED_FORWARD_ACTIVATIONS; "gated-": two inner projections, multiplied.
        tie_word_embeddings: logits from the embedding matrix, hidden states scaled by d_model**-0.5.
        label_smoothing, loss_denominator: of Mesh's loss (`Unitransformer`); a denominator of None is the
            number of target positions, padding included.
    """

    vocab_size: int
    d_model: int
    d_kv: int
    d_ff: int
    num_layers: int
    num_decoder_layers: int
    num_heads: int
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.1
    feed_forward_proj: str = "relu"
    tie_word_embeddings: bool = True
    label_smoothing: float = 0.0
    loss_denominator: float | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError unless every value is of its kind and in range."""
        problems = [
            Problem(name, "a positive integer", repr(getattr(self, name)))
            for name in _POSITIVE_INTEGERS
            if type(getattr(self, name)) is not int or getattr(self, name) < 1
        ]
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if type(value) not in (int, float) or not low <= value <= high:
                problems.append(Problem(name, f"a number from {low} to {high}", repr(value)))
        denominator = 1.0 if self.loss_denominator is None else self.loss_denominator
        if type(denominator) not in (int, float) or not 0 < denominator < math.inf:
            problems.append(Problem("loss_denominator", "null or a number above 0", repr(denominator)))
        if str(self.feed_forward_proj) not in FEED_FORWARD_ACTIVATIONS:
            known = ", ".join(FEED_FORWARD_ACTIVATIONS)
            problems.append(Problem("feed_forward_proj", f"one of {known}", repr(self.feed_forward_proj)))
        if repr(self.tie_word_embeddings) not in ("True", "False"):
            problems.append(Problem("tie_word_embeddings", "true or false", repr(self.tie_word_embeddings)))
        if not problems:
            problems += self._bucket_problems()
        if problems:
            raise ConfigError("This is not the configuration of a T5.", problems=problems)

    def _bucket_problems(self) -> list[Problem]:
        """Half of the buckets (a quarter, in both directions) hold one distance each; see Mesh's function."""
        if 4 <= self.relative_attention_num_buckets < 2 * self.relative_attention_max_distance:
            return []
        expected = f"4 to {2 * self.relative_attention_max_distance - 1} (below twice the largest distance)"
        return [Problem("relative_attention_num_buckets", expected, f"{self.relative_attention_num_buckets}")]

    @property
    def is_gated(self) -> bool:
        """Whether the feed-forward layer multiplies two inner projections (wi_0, wi_1)."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def activation(self) -> str:
        """Activation of the first inner projection: relu, gelu_new or silu."""
        return FEED_FORWARD_ACTIVATIONS[self.feed_forward_proj]

    @property
    def inner_dim(self) -> int:
        """Width of all heads together."""
        return self.num_heads * self.d_kv

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`, in the layout that transformers loads as T5."""
        return {
            "model_type": "t5",
            "architectures": ["T5ForConditionalGeneration"],
            "is_encoder_decoder": True,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
            **asdict(self),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> T5Config:
        """From the contents of a `config.json`, ours or one of transformers.

        Raises:
            ConfigError: a size is missing, or a value is not one that T5 has.
        """
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in content.items() if key in known}
        if content.get("feed_forward_proj") is None:
            values.pop("feed_forward_proj", None)
        if values.get("num_decoder_layers") is None and "num_layers" in values:
            values["num_decoder_layers"] = values["num_layers"]
        # transformers 5 writes `true` for every T5 and keeps what was meant in this flag.
        if content.get("scale_decoder_outputs") is False:
            values["tie_word_embeddings"] = False
        missing = [name for name in REQUIRED if name not in values]
        if missing:
            raise ConfigError(
                "The config.json lacks what a T5 needs.",
                problems=[Problem(name, "a positive integer", "nothing") for name in missing],
            )
        return cls(**values)


REQUIRED = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
_POSITIVE_INTEGERS = (
    *REQUIRED,
    "num_decoder_layers",
    "relative_attention_num_buckets",
    "relative_attention_max_distance",
)
_RANGES = (("layer_norm_epsilon", 0.0, 1.0), ("dropout_rate", 0.0, 1.0), ("label_smoothing", 0.0, 1.0))
