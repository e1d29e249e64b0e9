"""Fuzz targets of configurations: gin, config.json, and what is inferred from variables alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from porting.checkpoint import open_checkpoint
from porting.gin_file import read_gin
from porting.model_dir import read_config as read_model_config
from porting.port import Port, installed_ports, port_for_variables
from tests.fuzz.harness import DEMO, Choices, Target, guarded, sandbox

Shapes = dict[str, tuple[int, ...]]

# What a value may be that no config should hold, and some that one may.
ODD: tuple[Any, ...] = (
    1, 0, -1, 2, 3, 64, 10**9, 10**6, 4096, 2**63, 2**200, 10**30, -(10**9), 0.5, -0.0, 1e308, float("inf"),
    float("nan"), True, False, None, "", "x", "relu", "gelu", "bias", "7", "../../etc/passwd", "a\0b",
    "\N{DIGIT ONE}",
    "²", "bitransformer", "lm", "aligned", "encoder", "decoder", "top_2", "mesh_t5", "t5", "bert",
    "switch_transformers", "é" * 50, [], [1], ["gelu", "linear"], [None], [[1]], [["heads", 4]], [{}],
    {}, {"a": 1},
    {"dropout_broadcast_dims": []}, {"kind": "SelfAttention"}, [[[[]]]], ["SelfAttention"] * 3,
)  # fmt: skip


@cache
def demo_shapes() -> Shapes:
    return {name: tensor.shape for name, tensor in open_checkpoint(DEMO).tensors.items()}


@cache
def ports() -> tuple[Port, ...]:
    return tuple(port for name, port in sorted(installed_ports().items()))


def t5_port() -> Port:
    return installed_ports()["t5"]


def bert_shapes() -> Shapes:
    shapes: Shapes = {
        "bert/embeddings/word_embeddings": (30, 64),
        "bert/embeddings/position_embeddings": (16, 64),
        "bert/embeddings/token_type_embeddings": (2, 64),
    }
    for i in range(2):
        shapes[f"bert/encoder/layer_{i}/intermediate/dense/kernel"] = (64, 100)
    return shapes


def family_shapes() -> list[Shapes]:
    """Variables of several kinds of models."""
    plain = {name: shape for name, shape in demo_shapes().items() if "_slot_" not in name}
    lone = {
        name.replace("decoder/", "transformer/"): shape
        for name, shape in plain.items()
        if name.startswith("decoder/") and "layer_001" not in name
    } | {"transformer/embedding": (128, 40)}
    talking: Shapes = {"shared/embedding": (128, 40)}
    experts: Shapes = {"shared/embedding": (128, 40)}
    for stack in ("encoder", "decoder"):
        path = f"{stack}/block_000/layer_000/TalkingHeadsSelfAttention"
        talking |= {f"{path}/{n}/kernel": (40, 4, 16) for n in "qkv"} | {f"{path}/y/kernel": (4, 16, 40)}
        talking |= {f"{path}/logits/kernel": (4, 6), f"{path}/weights/kernel": (6, 4)}
        talking |= {f"{path}/relative_attention_bias": (6, 32)}
        path = f"{stack}/block_000/layer_001/MoE1D"
        experts |= {f"{path}/wi/kernel": (4, 40, 96), f"{path}/wo/kernel": (4, 96, 40)}
        experts |= {f"{path}/{'switch' if stack == 'encoder' else 'top_n'}_gating/kernel": (40, 4)}
        path = f"{stack}/block_000/layer_000/SelfAttention"
        experts |= {f"{path}/{n}": (40, 4, 2, 16) if n == "q" else (40, 4, 16) for n in "qkv"}
        experts |= {f"{path}/o": (4, 2, 16, 40), f"{path}/relative_attention_ak/kernel": (4, 2, 16, 32)}
        path = f"{stack}/block_000/layer_002/DenseReluDense"
        talking |= {f"{path}/wi/kernel": (40, 96), f"{path}/wo/kernel": (96, 40)}
    flat = {name.replace("block_000/", ""): shape for name, shape in plain.items() if "block_001" not in name}
    return [plain, lone, talking, experts, flat, bert_shapes()]


def use(port: Port, config: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """What a conversion does with a config before it builds a model."""
    port.rules(config, list(shapes))
    port.config_to_json(config)


def gin_seeds() -> list[bytes]:
    demo = (DEMO / "operative_config.gin").read_bytes()
    short = b"include 'a.gin'\nmake_layer_stack.layers = [@SelfAttention, @DenseReluDense]\n"
    return [
        demo,
        short + b"\0d_ff = %x\nx = 96\ninclude 'b.gin'\0y = [%x, %x]",
        b"a = %b\nb = [%a]\nA.x = %a",
    ]


def run_gin(data: bytes) -> None:
    """Three files, apart by null bytes: the config, and two that it may include."""
    for name, part in zip(("operative_config", "a", "b"), (data + b"\0\0").split(b"\0", 2), strict=True):
        (sandbox() / f"{name}.gin").write_bytes(part)
    path = sandbox() / "operative_config.gin"
    with guarded():
        gin = read_gin(path)
        for binding in gin.bindings:
            gin.get(binding.scope, binding.selector, binding.parameter)
    with guarded():
        resolved = t5_port().read_config(path, demo_shapes())
        use(t5_port(), resolved.config, demo_shapes())


# The part of the demonstration's config that says what the model is.
_BASE = """
d_ff = 96
decoder/DenseReluDense.activation = ['gelu', 'linear']
encoder/DenseReluDense.activation = ['gelu', 'linear']
DenseReluDense.hidden_size = %d_ff
decoder/LayerStack.sublayers_final = [@transformer.sublayer_rms_norm, @transformer.sublayer_dropout]
decoder/make_layer_stack.layers = [@SelfAttention, @transformer_layers.EncDecAttention, @DenseReluDense]
encoder/make_layer_stack.layers = [@transformer_layers.SelfAttention, @transformer_layers.DenseReluDense]
decoder/make_layer_stack.num_layers = 3
encoder/make_layer_stack.num_layers = 2
SelfAttention.key_value_size = 16
SelfAttention.num_heads = 4
SelfAttention.relative_attention_type = 'bias_shared'
EncDecAttention.relative_attention_type = None
Unitransformer.d_model = 40
Unitransformer.positional_embedding = False
Unitransformer.shared_embedding_and_softmax_weights = False
"""


@cache
def _statements() -> tuple[str, ...]:
    """Parameters that the port reads, as a gin file binds them."""
    gin = read_gin(DEMO / "operative_config.gin")
    more = (
        "run.model_type", "Unitransformer.ensemble", "Unitransformer.name", "Unitransformer.max_length",
        "MoE1D.num_experts", "MoE1D.moe_gating", "MoE1D.hidden_size", "MoE1D.activation",
        "MoE1D.word_embed_mode",
        "EncDecAttention.relative_attention_type", "relative_position_spans.num_sentinels",
        "TalkingHeadsSelfAttention.key_heads_dims", "TalkingHeadsSelfAttention.dynamic_projections",
        "SelfAttention.attention_kwargs", "Unitransformer.sinusoid_positional_embedding",
    )  # fmt: skip
    keys = [f"{b.scope}/{b.selector}.{b.parameter}".strip("/.") for b in gin.bindings]
    return (*more, *(key for key in keys if "decode" not in key or "decoder" in key))


_GIN_VALUES = (
    "@SelfAttention", "@x/SelfAttention", "@EncDecAttention()", "@a.b.Nothing", "%d_ff", "%nothing",
    "0x" + "f" * 5000,
    "[@SelfAttention, @DenseReluDense]", "[@TalkingHeadsSelfAttention, @MoE1D]",
    "[('n', @SelfAttention, {'x': []})]",
    "[(@MoE1D, {'num_experts': 10**9})]", "[('same', @SelfAttention), ('same', @SelfAttention)]",
    "('a', 1)",
    "{1: 2, 'a': None}", "{(1, 2): [3]}", "b'\\xff'", "1j", "'\\ud800'", "[@MoE1D] * 5", "-" * 900 + "1",
    "()",
    "{'decoder_num_heads': 3}", "'a' 'b'", "(('heads', 4),)", "(('heads', 'x'),)", "[1, 'a', None]", "...",
    "[" + "@SelfAttention, " * 3000 + "]",
)  # fmt: skip


def run_gin_values(data: bytes) -> None:
    """A config with some bindings more, which hold what they should not."""
    choices = Choices(data)
    lines = [_BASE]
    for _ in range(1 + choices.below(6)):
        key = choices.of(_statements())
        values = [*_GIN_VALUES, *map(repr, ODD)]
        lines.append(f"{key} = {choices.of(values)}")
    path = sandbox() / "operative_config.gin"
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    shapes = choices.of(family_shapes()[:5])
    with guarded():
        resolved = t5_port().read_config(path, shapes)
        use(t5_port(), resolved.config, shapes)


@cache
def config_seeds() -> list[dict[str, Any]]:
    """What config.json holds, for each model type."""
    t5 = t5_port()
    shapes = family_shapes()
    inferred = [t5.infer_config(these).config for these in shapes[:2]]
    found = [t5.config_to_json(config) for config in inferred] + [inferred[0].to_json()]
    switch = {
        **found[0], "model_type": "switch_transformers", "num_experts": 4, "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1, "dense_act_fn": "relu",
    }  # fmt: skip
    bert = installed_ports()["bert"]
    google = bert.config_to_json(bert.infer_config(bert_shapes()).config)
    answers = {"num_heads": 4, "d_kv": 16, "feed_forward_proj": "gated-gelu", "autoregressive": False}
    more = {
        "activations": ["relu"],
        "positions": "none",
        "max_length": 9,
        "experts_per_token": 2,
        "moe_group_size": 7,
    }
    return [json.loads(json.dumps(content)) for content in (*found, switch, google, answers, more)]


def json_seeds() -> list[bytes]:
    return [json.dumps(content).encode() for content in config_seeds()]


def run_json(data: bytes) -> None:
    path = sandbox() / "config.json"
    path.write_bytes(data)
    with guarded():
        read_model_config(sandbox())
    for port in ports():
        shapes = demo_shapes() if port.name != "bert" else bert_shapes()
        with guarded():
            use(port, port.read_config(path, shapes).config, shapes)


def run_json_values(data: bytes) -> None:
    """A sound config with some values changed."""
    choices = Choices(data)
    content = json.loads(json.dumps(choices.of(config_seeds())))
    names = sorted({name for other in config_seeds() for name in other})
    for _ in range(1 + choices.below(3)):
        place = content
        key = choices.of(names)
        # Into stacks and layers, as often as not.
        while isinstance(place.get(key), dict) and choices.below(4):
            place = place[key]
            key = choices.of(sorted(place) or ["x"])
            if (
                isinstance(place.get(key), list)
                and place[key]
                and isinstance(place[key][0], dict)
                and choices.below(4)
            ):
                place = choices.of(place[key])
                key = choices.of(sorted(place))
        place[key] = deepcopy(choices.of(ODD))
    run_json(json.dumps(content).encode())


_PARTS = (
    "block_000", "block_001", "block_999999999", "block_" + "9" * 5000, "layer_000",
    "layer_99999999999999999999", "q",
    "k", "kv", "SelfAttention", "EncDecAttention", "TalkingHeadsSelfAttention", "MoE1D",
    "DenseReluDense", "wi", "wi_0",
    "wi_2", "kernel", "relative_attention_bias", "relative_attention_ak", "embedding", "logits",
    "encoder", "decoder",
    "shared", "", "a b", "{block}", "(.*", "x" * 3000, "block_٣", "block_²", "weird_gating", "scale",
    "bert", "layer_7",
    "top_2_gating", "positional_embedding", "logits_dynamic_1", "layer_" + "8" * 5000,
)  # fmt: skip
_DIMS = (0, 1, 2, 3, 7, 64, 2**31, 2**62)


def run_infer(data: bytes) -> None:
    """A model's variables, some with other names and shapes, and answers that were not asked for."""
    choices = Choices(data)
    shapes = dict(choices.of(family_shapes()))
    for _ in range(1 + choices.below(4)):
        name = choices.of(sorted(shapes) or ["x"])
        shape = shapes.get(name, ())
        what = choices.below(5)
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
    answers = {}
    for _ in range(choices.below(3)):
        answers[choices.of(sorted({*config_seeds()[5], *config_seeds()[6], *config_seeds()[3]}))] = deepcopy(
            choices.of(ODD)
        )
    path = Path(sandbox() / "answers.json")
    path.write_text(json.dumps(answers), encoding="utf-8")
    with guarded():
        port = port_for_variables(shapes)
        use(port, port.infer_config(shapes).config, shapes)
    for port in ports():
        with guarded():
            use(port, port.read_config(path, shapes).config, shapes)


def chosen_seeds() -> list[bytes]:
    return [bytes(8), *(bytes([i, 3 * i, 7 * i, 11 * i % 256, 13 * i % 256, 5, i, 2]) for i in range(12))]


TARGETS = [
    Target("gin", run_gin, gin_seeds),
    Target("gin values", run_gin_values, chosen_seeds),
    Target("json", run_json, json_seeds),
    Target("json values", run_json_values, chosen_seeds),
    Target("infer", run_infer, chosen_seeds),
]
