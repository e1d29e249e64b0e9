"""FlaxT5 of transformers 4: which of its modules' outputs is which tap of the port.

Modules are named as in the port, with "/" for "."; what attention returns third are its weights, and what it
calls `_merge_heads` on are the attended values. Scores, the activation and what is masked in between are
computed by functions, and no module returns them. Source: transformers 4.57, `modeling_flax_t5.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from porting.ports.t5.architecture import StackSpec
from porting.ports.t5.attention_specs import AttentionSpec
from porting.ports.t5.config import T5Config
from porting.ports.t5.layer_specs import FeedForwardSpec, is_self_attention
from porting.ports.t5.t5x.recorded_taps import HERE, HIDDEN, MEMORY, WIDE
from porting.references.original_tap import OriginalTap

Where = tuple[tuple[str, str], ...]


def flax_taps(config: T5Config) -> list[OriginalTap]:
    """Taps on a FlaxT5ForConditionalGenerationModule, in the order of computation."""
    found: list[OriginalTap] = []
    for number, (name, stack) in enumerate(config.architecture.stacks.items()):
        embedded = "shared" if number == 0 else f"shared@{number}"
        found.append(OriginalTap(f"{name}.embed_tokens", embedded, HIDDEN, where=HERE[name]))
        found += _layers(config, name, stack)
        found.append(
            OriginalTap(f"{name}.final_layer_norm", f"{name}/final_layer_norm", HIDDEN, where=HERE[name])
        )
        # The stack's dropout is used twice: on what is embedded, and here.
        found.append(OriginalTap(name, f"{name}/dropout@1", HIDDEN, where=HERE[name]))
    # The module that makes them: of a tied model one that is made for this, and has no path.
    output = "" if config.tie_word_embeddings else "lm_head"
    found.append(OriginalTap("logits", output, "batch length vocab", where=HERE["decoder"]))
    return found


def _layers(config: T5Config, name: str, stack: StackSpec) -> Iterator[OriginalTap]:
    here = HERE[name]
    for place in stack.places:
        layer, spec = f"{name}.{place.path}", place.spec
        module = f"{layer}.{config.architecture.module_name(spec)}"
        yield _tap(f"{layer}.layer_norm", HIDDEN, here)
        if isinstance(spec, AttentionSpec):
            yield from _attention(
                name, spec, module, holds_bias=stack.bias_holders.get(place.number) == place.number
            )
        elif isinstance(spec, FeedForwardSpec):
            for projection in spec.projections:
                yield _tap(f"{module}.{projection}", WIDE, here)
            yield _tap(f"{module}.hidden", WIDE, here, f"{module}.dropout")
            yield _tap(f"{module}.wo", HIDDEN, here)
        yield _tap(layer, HIDDEN, here)


def _attention(name: str, spec: AttentionSpec, module: str, *, holds_bias: bool) -> Iterator[OriginalTap]:
    here, sizes = HERE[name], {"d_kv": spec.d_kv}
    memory = MEMORY[name if is_self_attention(spec) else "encoder"]
    path = module.replace(".", "/")
    yield _tap(f"{module}.q", "batch length (heads d_kv)", here, sizes=sizes)
    for part in ("k", "v"):
        yield _tap(f"{module}.{part}", "batch memory_length (heads d_kv)", memory, sizes=sizes)
    if holds_bias:  # all layers go on with it; to later ones it comes with the mask in it
        dims = "1 heads length memory_length"
        bias = f"{path}.compute_bias"
        yield OriginalTap(f"{module}.position_bias", bias, dims, has_gradient=False)
    yield OriginalTap(
        f"{module}.weights",
        f"{path}:2",
        "batch heads length memory_length",
        where=(*here, *memory),
        has_gradient=False,  # returned for whoever looks at them: the attention is computed of a copy
    )
    yield OriginalTap(
        f"{module}.attended", f"{path}._merge_heads", "batch length (heads d_kv)", sizes, where=here
    )
    yield _tap(f"{module}.o", HIDDEN, here)


def _tap(
    name: str, dims: str, where: Where, module: str = "", sizes: Mapping[str, int] | None = None
) -> OriginalTap:
    """Of a module that both sides call alike, unless another is named."""
    return OriginalTap(name, (module or name).replace(".", "/"), dims, sizes or {}, where=where)


def flax_parameters(config: T5Config, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """T5X's variables as FlaxT5's parameters, by their paths; written apart from the port's rules.

    Args:
        config: of the model.
        arrays: by T5X's names, without `target/`.

    Raises:
        KeyError: a variable is missing.
    """
    found = {"shared/embedding": arrays["token_embedder/embedding"]}
    if not config.tie_word_embeddings:
        found["lm_head/kernel"] = arrays["decoder/logits_dense/kernel"]
    for name, depth in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
        found[f"{name}/final_layer_norm/weight"] = arrays[f"{name}/{name}_norm/scale"]
        bias = arrays[f"{name}/relpos_bias/rel_embedding"].T
        found[f"{name}/block/0/layer/0/SelfAttention/relative_attention_bias/embedding"] = bias
        for i in range(depth):
            theirs, ours = f"{name}/layers_{i}", f"{name}/block/{i}/layer"
            own = "attention" if name == "encoder" else "self_attention"
            attentions = [("SelfAttention", own, f"pre_{own}_layer_norm")]
            if name == "decoder":
                cross = ("EncDecAttention", "encoder_decoder_attention", "pre_cross_attention_layer_norm")
                attentions.append(cross)
            for number, (module, original, norm) in enumerate(attentions):
                found[f"{ours}/{number}/layer_norm/weight"] = arrays[f"{theirs}/{norm}/scale"]
                for short, long in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out")):
                    kernel = arrays[f"{theirs}/{original}/{long}/kernel"]
                    found[f"{ours}/{number}/{module}/{short}/kernel"] = kernel
            last = len(attentions)
            found[f"{ours}/{last}/layer_norm/weight"] = arrays[f"{theirs}/pre_mlp_layer_norm/scale"]
            for projection in ("wi_0", "wi_1", "wo") if config.is_gated else ("wi", "wo"):
                kernel = arrays[f"{theirs}/mlp/{projection}/kernel"]
                found[f"{ours}/{last}/DenseReluDense/{projection}/kernel"] = kernel
    return found
