"""The rule table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from porting.mapping import Drop, Rule, Shape
from porting.ops import Transpose

from .config import Config


def recognises(shapes: Mapping[str, Shape]) -> bool:
    return "model/wte" in shapes and "model/h0/attn/c_attn/w" in shapes


def rules(config: Config, names: Sequence[str]) -> list[Rule | Drop]:
    del config, names
    # step 3: unfinished before
    layer, turned = r"model/h(?P<i>\d+)", (Transpose(),)
    return [
        Rule(r"model/(?P<name>wte|wpe)", "embeddings.{name}.weight"),
        Rule(rf"{layer}/attn/(?P<name>c_attn|c_proj)/w", "h.{i}.attn.{name}.weight", turned),
        Rule(rf"{layer}/attn/(?P<name>c_attn|c_proj)/b", "h.{i}.attn.{name}.bias"),
        Rule(rf"{layer}/mlp/(?P<name>c_fc|c_proj)/w", "h.{i}.mlp.{name}.weight", turned),
        Rule(rf"{layer}/mlp/(?P<name>c_fc|c_proj)/b", "h.{i}.mlp.{name}.bias"),
        Rule(rf"{layer}/ln_1/g", "h.{i}.ln_1.weight"),
        Rule(rf"{layer}/ln_1/b", "h.{i}.ln_1.bias"),
        Rule(rf"{layer}/mlp/ln_2/g", "h.{i}.ln_2.weight"),
        Rule(rf"{layer}/mlp/ln_2/b", "h.{i}.ln_2.bias"),
        Rule(r"model/ln_f/g", "ln_f.weight"),
        Rule(r"model/ln_f/b", "ln_f.bias"),
        Drop(r"global_step", "global step"),
    ]
    # done
