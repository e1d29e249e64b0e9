"""Fuzz targets of T5X's naming: its gin, a config.json, and what is inferred from variables alone."""

from __future__ import annotations

import json
from copy import deepcopy

from porting.port import port_for_variables
from tests.fuzz.configs import ODD, Shapes, chosen_seeds, t5_port, use
from tests.fuzz.harness import Choices, Target, guarded, sandbox
from tests.ports.t5.t5x.checkpoints import scalable_shapes, t5_shapes

_SIDE: Shapes = {
    "target/encoder/side_relpos_bias/rel_embedding": (3, 32),
    **{f"target/encoder/layers_{i}/attention/T5LayerNorm_0/scale": (20,) for i in range(3)},
}
_FORMS: tuple[Shapes, ...] = (
    t5_shapes(),
    t5_shapes(gated=False, tied=True),
    scalable_shapes(scanned=False),
    scalable_shapes(scanned=True),
    {**t5_shapes(), **_SIDE},
)
_BASE = """
from __gin__ import dynamic_registration
from t5x.examples.t5 import network
network.T5Config.emb_dim = 20
network.T5Config.num_heads = 3
network.T5Config.num_encoder_layers = 3
network.T5Config.num_decoder_layers = 2
network.T5Config.head_dim = 8
network.T5Config.mlp_dim = 36
network.T5Config.vocab_size = 64
network.T5Config.mlp_activations = ('gelu', 'linear')
"""
_KEYS = (
    "T5Config.vocab_size", "T5Config.emb_dim", "T5Config.num_heads", "T5Config.num_encoder_layers",
    "T5Config.mlp_activations", "T5Config.dropout_rate", "T5Config.logits_via_embedding",
    "T5Config.scan_layers", "T5Config.param_scan_axis", "MlpBlock.activations", "MlpBlock.intermediate_dim",
    "MultiHeadDotProductAttention.num_heads", "MultiHeadDotProductAttention.dropout_rate",
    "RelativePositionBiases.max_distance", "RelativePositionBiases.num_buckets",
    "RelativePositionBiasesGeneral.max_distance", "T5LayerNorm.epsilon", "Embed.features",
    "Decoder.output_logits_factory", "LongEncoder.num_layers", "LongEncoderLayer.attention_factory",
    "EncoderLocalSelfAttention.local_radius", "EtcTransientGlobalSelfAttention.tokens_per_block",
    "EtcTransientGlobalSelfAttention.local_radius", "EncoderDecoderModel.label_smoothing", "MACRO",
)  # fmt: skip
_VALUES = (
    "%MACRO", "%nothing", "%gin.REQUIRED", "@long_attention.EncoderLocalSelfAttention",
    "@long_attention.EtcTransientGlobalSelfAttention", "@a/b.C()", "[%MACRO, %MACRO]", "{'a': %MACRO}",
    "('gelu',) * 2", "('gelu', ('linear',))", "('silu', 'linear')", "[[]]", "0x" + "f" * 5000, "1j",
    "'\\ud800'", "..." , "-" * 900 + "1",
)  # fmt: skip
_PARTS = (
    "layers_0", "layers_1", "layers_99999", "layers_" + "9" * 5000, "layers_٣", "encoder", "decoder",
    "attention", "self_attention", "mlp", "wi", "wi_0", "wi_7", "wo", "kernel", "scale", "relpos_bias",
    "rel_embedding", "side_relpos_bias", "T5LayerNorm_0", "token_embedder", "embedding", "logits_dense",
    "target", "state", "param_states", "step", "flax_mutables", "", "(.*", "{i}", "x" * 3000, "a\0b",
)  # fmt: skip
_ASKED = (
    "encoder_attention_type", "local_radius", "global_block_size", "feed_forward_proj", "activations",
    "model_type", "num_layers", "d_ff", "dropout_rate", "relative_attention_max_distance", "encoder",
)  # fmt: skip
_DIMS = (0, 1, 2, 3, 7, 64, 2**31, 2**62)


def run_gin(data: bytes) -> None:
    """T5X's gin with some bindings more, which hold what they should not."""
    choices = Choices(data)
    lines = ["include 'nothing.gin'"] if choices.below(4) == 0 else []
    lines.append(_BASE)
    for _ in range(1 + choices.below(6)):
        lines.append(f"{choices.of(_KEYS)} = {choices.of([*_VALUES, *map(repr, ODD)])}")
    path = sandbox() / "config.gin"
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    shapes = choices.of(_FORMS)
    with guarded():
        use(t5_port(), t5_port().read_config(path, shapes).config, shapes)


def run_infer(data: bytes) -> None:
    """T5X's variables, some with other names and shapes, and answers that were not asked for."""
    choices = Choices(data)
    shapes = dict(choices.of(_FORMS))
    for _ in range(choices.below(5)):
        name = choices.of(sorted(shapes) or ["x"])
        shape, what = shapes.get(name, ()), choices.below(4)
        if what == 0:
            shapes.pop(name, None)
        elif what == 1:
            shapes[name] = tuple(choices.of(_DIMS) for _ in range(choices.below(5)))
        elif what == 2 and shape:
            at = choices.below(len(shape))
            shapes[name] = (*shape[:at], choices.of(_DIMS), *shape[at + 1 :])
        else:
            parts = name.split("/")
            parts[choices.below(len(parts))] = choices.of(_PARTS)
            shapes["/".join(parts)] = shape
    answers = {choices.of(_ASKED): deepcopy(choices.of(ODD)) for _ in range(choices.below(4))}
    path = sandbox() / "answers.json"
    path.write_text(json.dumps(answers), encoding="utf-8")
    with guarded():
        port = port_for_variables(shapes)
        use(port, port.infer_config(shapes).config, shapes)
    with guarded():
        use(t5_port(), t5_port().read_config(path, shapes).config, shapes)


TARGETS = [
    Target("t5x gin", run_gin, chosen_seeds),
    Target("t5x infer", run_infer, chosen_seeds),
]
