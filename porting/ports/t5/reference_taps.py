"""Taps on the original: tensors recorded under the port's module paths while its graph is built.

The taps sit on what the original's functions return (a layer's call, the attention projections, `dense`) and
on the softmax and the bucket lookup inside a layer. The original's scope names stand beside the port's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from porting.references.mesh_tf import Mesh, Recorder, replaced


@dataclass
class _Position:
    """The layer that is being built: the port's path of it, and the original's scope."""

    recorder: Recorder
    tf: Any
    path: str = ""
    kind: str = ""
    recorded: set[str] = field(default_factory=set)

    def record(self, what: str, original: str, tensor: Any) -> None:
        """Record a tensor of the current layer, once; outside a layer nothing is recorded."""
        if self.path:
            self.absolute(f"{self.path}.{what}", original, tensor)

    def absolute(self, name: str, original: str, tensor: Any) -> None:
        if name not in self.recorded:
            self.recorded.add(name)
            scope = self.tf.get_variable_scope().name
            self.recorder.add(name, f"{scope}/{original}" if original else scope, tensor)


@contextmanager
def tapped(mesh: Mesh, model: Any, recorder: Recorder) -> Iterator[None]:
    """Record the tensors of a Bitransformer or Unitransformer while its graph is built inside the block."""
    position = _Position(recorder, mesh.tf)
    if isinstance(model, mesh.transformer.Unitransformer):
        stacks = {"decoder" if model.autoregressive else "encoder": model}
    else:
        stacks = {"encoder": model.encoder, "decoder": model.decoder}
    layers = [layer for stack in stacks.values() for layer in stack.layer_stack.layers]
    has_experts = any(type(layer).__name__ == "MoE1D" for layer in layers)
    for name, transformer in stacks.items():
        _tap_stack(position, name, transformer.layer_stack, has_experts=has_experts)
    params, talking = mesh.attention.AttentionParams, mesh.transformer_layers.TalkingHeadsSelfAttention
    with ExitStack() as patches:

        def patch(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
            patches.enter_context(replaced(owner, name, wrap))

        patch(params, "compute_q", functools.partial(_tap_queries, position))
        for name in ("k", "v", "kv"):
            patch(params, f"compute_{name}", _returns(position, name, name))
        patch(params, "compute_output", _returns(position, "o", "o"))
        patch(mesh.attention, "attention", _returns(position, "attended", "attention"))
        patch(talking, "talking_heads", functools.partial(_tap_talking_heads, position))
        patch(talking, "compute_y", functools.partial(_tap_talking_heads_output, position))
        patch(mesh.mtf, "softmax", functools.partial(_tap_softmax, position))
        patch(mesh.mtf, "gather", functools.partial(_tap_bucket_lookup, position))
        patch(mesh.mtf.layers, "dense", functools.partial(_tap_dense, position))
        patch(mesh.mtf.layers, "dense_product", _returns(position, "hidden", "dense_product"))
        yield


def _returns(position: _Position, name: str, original: str) -> Callable[[Any], Any]:
    """Record what a function returns."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            position.record(name, original, result)
            return result

        return wrapped

    return wrap


def _tap_queries(position: _Position, compute_q: Callable[..., Any]) -> Callable[..., Any]:
    """Queries, which Mesh returns scaled where scaling was not folded into the initializer."""

    def wrapped(params: Any, x: Any) -> Any:
        result = compute_q(params, x)
        position.record("q" if params.fold_scaling_into_initializer else "scaled_q", "q", result)
        return result

    return wrapped


def _tap_talking_heads(position: _Position, talking_heads: Callable[..., Any]) -> Callable[..., Any]:
    """What a projection across heads returns; where there is none, nothing is recorded."""

    def wrapped(layer: Any, context: Any, inp: Any, name: str, *args: Any, **kwargs: Any) -> Any:
        result = talking_heads(layer, context, inp, name, *args, **kwargs)
        if result is not inp:
            position.record(name, name, result)
        return result

    return wrapped


def _tap_talking_heads_output(position: _Position, compute_y: Callable[..., Any]) -> Callable[..., Any]:
    """The attended values go into the output projection."""

    def wrapped(layer: Any, context: Any, attended: Any) -> Any:
        position.record("attended", "u", attended)
        return compute_y(layer, context, attended)

    return wrapped


def _tap_softmax(position: _Position, softmax: Callable[..., Any]) -> Callable[..., Any]:
    """Attention scores go into the softmax over memory_length, weights come out."""

    def wrapped(x: Any, reduced_dim: Any, *args: Any, **kwargs: Any) -> Any:
        weights = softmax(x, reduced_dim, *args, **kwargs)
        if getattr(reduced_dim, "name", "") == "memory_length":
            position.record("scores", "logits", x)
            # Talking heads mix once more before they call it weights.
            position.record(
                "softmax" if position.kind.startswith("Talking") else "weights", "weights", weights
            )
        return weights

    return wrapped


