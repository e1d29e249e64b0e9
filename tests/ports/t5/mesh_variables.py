"""The variables that Mesh TensorFlow makes for a T5, by name and shape, and a T5 of unlike sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from porting.mapping import Shape
from porting.ports.t5.config import T5Config

# No two sizes alike: heads * d_kv != d_model, heads != buckets, encoder and decoder of different depth.
SMALL = T5Config(
    vocab_size=50,
    d_model=12,
    d_kv=5,
    d_ff=20,
    num_layers=3,
    num_decoder_layers=2,
    num_heads=3,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=16,
)
V1_1 = replace(SMALL, feed_forward_proj="gated-gelu", tie_word_embeddings=False)

LAYERS = {
    "encoder": ("SelfAttention", "DenseReluDense"),
    "decoder": ("SelfAttention", "EncDecAttention", "DenseReluDense"),
}


def mesh_shapes(
    config: T5Config,
    *,
    old_norms: bool = False,
    scopes: Mapping[str, str] | None = None,
    slots: bool = False,
) -> dict[str, Shape]:
    """Variable name -> shape.

    Args:
        config: the model.
        old_norms: `layer_norm` and `final_layer_norm`, as in 2019, else `rms_norm`.
        scopes: layer class -> the name that its layers were given, else `layer_000`, `layer_001`...
        slots: optimizer slots beside every weight, and `global_step`.
    """
    d_model, inner, d_ff = config.d_model, config.num_heads * config.d_kv, config.d_ff
    norm, final = ("layer_norm", "final_layer_norm") if old_norms else ("rms_norm", "rms_norm")
    wi = ("wi_0", "wi_1") if config.is_gated else ("wi",)
    shapes: dict[str, Shape] = {"shared/embedding": (config.vocab_size, d_model)}
    for stack, blocks in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
        for block in range(blocks):
            for index, kind in enumerate(LAYERS[stack]):
                scope = f"{stack}/block_{block:03d}/{(scopes or {}).get(kind, f'layer_{index:03d}')}"
                shapes[f"{scope}/{norm}/scale"] = (d_model,)
                if kind == "DenseReluDense":
                    shapes |= {f"{scope}/{kind}/{name}/kernel": (d_model, d_ff) for name in wi}
                    shapes[f"{scope}/{kind}/wo/kernel"] = (d_ff, d_model)
                    continue
                shapes |= {f"{scope}/{kind}/{name}": (d_model, inner) for name in "qkv"}
                shapes[f"{scope}/{kind}/o"] = (inner, d_model)
                if kind == "SelfAttention" and block == 0:
                    bias = (config.num_heads, config.relative_attention_num_buckets)
                    shapes[f"{scope}/{kind}/relative_attention_bias"] = bias
        shapes[f"{stack}/{final}/scale"] = (d_model,)
    if not config.tie_word_embeddings:
        shapes["decoder/logits/kernel"] = (d_model, config.vocab_size)
    if slots:
        for name, shape in list(shapes.items()):
            if len(shape) == 2:  # Adafactor factors the second moments of matrices
                shapes |= {f"{name}_slot_vr": shape[:1], f"{name}_slot_vc": shape[1:]}
            else:
                shapes[f"{name}_slot_v"] = shape
        shapes["global_step"] = ()
    return shapes
