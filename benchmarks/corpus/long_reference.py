"""transformers' LongT5 as the original of the corpus: no package index has Google's own.

At real positions it computes what Google's does, as long as padding lies behind what is real: its blocks of
summaries are counted by position alone. Its modules' outputs are heard; scores and weights are computed by
functions, as in recorded runs of Google's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from porting.ports.t5.attention_specs import AttentionSpec, LocalAttentionSpec, TransientGlobalAttentionSpec
from porting.ports.t5.config import config_from_json
from porting.ports.t5.layer_specs import FeedForwardSpec, is_self_attention
from porting.ports.t5.long_config import LongT5Config
from porting.ports.t5.t5x.recorded_taps import HERE, HIDDEN, MEMORY, WIDE
from porting.ports.t5.taps import taps
from porting.references.original_tap import OriginalTap
from porting.references.process import ReferenceProcess
from porting.references.pytorch import BuiltModule, reference


def long_t5(config: LongT5Config) -> Any:
    """transformers' module of this config, weights not filled in."""
    import transformers

    return transformers.LongT5ForConditionalGeneration(transformers.LongT5Config(**config.to_json())).eval()


def long_taps(config: LongT5Config) -> Iterator[OriginalTap]:
    """What of it is heard, in the order of computation."""
    for name, stack in config.architecture.stacks.items():
        here = HERE[name]
        yield OriginalTap(f"{name}.embed_tokens", f"{name}.embed_tokens", HIDDEN, where=here)
        for place in stack.places:
            layer, spec = f"{name}.{place.path}", place.spec
            module = f"{layer}.{config.architecture.module_name(spec)}"
            yield OriginalTap(f"{layer}.layer_norm", f"{layer}.layer_norm", HIDDEN, where=here)
            if isinstance(spec, FeedForwardSpec):
                for leaf in (*spec.projections, "act"):
                    yield OriginalTap(f"{module}.{leaf}", f"{module}.{leaf}", WIDE, where=here)
                yield OriginalTap(f"{module}.hidden", f"{module}.dropout", WIDE, where=here)
            elif isinstance(spec, AttentionSpec | LocalAttentionSpec):
                first = f"{name}.block.0.layer.{place.index}.{place.spec.kind}"
                yield from _attention(name, spec, module, first)
            out = "wo" if isinstance(spec, FeedForwardSpec) else "o"
            yield OriginalTap(f"{module}.{out}", f"{module}.{out}", HIDDEN, where=here)
            yield OriginalTap(layer, layer if out == "wo" else f"{layer}:0", HIDDEN, where=here)
        yield OriginalTap(f"{name}.final_layer_norm", f"{name}.final_layer_norm", HIDDEN, where=here)
        # The stack's dropout is used twice: on what is embedded, and here.
        yield OriginalTap(name, f"{name}.dropout@1", HIDDEN, where=here)
    yield OriginalTap("logits", "logits", "batch length vocab", where=HERE["decoder"])


def _attention(
    name: str, spec: AttentionSpec | LocalAttentionSpec, module: str, first: str
) -> Iterator[OriginalTap]:
    """Layers after the first take its biases over, which only that one computes."""
    sizes = {"d_kv": spec.d_kv}
    memory = MEMORY[name if is_self_attention(spec) else "encoder"]
    yield OriginalTap(f"{module}.q", f"{module}.q", "batch length (heads d_kv)", sizes, where=HERE[name])
    for leaf in ("k", "v"):
        dims = "batch memory_length (heads d_kv)"
        yield OriginalTap(f"{module}.{leaf}", f"{module}.{leaf}", dims, sizes, where=memory)
        if isinstance(spec, TransientGlobalAttentionSpec):  # the same module, called again
            dims = "batch global_length (heads d_kv)"
            yield OriginalTap(f"{module}.side_{leaf}", f"{module}.{leaf}@1", dims, sizes)
    if isinstance(spec, TransientGlobalAttentionSpec):
        norm = f"{module}.global_input_layer_norm"
        yield OriginalTap(norm, norm, "batch global_length d_model")
        dims = "batch length global_length heads"
        table = f"{first}.global_relative_attention_bias"
        yield OriginalTap(f"{module}.side_position_bias", table, dims, where=HERE[name])
    if spec.relative_attention_type:
        local = isinstance(spec, LocalAttentionSpec)
        dims = "block_length window_length heads" if local else "length memory_length heads"
        yield OriginalTap(f"{module}.position_bias", f"{first}.relative_attention_bias", dims)


def build(request: Mapping[str, Any], folder: Path) -> BuiltModule:
    """The module that transformers loads from a folder; the request says what the port takes it for."""
    import transformers

    config = config_from_json(request["config"])
    assert isinstance(config, LongT5Config)
    tapped = list(long_taps(config))
    heard = {tap.name for tap in tapped}
    return BuiltModule(
        transformers.LongT5ForConditionalGeneration.from_pretrained(folder),
        _run,
        tapped,
        masks=lambda arrays: {name: np.asarray(arrays[name] != 0) for name in ("inputs", "targets")},
        facts={
            "unheard": [tap.name for tap in taps(config) if tap.name not in heard],
            "left_out": "padded positions",
        },
    )


def _run(module: Any, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    ids, targets = inputs["inputs"], inputs["targets"]
    output = module(
        input_ids=ids,
        attention_mask=(ids != 0).long(),
        decoder_input_ids=torch.nn.functional.pad(targets[:, :-1], (1, 0)),
        decoder_attention_mask=(targets != 0).long(),
        use_cache=False,
    )
    return {"logits": output.logits}


class RunHere(ReferenceProcess):
    """transformers' module in this process: both sides are PyTorch, and another process takes seconds."""

    def __init__(self, folder: Path) -> None:
        """Of the model that transformers wrote into a folder."""
        super().__init__("")
        self._reference = reference(
            partial(build, folder=folder), implementation="LongT5 of transformers", packages=["transformers"]
        )

    def call(self, request: Mapping[str, Any]) -> None:
        self._reference(request)
