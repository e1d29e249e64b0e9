"""Modules whose author had other words for everything, some of which say nothing."""

from __future__ import annotations

import random

from porting.suggest.sides import Side
from tests.suggest.judge import Truth
from tests.suggest.layouts import Layout, bert, gpt2

WORDS = {
    "encoder": ("encoder", "enc", "trunk", "body"),
    "layer": ("layer", "layers", "blocks", "h", "stage"),
    "attention": ("attention", "attn", "mha", "att", "foo"),
    "self": ("self", "core", "inner", "bar"),
    "query": ("query", "q", "q_proj", "wq", "to_q"),
    "key": ("key", "k", "k_proj", "wk", "to_k"),
    "value": ("value", "v", "v_proj", "wv", "to_v"),
    "intermediate": ("intermediate", "fc1", "up", "wi", "lin_a", "one"),
    "output": ("output", "out", "proj", "wo", "two", "down"),
    "dense": ("dense", "linear", "fc", "lin", "x"),
    "LayerNorm": ("LayerNorm", "norm", "ln", "layer_norm", "zed"),
    "embeddings": ("embeddings", "emb", "embed", "tables"),
    "word_embeddings": ("word_embeddings", "tok", "token_embedding", "wte", "a"),
    "position_embeddings": ("position_embeddings", "pos", "wpe", "b"),
    "token_type_embeddings": ("token_type_embeddings", "segment", "type", "c"),
    "pooler": ("pooler", "pool", "cls"),
    "c_attn": ("c_attn", "qkv", "in_proj", "fused"),
    "c_proj": ("c_proj", "out_proj", "proj", "o"),
    "c_fc": ("c_fc", "fc1", "up", "w1"),
    "mlp": ("mlp", "ffn", "feed_forward", "ff"),
    "ln_1": ("ln_1", "norm1", "input_layernorm", "pre_attn_norm"),
    "ln_2": ("ln_2", "norm2", "post_attention_layernorm", "pre_ffn_norm"),
}


def renamed_model(generator: random.Random) -> tuple[Layout, Side, Truth]:
    """A module whose author had other words, some of which say nothing, in an order of its own."""
    layout = generator.choice((bert(), bert(heads_width=36), bert(2, ff=24), gpt2(), gpt2(3)))
    words = {word: generator.choice(choices) for word, choices in WORDS.items()}
    first = generator.choice((0, 0, 1))
    shapes, owners, truth = {}, {}, {}
    for name, (shape, target) in layout.items():
        parts = [str(int(p) + first) if p.isdigit() else words.get(p, p) for p in target.split(".")]
        renamed, kernel = ".".join(parts), name.endswith("kernel")
        shapes[renamed] = shape[1:] if len(shape) == 3 else shape[::-1] if kernel else shape
        owners[renamed] = "Linear" if kernel else ""
        merge = f"reshape {list(shape)} to {list(shape[1:])}"
        truth[renamed] = (name, "transpose" if kernel else merge if len(shape) == 3 else "")
    order = generator.sample([*shapes], len(shapes))
    return layout, Side({name: shapes[name] for name in order}, owners=owners), truth
