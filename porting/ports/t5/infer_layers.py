"""What single layers are, from their variables: kinds, sizes and heads. Used by infer.py.

Heads are read off tables of relative positions, or off variables that keep them as dimensions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from porting.errors import ConfigError, Problem
from porting.mapping import Shape
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.attention_specs import AttentionSpec, TalkingHeadsSpec
from porting.ports.t5.base_config import FEED_FORWARD_ACTIVATIONS
from porting.ports.t5.layer_specs import GATINGS, FeedForwardSpec, LayerSpec, MixtureSpec
from porting.ports.t5.scopes import SourceLayer

_USUAL_D_KV = 64


_ACTIVATIONS = {1: ("relu",), 2: ("gelu", "linear")}


@dataclass
class Reading:
    """The variables, what was answered beforehand, and what is found on the way."""

    shapes: Mapping[str, Shape]
    answers: Mapping[str, Any]
    problems: list[Problem] = field(default_factory=list)
    assumed: dict[str, str] = field(default_factory=dict)

    def answer(self, name: str, assumption: Any, why: str, how: str = "") -> Any:
        """What was answered, else the assumption, which is then said."""
        if self.answers.get(name) is not None:
            return self.answers[name]
        self.assumed.setdefault(
            name, f"{why}: override with --config FILE.json that holds {how or _example(name, assumption)}"
        )
        return assumption

    def refuse(self, key: str, expected: str, found: str) -> None:
        """Note what cannot be told, once."""
        problem = Problem(key, expected, found)
        if problem not in self.problems:
            self.problems.append(problem)

    def accept(self, architecture: Architecture | None, remedy: str) -> Architecture:
        """What was inferred. Raises ConfigError with all that was noted, if anything was."""
        if self.problems or architecture is None:
            raise ConfigError(
                "The configuration cannot be inferred from the variables.",
                problems=self.problems,
                remedy=remedy,
            )
        return architecture

    def find(self, pattern: str) -> dict[str, Shape]:
        """Variables whose whole name matches."""
        regex = re.compile(pattern)
        return {name: shape for name, shape in self.shapes.items() if regex.fullmatch(name)}


def _example(name: str, value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else f"{value}"
    return f'{{"{name}": {text if isinstance(value, bool | int | float) else repr(text)}}}'.replace("'", '"')


class Heads:
    """How many heads the attentions of a stack have: read off tables of relative positions, by width."""

    def __init__(
        self, reading: Reading, scope: str, layers: Sequence[SourceLayer], all_scopes: Sequence[str]
    ) -> None:
        self.reading = reading
        self.tables: dict[str, Shape] = {}
        for layer in layers:
            for prefix in ("", "enc_dec_"):
                name = f"{scope}/{layer.scope}/{layer.kind}/{prefix}relative_attention_bias"
                if reading.shapes.get(name):  # one without axes tells nothing
                    self.tables[f"{layer.scope}/{layer.kind}"] = reading.shapes[name]
        scopes = "|".join(map(re.escape, all_scopes))
        self.by_width: dict[int, tuple[int, ...]] = {}
        # [heads, buckets] and [heads, d_kv, buckets]
        for table, behind in (
            ("(?:enc_dec_)?relative_attention_bias", 1),
            ("relative_attention_ak/kernel", 2),
        ):
            for name, shape in reading.find(rf"(?:{scopes})/.*Attention/{table}").items():
                query = reading.shapes.get(re.sub(table, "q", name))
                if query is not None and len(query) == 2:
                    self.by_width.setdefault(query[1], shape[:-behind])

    def of(self, layer: str, width: int) -> tuple[int, ...] | None:
        """Heads' dimensions of a layer whose queries are so wide; None if it cannot be told."""
        dims = self.by_width.get(width)
        if dims is None and self.by_width:  # as wide as the heads that are known
            other, known = next(iter(self.by_width.items()))
            d_kv = other // max(1, math.prod(known))
            dims = (width // d_kv,) if d_kv and width % d_kv == 0 else None
        if dims is None:
            dims = self._assumed(layer, width)
        if dims is not None and width % max(1, math.prod(dims)):
            heads = math.prod(dims)
            self.reading.refuse(f"{layer}/q", f"[d_model, a multiple of {heads} heads]", f"[..., {width}]")
            return None
        return dims

    def _assumed(self, layer: str, width: int) -> tuple[int, ...] | None:
        given_heads, given_width = (self.reading.answers.get(name) for name in ("num_heads", "d_kv"))
        if given_heads:
            return (int(given_heads),)
        if given_width and width % int(given_width) == 0:
            return (width // int(given_width),)
        if given_width or width % _USUAL_D_KV:
            expected = 'how many heads it has: --config FILE.json that holds {"num_heads": 8} or {"d_kv": 64}'
            self.reading.refuse(f"{layer}/q", expected, f"a width of {width} and no relative positions")
            return None
        why = f"d_kv {_USUAL_D_KV}, as there is no table of relative positions to count them by"
        self.reading.answer("num_heads", width // _USUAL_D_KV, why)
        return (width // _USUAL_D_KV,)


def layer_spec(reading: Reading, scope: str, layer: SourceLayer, heads: Heads) -> LayerSpec | None:
    """What a layer is; None where a problem was noted."""
    path = f"{scope}/{layer.scope}/{layer.kind}"
    if layer.kind == "DenseReluDense":
        return _feed_forward(reading, path)
    if layer.kind == "MoE1D":
        return _mixture(reading, path)
    if layer.kind.startswith("TalkingHeads"):
        return _talking_heads(reading, path, layer, heads)
    return _attention(reading, path, layer, heads)


def _relative(layer: SourceLayer, heads: Heads, dims: tuple[int, ...]) -> dict[str, Any]:
    """Type and buckets of relative positions of a layer with these heads."""
    own = heads.tables.get(f"{layer.scope}/{layer.kind}")
    tables = {
        where: shape
        for where, shape in heads.tables.items()
        if where.endswith(f"/{layer.kind}") and shape[:-1] == dims
    }
    if not tables:
        return {}
    kind = "bias" if own is not None and len(tables) > 1 else "bias_shared"
    return {
        "relative_attention_type": kind,
        "relative_attention_num_buckets": next(iter(tables.values()))[-1],
    }


def _attention(reading: Reading, path: str, layer: SourceLayer, heads: Heads) -> AttentionSpec | None:
    query = reading.shapes.get(f"{path}/q")
    memory_name = next((f"{path}/{name}" for name in ("kv", "k") if f"{path}/{name}" in reading.shapes), None)
    if query is None or len(query) < 2 or memory_name is None:
        found = "no such variable" if query is None else f"{query}"
        reading.refuse(f"{path}/q [d_model, heads*d_kv]", "a matrix to read sizes off", found)
        return None
    memory = reading.shapes[memory_name]
    contextual = reading.shapes.get(f"{path}/relative_attention_ak/kernel")
    own = heads.tables.get(f"{layer.scope}/{layer.kind}")
    dims: tuple[int, ...] | None
    # Variables of three dimensions state the heads; one head of two dimensions looks like combined ones.
    combined = len(query) == 2
    if not combined:
        dims, d_kv = query[1:-1], query[-1]
    else:
        dims = contextual[:-2] if contextual else own[:-1] if own else heads.of(path, query[1])
        if dims is None or query[1] % max(1, math.prod(dims)):
            if dims is not None:
                expected = f"[d_model, a multiple of {math.prod(dims)} heads]"
                reading.refuse(f"{path}/q", expected, f"{query}")
            return None
        d_kv = query[1] // max(1, math.prod(dims))
    num_heads = math.prod(dims)
    if num_heads < 1 or d_kv < 1:
        reading.refuse(f"{path}/q", "heads, and a width for each", f"{query}: {num_heads} of {d_kv}")
        return None
    memory_heads = math.prod(memory[1:]) // d_kv
    relative: dict[str, Any]
    if contextual:
        relative = {
            "relative_attention_type": "contextual",
            "relative_attention_num_buckets": contextual[-1],
        }
    else:
        relative = _relative(layer, heads, tuple(dims))
    if relative and reading.answers.get("relative_attention_max_distance"):
        relative["relative_attention_max_distance"] = reading.answers["relative_attention_max_distance"]
    grouped = len(dims) == 2 or memory_heads != num_heads
    return AttentionSpec(
        kind=layer.kind,
        num_heads=num_heads,
        d_kv=d_kv,
        num_memory_heads=memory_heads if grouped else 0,
        shared_kv=memory_name.endswith("/kv"),
        fold_scaling_into_initializer=bool(reading.answers.get("fold_scaling_into_initializer", True)),
        combine_dims=combined,
        **relative,
    )


def _talking_heads(reading: Reading, path: str, layer: SourceLayer, heads: Heads) -> TalkingHeadsSpec | None:
    """Each set of heads one dimension: named as in the published configs where they differ."""
    names = {name: reading.shapes.get(f"{path}/{name}/kernel") for name in ("q", "k", "v")}
    if any(shape is None or len(shape) != 3 for shape in names.values()):
        for name, shape in names.items():
            if shape is None or len(shape) != 3:
                found = "no such variable" if shape is None else f"{shape}"
                reading.refuse(f"{path}/{name}/kernel", "[d_model, heads, width]", found)
        return None
    query, value = names["q"], names["v"]
    assert query is not None and value is not None
    logits, weights = (reading.shapes.get(f"{path}/{name}/kernel") for name in ("logits", "weights"))
    softmax = logits[-1] if logits else weights[0] if weights else query[1]
    dynamic = []
    for name in ("logits", "weights"):
        number = len(reading.find(rf"{re.escape(path)}/{name}/{name}_dynamic_\d+/kernel"))
        if number == 1 and not reading.answers.get("dynamic_projections"):
            expected = 'which: --config FILE.json that holds {"dynamic_projections": ["x2l"]}, say'
            reading.refuse(f"{path}/{name}", expected, "a dynamic projection from the input or the memory")
        dynamic += [f"{source}2{name[0]}" for source in "xm"] if number == 2 else []
    return TalkingHeadsSpec(
        kind=layer.kind,
        key_heads=(("key_heads" if logits else "heads", query[1]),),
        softmax_heads=(("heads", softmax),),
        value_heads=(("value_heads" if weights else "heads", value[1]),),
        d_k=query[2],
        d_v=value[2],
        dynamic_projections=tuple(reading.answers.get("dynamic_projections") or dynamic),
        **_relative(layer, heads, (softmax,)),
    )


def _activations(reading: Reading, path: str) -> tuple[str, ...]:
    number = len(reading.find(rf"{re.escape(path)}/(?:wi|wi_\d+)/kernel"))
    given = reading.answers.get("activations")
    if given is not None:
        return tuple(given) if isinstance(given, list | tuple) else (str(given),)
    for name in ("feed_forward_proj", "dense_act_fn"):
        if reading.answers.get(name) in FEED_FORWARD_ACTIVATIONS:
            return FEED_FORWARD_ACTIVATIONS[str(reading.answers[name])]
    if number not in _ACTIVATIONS:
        expected = 'to know its activations: --config FILE.json that holds {"activations": [...]}'
        reading.refuse(f"{path}/wi", expected, f"a product of {number} projections")
        return ("relu",) * max(1, number)
    said = "gelu (tanh), as in T5 1.1; UL2 has silu" if number == 2 else "relu, as in T5 1.0"
    reading.answer("activations", [], f"activation {said}", '{"feed_forward_proj": "gated-silu"}, say')
    return _ACTIVATIONS[number]


def _feed_forward(reading: Reading, path: str) -> FeedForwardSpec | None:
    projections = reading.find(rf"{re.escape(path)}/(?:wi|wi_\d+)/kernel")
    name, shape = next(iter(projections.items()), (f"{path}/wi/kernel or wi_0/kernel", None))
    if shape is None or len(shape) != 2:
        found = "no such variable" if shape is None else f"{shape}"
        reading.refuse(f"{name} [d_model, d_ff]", "a matrix to read sizes off", found)
        return None
    return FeedForwardSpec(
        d_ff=shape[1],
        activations=_activations(reading, path),
        use_bias=f"{path}/wo/bias" in reading.shapes,
    )


def _mixture(reading: Reading, path: str) -> MixtureSpec | None:
    inner = next(iter(reading.find(rf"{re.escape(path)}/(?:wi|wi_0)/kernel").values()), ())
    gating = next((g for g in GATINGS if f"{path}/{g}_gating/kernel" in reading.shapes), None)
    router = reading.shapes.get(f"{path}/{gating}_gating/kernel", ())
    if len(inner) != 3 or gating is None or len(router) != 2:
        expected = "experts wi/kernel [experts, d_model, d_ff] and a gating kernel [d_model, experts]"
        reading.refuse(path, expected, f"{inner} and {router}")
        return None
    usual = MixtureSpec(num_experts=1, d_ff=1)
    why = (
        "experts filled in groups of 1024 tokens (moe_group_size) with up to twice their share"
        " (capacity_factor_eval), at least 4 (min_expert_capacity), router_aux_loss_coef 0.01,"
        " use_second_place_loss false, and routers that see no embeddings but where they are as wide"
        " (word_embed_mode), as Mesh does by default"
    )
    capacity = reading.answer("capacity_factor_eval", usual.capacity_factor, why)
    coefficient = reading.answers.get("router_aux_loss_coef", usual.loss_coef)
    spec = MixtureSpec(
        num_experts=inner[0],
        d_ff=inner[2],
        activations=_activations(reading, path),
        gating=gating,
        group_size=int(reading.answers.get("moe_group_size", usual.group_size)),
        capacity_factor=float(capacity),
        min_expert_capacity=int(reading.answers.get("min_expert_capacity", usual.min_expert_capacity)),
        loss_coef=float(coefficient),
        word_embed_mode="concat" if router[0] == 2 * inner[1] else reading.answers.get("word_embed_mode"),
        experts_per_token=_experts_per_token(reading, gating, inner[0]),
    )
    if gating in ("top_2", "top_n"):
        why = "every token goes to its further experts too, as far as there is room (second_threshold: none)"
        policy = reading.answer("second_policy", "all", why, '{"second_policy": "none"}')
        spec = replace(
            spec,
            second_policy=str(policy),
            second_threshold=float(reading.answers.get("second_threshold", spec.second_threshold)),
            use_second_place_loss=bool(reading.answers.get("use_second_place_loss", False)),
        )
    return spec


def _experts_per_token(reading: Reading, gating: str, experts: int) -> int:
    usual = {"top_n": 3, "ntlb": 4}.get(gating)
    if usual is None:
        return 0
    why = f"{usual} experts for each token, as Mesh does by default"
    return int(reading.answer("experts_per_token", min(usual, experts), why))
