"""A small model in Flax, run in the reference process; and what makes its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from porting.references.flax import BuiltModule, load_variables, reference
from porting.references.original_tap import OriginalTap

VOCABULARY, WIDTH, CLASSES = 11, 5, 3


def make_module(dropout: bool = False) -> Any:
    """A module that is called twice and returns two arrays; a scanned layer; a method tied to the table."""
    import flax.linen as nn
    import jax.numpy as jnp

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            y = jnp.tanh(nn.Dense(WIDTH, name="dense")(x)) + x
            return y, y / 2

    class Step(nn.Module):
        @nn.compact
        def __call__(self, x: Any, _: Any) -> Any:
            return nn.Dense(WIDTH, name="dense")(x), None

    class Model(nn.Module):
        def setup(self) -> None:
            self.table = nn.Embed(VOCABULARY, WIDTH)
            self.block = Block()
            self.dropout = nn.Dropout(0.5)
            scanned = nn.scan(Step, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
            self.steps = scanned()

        def __call__(self, ids: Any) -> Any:
            x, _ = self.block(self.table(ids))
            x, half = self.block(x)
            x, _ = self.steps(x + half, None)
            return self.table.attend(self.dropout(x, deterministic=not dropout))

    return Model()


def shapes(module: Any) -> Any:
    import jax
    import jax.numpy as jnp

    return jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))


def build(request: Mapping[str, Any]) -> BuiltModule:
    import jax
    import jax.numpy as jnp

    config = request["config"]
    module = make_module(config.get("dropout", False))
    variables = load_variables(request["checkpoint"], like=shapes(make_module()))
    keys = iter(jax.random.split(jax.random.key(1), 100))

    def run_module(variables: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        logits = module.apply(variables, inputs["inputs"], rngs={"dropout": next(keys)})
        return {"logits": logits, "loss": jnp.mean(jnp.square(logits))}

    wrong = config.get("wrong", "")
    taps = [
        OriginalTap("loss", "loss", ""),
        OriginalTap("scores", "table.attend", "batch length vocab"),
        OriginalTap("second step", "steps/dense@1", "batch length width"),
        OriginalTap("second", "block@1" + wrong, "batch length width"),
        OriginalTap("half", "block@1:1", "batch length width"),
        OriginalTap("first", "block", "batch length width"),
        OriginalTap("embedded", "table" + wrong, "batch length width"),
        OriginalTap("spare", "block@2", "batch", optional=True),
    ]
    return BuiltModule(variables, run_module, taps, loss=config.get("loss", "loss"))


run = reference(build, implementation="a small Flax model")


def make_checkpoint(request: Mapping[str, Any]) -> None:
    import jax
    import jax.numpy as jnp
    from flax.serialization import msgpack_serialize, to_state_dict

    variables = make_module().init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))
    keys = iter(jax.random.split(jax.random.key(2), 100))
    params = jax.tree_util.tree_map(
        lambda leaf: jax.random.normal(next(keys), leaf.shape), variables["params"]
    )
    state = to_state_dict({"params": params} if request.get("whole") else params)
    if request.get("spoiled"):
        state["odd"] = state["block"].pop("dense")
    Path(request["output"]).write_bytes(msgpack_serialize(jax.tree_util.tree_map(jax.device_get, state)))
