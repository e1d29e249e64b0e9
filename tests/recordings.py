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


def t5_model(recording: Path) -> T5Model:
    """The port with the weights that a run was recorded with; written apart from the port's rules."""
    with np.load(recording) as held:
        arrays = {name.removeprefix("param:"): held[name] for name in held.files if name.startswith("param:")}
    state = {
        "shared.weight": arrays["token_embedder/embedding"],
        "lm_head.weight": arrays["decoder/logits_dense/kernel"].T,
    }
    for stack, depth in (("encoder", CONFIG.num_layers), ("decoder", CONFIG.num_decoder_layers)):
        scanned = f"{stack}/layers_0/mlp/wo/kernel" not in arrays
        state[f"{stack}.final_layer_norm.weight"] = arrays[f"{stack}/{stack}_norm/scale"]
        for i in range(depth):

            def layer(name: str, stack: str = stack, i: int = i, scanned: bool = scanned) -> np.ndarray:
                if scanned:
                    return arrays[f"{stack}/{stack}/{name}"].take(i, axis=1)
                return arrays[f"{stack}/layers_{i}/{name}"]

            first = "attention" if stack == "encoder" else "self_attention"
            parts = [("SelfAttention", first, f"pre_{first}_layer_norm")]
            if stack == "decoder":
                parts.append(
                    ("EncDecAttention", "encoder_decoder_attention", "pre_cross_attention_layer_norm")
                )
            block = f"{stack}.block.{i}.layer"
            for number, (module, name, norm) in enumerate(parts):
                state[f"{block}.{number}.layer_norm.weight"] = layer(f"{norm}/scale")
                for ours, theirs in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
                    state[f"{block}.{number}.{module}.{ours}.weight"] = layer(f"{name}/{theirs}/kernel").T
            number = len(parts)
            state[f"{block}.{number}.layer_norm.weight"] = layer("pre_mlp_layer_norm/scale")
            for name in ("wi_0", "wi_1", "wo"):
                state[f"{block}.{number}.DenseReluDense.{name}.weight"] = layer(f"mlp/{name}/kernel").T
        bias = arrays.get(f"{stack}/relpos_bias/rel_embedding")
        bias = layer("relpos_bias/rel_embedding") if bias is None else bias
        key = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        state[key] = bias.T
    model = T5Model(CONFIG)
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    return model.eval()
