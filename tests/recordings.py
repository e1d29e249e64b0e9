"""Recorded runs of T5X's own models, which lie in shared/data beside the repository; ports made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from porting.ports.t5.config import T5Config
from porting.ports.t5.model import T5Model

DATA = Path(__file__).parents[2] / "shared" / "data"
T5 = DATA / "t5x" / "v1_1" / "recorded.npz"
SCANNED = DATA / "t5x" / "scanned" / "recorded.npz"
LONG = tuple(DATA / "longt5" / kind / "recorded.npz" for kind in ("local", "tglobal"))
needs_recordings = pytest.mark.skipif(not T5.is_file(), reason="shared/data/t5x is not there")

# Sizes of both, as shared/data/README.md gives them.
CONFIG = T5Config(
    vocab_size=64,
    d_model=20,
    d_kv=8,
    d_ff=36,
    num_layers=3,
    num_decoder_layers=2,
    num_heads=3,
    tie_word_embeddings=False,
    feed_forward_proj="gated-gelu",
)


def names_in(recording: Path) -> list[str]:
    """Names of what was recorded, parameters and inputs apart."""
    with np.load(recording) as held:
        names = [name.removeprefix("tensor:") for name in held.files if not name.startswith("param:")]
    return [name for name in names if name not in ("inputs", "targets")]


def t5_model(recording: Path) -> T5Model:
    """The port with the weights that a run of T5X's T5 1.1 was recorded with, apart from the port's rules."""
    with np.load(recording) as held:
        arrays = {name.removeprefix("param:"): held[name] for name in held.files if name.startswith("param:")}
    state = {
        "shared.weight": arrays["token_embedder/embedding"],
        "lm_head.weight": arrays["decoder/logits_dense/kernel"].T,
    }
    for stack, depth in (("encoder", CONFIG.num_layers), ("decoder", CONFIG.num_decoder_layers)):
        state[f"{stack}.final_layer_norm.weight"] = arrays[f"{stack}/{stack}_norm/scale"]
        first = "attention" if stack == "encoder" else "self_attention"
        parts = [("SelfAttention", first, f"pre_{first}_layer_norm")]
        if stack == "decoder":
            parts.append(("EncDecAttention", "encoder_decoder_attention", "pre_cross_attention_layer_norm"))
        key = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        state[key] = arrays[f"{stack}/relpos_bias/rel_embedding"].T
        for i in range(depth):
            ours, theirs = f"{stack}.block.{i}.layer", f"{stack}/layers_{i}"
            for number, (module, name, norm) in enumerate(parts):
                state[f"{ours}.{number}.layer_norm.weight"] = arrays[f"{theirs}/{norm}/scale"]
                for short, long in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
                    kernel = arrays[f"{theirs}/{name}/{long}/kernel"]
                    state[f"{ours}.{number}.{module}.{short}.weight"] = kernel.T
            last = len(parts)
            state[f"{ours}.{last}.layer_norm.weight"] = arrays[f"{theirs}/pre_mlp_layer_norm/scale"]
            for name in ("wi_0", "wi_1", "wo"):
                state[f"{ours}.{last}.DenseReluDense.{name}.weight"] = arrays[f"{theirs}/mlp/{name}/kernel"].T
    model = T5Model(CONFIG)
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    return model.eval()