def _tap_bucket_lookup(position: _Position, gather: Callable[..., Any]) -> Callable[..., Any]:
    """The relative position bias is what is gathered along the dimension "buckets"."""

    def wrapped(weights: Any, indices: Any, dim: Any, *args: Any, **kwargs: Any) -> Any:
        result = gather(weights, indices, dim, *args, **kwargs)
        if getattr(dim, "name", "") == "buckets":
            position.record("position_bias", "relative_attention_bias", result)
        return result

    return wrapped


# Names of dense layers in the original -> of the port's modules, where their output is one.
_DENSE = {
    "TalkingHeads": {"q": "q", "k": "k", "v": "v", "y": "o"},
    "MoE1D": {"wo": "expert_outputs"},
}


def _tap_dense(position: _Position, dense: Callable[..., Any]) -> Callable[..., Any]:
    """A dense layer, before its activation and behind it where it has one; what experts and router read."""

    def wrapped(x: Any, *args: Any, **kwargs: Any) -> Any:
        name, activation = kwargs.get("name") or "", kwargs.get("activation")
        if position.kind == "MoE1D" and name in ("wi", "wi_0"):
            position.record("expert_inputs", "expert_inputs", x)
        if position.kind == "DenseReluDense" and activation is not None:

            def recorded(projection: Any) -> Any:
                position.record(name, "", projection)
                active = activation(projection)
                number = name.partition("_")[2]
                label = "act" if number in ("", "0") else f"act_{number}"
                position.record(label, getattr(activation, "__name__", "activation"), active)
                return active

            return dense(x, *args, **{**kwargs, "activation": recorded})
        result = dense(x, *args, **kwargs)
        if position.kind == "DenseReluDense" and name.startswith(("wi", "wo")):
            position.record(name, name, result)
        elif name.endswith("_gating"):
            position.record("router.logits", name, result)
        else:
            kind = "TalkingHeads" if position.kind.startswith("TalkingHeads") else position.kind
            if name in _DENSE.get(kind, {}):
                position.record(_DENSE[kind][name], name, result)
        return result

    return wrapped


def _tap_stack(position: _Position, stack: str, layer_stack: Any, *, has_experts: bool) -> None:
    """Tap the layers of one stack: what goes into each, its norm, and the sum that leaves it."""
    kinds = [type(layer).__name__ for layer in layer_stack.layers]
    paths = _paths(stack, kinds)
    owner_of_norm = ""  # the layer that a norm belongs to, or the stack's end

    def tap_norm(sublayer: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(sublayer)
        def wrapped(x: Any, stack_object: Any, context: Any) -> Any:
            result = sublayer(x, stack_object, context)
            if "norm" in sublayer.__name__:
                position.absolute(f"{owner_of_norm}layer_norm", sublayer.__name__, result)
            return result

        return wrapped

    layer_fn, call = layer_stack._layer_fn, layer_stack.call

    def tapped_layer_fn(x: Any, layer: Any, context: Any) -> Any:
        nonlocal owner_of_norm
        path = paths[context.layer_index]
        owner_of_norm = f"{path}."
        result = layer_fn(x, layer, context)
        owner_of_norm = f"{stack}.final_"
        position.absolute(path, "residual", result)
        return result

    def tapped_call(context: Any, x: Any) -> Any:
        position.absolute(f"{stack}.embed_tokens", "embedding", context.input_embeddings)
        if x is not context.input_embeddings:
            position.absolute(f"{stack}.embed_positions", "positional_embedding", x)
        result = call(context, x)
        position.absolute(stack, "output", result)
        return result

    for layer, path, kind in zip(layer_stack.layers, paths, kinds, strict=True):
        module = "mlp" if has_experts and kind in ("DenseReluDense", "MoE1D") else kind
        layer.call = _tap_layer(position, path, module, kind, layer.call)
    layer_stack._sublayers_per_layer = [tap_norm(s) for s in layer_stack._sublayers_per_layer]
    layer_stack._sublayers_final = [tap_norm(s) for s in layer_stack._sublayers_final]
    layer_stack._layer_fn = tapped_layer_fn
    layer_stack.call = tapped_call


def _paths(stack: str, kinds: list[str]) -> list[str]:
    """The port's path of each layer: a block begins at the first one, and at each self-attention."""
    paths: list[str] = []
    block, index = -1, 0
    for number, kind in enumerate(kinds):
        begins = number == 0 or kind.endswith("SelfAttention")
        block, index = (block + 1, 0) if begins else (block, index + 1)
        paths.append(f"{stack}.block.{block}.layer.{index}")
    return paths


def _tap_layer(
    position: _Position, path: str, module: str, kind: str, call: Callable[..., Any]
) -> Callable[..., Any]:
    """Record what goes into a layer, and let what it computes inside be recorded under its path."""

    def wrapped(context: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        position.absolute(f"{path}.mask_padding", "input", x)
        position.path, position.kind = f"{path}.{module}", kind
        try:
            result = call(context, x, *args, **kwargs)
        finally:
            position.path = position.kind = ""
        if kind == "MoE1D":
            position.absolute(f"{path}.{module}", "output", result)
        return result

    return wrapped
