"""T5Config from variables and shapes alone, saying what was read off them and what had to be assumed."""

from __future__ import annotations

import re
from collections.abc import Mapping

from porting.errors import ConfigError, Problem
from porting.mapping import Shape
from porting.port import ResolvedConfig
from porting.ports.t5.config import T5Config
from porting.ports.t5.rules import is_weight


def infer_config(shapes: Mapping[str, Shape]) -> ResolvedConfig:
    """The configuration that the variables of a Mesh T5 determine.

    Raises:
        ConfigError: a variable that sizes are read off is missing or has the wrong rank; lists them all.
    """
    weights = {name: shape for name, shape in shapes.items() if is_weight(name)}
    layer = r"(?:encoder|decoder)/block_\d+/[^/]+"
    embedding = _find(weights, r"shared/embedding")
    bias = _find(weights, rf"{layer}/SelfAttention/relative_attention_bias")
    query = _find(weights, rf"{layer}/SelfAttention/q")
    inner = _find(weights, rf"{layer}/DenseReluDense/wi(?:_0)?/kernel")
    wanted = {
        "shared/embedding [vocab, d_model]": embedding,
        "encoder/block_000/.../SelfAttention/relative_attention_bias [heads, buckets]": bias,
        "encoder/block_000/.../SelfAttention/q [d_model, heads*d_kv]": query,
        "encoder/block_000/.../DenseReluDense/wi/kernel or wi_0/kernel [d_model, d_ff]": inner,
    }
    counts = {stack: _count_blocks(weights, stack) for stack in ("encoder", "decoder")}
    wanted |= {f"{stack}/block_000/...": (n, n) if n else None for stack, n in counts.items()}
    problems = [
        Problem(name, "a matrix to read sizes off", "no such variable" if shape is None else f"{shape}")
        for name, shape in wanted.items()
        if shape is None or len(shape) != 2
    ]
    if problems or not (embedding and bias and query and inner):
        raise ConfigError(
            "The configuration cannot be inferred from the variables.",
            problems=problems,
            remedy="Give it with --config FILE (an operative_config.gin or a config.json).",
        )
    heads, buckets = bias
    if heads < 1 or query[1] % heads:
        raise ConfigError(
            "The number of heads does not fit the attention kernels.",
            problems=[Problem("SelfAttention/q", f"[d_model, a multiple of {heads} heads]", f"{query}")],
        )
    gated = _find(weights, rf"{layer}/DenseReluDense/wi_0/kernel") is not None
    untied = _find(weights, r"decoder/logits/kernel") is not None
    config = T5Config(
        vocab_size=embedding[0],
        d_model=embedding[1],
        d_kv=query[1] // heads,
        d_ff=inner[1],
        num_layers=counts["encoder"],
        num_decoder_layers=counts["decoder"],
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu" if gated else "relu",
        tie_word_embeddings=not untied,
    )
    activation = "gelu (tanh), as in T5 1.1; UL2 has silu" if gated else "relu, as in T5 1.0"
    return ResolvedConfig(
        config=config,
        origin="inferred from the variables and their shapes",
        inferred=(
            f"d_model {config.d_model}, {heads} heads of {config.d_kv}, d_ff {config.d_ff}, "
            f"{config.num_layers} encoder and {config.num_decoder_layers} decoder blocks, "
            f"vocabulary {config.vocab_size}, {buckets} relative-position buckets",
            "output of its own (decoder/logits)"
            if untied
            else "output tied to the embedding (no decoder/logits)",
            f"{'gated' if gated else 'single'} feed-forward projection",
        ),
        assumed=(
            f"activation {activation}: override with --config FILE.json that holds"
            ' {"feed_forward_proj": "gated-silu"}, say',
            "layer_norm_epsilon 1e-06, relative_attention_max_distance 128, dropout_rate 0.1 (training only):"
            " override them in the same way",
        ),
    )


def _find(weights: Mapping[str, Shape], pattern: str) -> Shape | None:
    regex = re.compile(pattern)
    return next((shape for name, shape in weights.items() if regex.fullmatch(name)), None)


def _count_blocks(weights: Mapping[str, Shape], stack: str) -> int:
    numbers = (re.match(rf"{stack}/block_(\d+)/", name) for name in weights)
    return max((int(match[1]) + 1 for match in numbers if match), default=0)
