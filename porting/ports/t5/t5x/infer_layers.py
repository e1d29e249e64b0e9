"""What single layers of T5X's stacks are, from their variables: heads, sizes, gating. Used by infer.py."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from porting.mapping import Shape
from porting.ports.t5.attention_specs import AttentionSpec
from porting.ports.t5.base_config import FEED_FORWARD_ACTIVATIONS
from porting.ports.t5.infer_layers import Reading
from porting.ports.t5.layer_specs import FeedForwardSpec
from porting.ports.t5.t5x.names import SCAN_AXIS, WEIGHTS

_GATED = ("gelu", "linear")
_MAX_DIGITS = 6


@dataclass(frozen=True)
class StackLayers:
    """The layers of one stack: shapes of what each of them has, however they lie."""

    reading: Reading
    stack: str
    scanned: bool

    def shape(self, path: str, rank: tuple[int, ...], what: str) -> Shape | None:
        """Shape of one layer's variable; of the first layer that has it. None where a problem was noted.

        Args:
            path: below the layer's scope.
            rank: how many dimensions it may have.
            what: the dimensions, in words.
        """
        own = rf"{WEIGHTS}/{self.stack}/layers_\d+/{re.escape(path)}"
        scanned = f"{WEIGHTS}/{self.stack}/{self.stack}/{path}"
        name = scanned if self.scanned else f"{WEIGHTS}/{self.stack}/layers_0/{path}"
        found = self.reading.shapes.get(name) if self.scanned else None
        if not self.scanned:
            numbered = self.reading.find(own)
            name, found = min(numbered.items(), key=_number, default=(name, None))
        layers = ", all layers on axis 1" if self.scanned else ""
        if found is None or len(found) - self.scanned not in rank:
            said = "no such variable" if found is None else f"{found}"
            self.reading.refuse(name, f"{what}{layers}, to read sizes off", said)
            return None
        return (*found[:SCAN_AXIS], *found[SCAN_AXIS + 1 :]) if self.scanned else found

    def number(self) -> int | None:
        """How many there are."""
        if self.scanned:
            prefix = f"{WEIGHTS}/{self.stack}/{self.stack}/"
            sizes = {
                name: shape[SCAN_AXIS]
                for name, shape in self.reading.shapes.items()
                if name.startswith(prefix) and len(shape) > SCAN_AXIS
            }
            if len(set(sizes.values())) > 1:
                first = next(iter(sizes.values()))
                for name, size in sizes.items():
                    if size != first:
                        self.reading.refuse(name, f"{first} layers on axis 1, as the others", f"{size}")
                return None
            if not sizes:
                self.reading.refuse(f"{prefix}...", "layers on axis 1", "none")
            return next(iter(sizes.values()), None)
        found = [re.match(rf"{WEIGHTS}/{self.stack}/layers_(\d+)/", name) for name in self.reading.shapes]
        numbers = [int(match[1]) for match in found if match and len(match[1]) < _MAX_DIGITS]
        if not numbers:
            self.reading.refuse(f"{WEIGHTS}/{self.stack}/layers_0/...", "layers of a Transformer", "none")
            return None
        return max(numbers) + 1


def _number(item: tuple[str, Shape]) -> int:
    found = re.search(r"layers_(\d+)/", item[0])
    # More digits than any count of layers has are a name like others.
    return int(found[1]) if found and len(found[1]) < _MAX_DIGITS else 10**_MAX_DIGITS


def attention(layers: StackLayers, module: str, kind: str, heads: int | None) -> AttentionSpec | None:
    """What an attention is; None where a problem was noted.

    Args:
        layers: of the stack.
        module: T5X's name of the attention.
        kind: ours.
        heads: how many the stack's self-attention has.
    """
    reading = layers.reading
    what = "[d_model, heads*d_kv] or [d_model, heads, d_kv]"
    query = layers.shape(f"{module}/query/kernel", (2, 3), what)
    relative: dict[str, Any] = {}
    table = None
    if kind == "SelfAttention":
        where, table = _table(layers)
        if table is None:
            return None
        heads = table[0]
        if not heads:
            reading.refuse(f"{WEIGHTS}/{layers.stack}/.../rel_embedding", "[heads, buckets]", f"{table}")
        relative = {
            "relative_attention_type": where,
            "relative_attention_num_buckets": table[1],
            "relative_attention_max_distance": reading.answers.get("relative_attention_max_distance", 128),
        }
    if query is None or not heads:
        return None
    if len(query) == 2 and query[1] % heads:
        path = f"{WEIGHTS}/{layers.stack}/.../{module}/query/kernel"
        reading.refuse(path, f"[d_model, a multiple of {heads} heads]", f"{query}")
        return None
    num_heads, d_kv = query[1:] if len(query) == 3 else (heads, query[1] // heads)
    if num_heads != heads:
        path = f"{WEIGHTS}/{layers.stack}/.../{module}/query/kernel"
        reading.refuse(path, f"{heads} heads, as the table of relative positions has", f"{num_heads}")
        return None
    return AttentionSpec(kind=kind, num_heads=num_heads, d_kv=d_kv, combine_dims=len(query) == 2, **relative)


def _table(layers: StackLayers) -> tuple[str, Shape | None]:
    """Type and shape of a stack's table, or tables, of relative positions."""
    shared = f"{WEIGHTS}/{layers.stack}/relpos_bias/rel_embedding"
    found = layers.reading.shapes.get(shared)
    own = layers.reading.find(
        rf"{WEIGHTS}/{layers.stack}/(?:{layers.stack}|layers_\d+)/relpos_bias/rel_embedding"
    )
    if found is None and own:
        return "bias", layers.shape("relpos_bias/rel_embedding", (2,), "[heads, buckets]")
    if found is None or len(found) != 2:
        said = "no such variable" if found is None else f"{found}"
        layers.reading.refuse(shared, "[heads, buckets], to count heads by", said)
        return "bias_shared", None
    return "bias_shared", found


def feed_forward(layers: StackLayers) -> FeedForwardSpec | None:
    """What the feed-forward layers of a stack are; None where a problem was noted."""
    output = layers.shape("mlp/wo/kernel", (2,), "[d_ff, d_model]")
    if output is None:
        return None
    activations = _activations(layers)
    return FeedForwardSpec(d_ff=output[0], activations=activations) if activations else None


def _activations(layers: StackLayers) -> tuple[str, ...] | None:
    reading, stack = layers.reading, layers.stack
    scopes = stack if layers.scanned else r"layers_\d+"
    found = {
        name.rsplit("/", 2)[-2]
        for name in reading.find(rf"{WEIGHTS}/{stack}/{scopes}/mlp/(?:wi|wi_\d+)/kernel")
    }
    given = reading.answers.get("activations")
    if given is not None:
        return tuple(given) if isinstance(given, list | tuple) else (str(given),)
    if reading.answers.get("feed_forward_proj") in FEED_FORWARD_ACTIVATIONS:
        return FEED_FORWARD_ACTIVATIONS[str(reading.answers["feed_forward_proj"])]
    if len(found) not in (1, 2):
        expected = 'to know its activations: --config FILE.json that holds {"activations": [...]}'
        reading.refuse(f"{WEIGHTS}/{stack}/.../mlp/wi", expected, f"a product of {len(found)} projections")
        return None
    gated = len(found) == 2
    said = "gelu (tanh), as in T5 1.1; UL2 has silu" if gated else "relu, as in T5 1.0"
    reading.answer("activations", [], f"activation {said}", '{"feed_forward_proj": "gated-silu"}, say')
    return _GATED if gated else ("relu",)
