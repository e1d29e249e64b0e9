"""FlaxT5 of transformers 4 in the place of T5X's T5, which no package index has: run on T5X's checkpoints.

Runs in the reference process, usually in an environment of its own: transformers 4.57 was the last with Flax,
and the port's environment may have a later one. `--reference-python` names it; docs/references.md says how it
is made. FlaxT5 computes what T5X does at real positions: the tests hold it against a recorded run of T5X's.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from porting.checkpoint import open_checkpoint
from porting.errors import ReferenceRunError
from porting.ports.t5.config import T5Config, UMT5Config, config_from_json
from porting.ports.t5.spelling import spelling
from porting.ports.t5.t5x.flax_taps import flax_parameters, flax_taps
from porting.ports.t5.t5x.names import WEIGHTS, is_weight
from porting.ports.t5.t5x.recorded_taps import WHY_MASKED
from porting.ports.t5.taps import taps
from porting.references.fit import require_fit
from porting.references.flax import BuiltModule, reference
from porting.references.serve import not_installed

INSTEAD = (
    "Give a recorded run (--reference-trace recorded.npz), or let FlaxT5 run in an environment of its own:"
    " pip install -r requirements-flax-t5.txt there, and --reference-python ENVIRONMENT/bin/python."
)


def build(request: Mapping[str, Any]) -> BuiltModule:
    """FlaxT5 with the weights of the checkpoint that the request names."""
    checkpoint = open_checkpoint(request["checkpoint"])
    arrays = {
        name.removeprefix(f"{WEIGHTS}/"): tensor.read().astype(np.float32)
        for name, tensor in checkpoint.tensors.items()
        if is_weight(name)
    }
    return built(spelled(request["config"]), arrays)


def spelled(content: Mapping[str, Any]) -> T5Config:
    """The config of a model that FlaxT5 has. Raises ReferenceRunError for others."""
    config = spelling(config_from_json(content).architecture)
    if not isinstance(config, T5Config) or isinstance(config, UMT5Config):
        raise ReferenceRunError(
            "FlaxT5 is a plain T5, with one table of relative positions for each stack and full attention;"
            " this model is another.",
            remedy="Give a recorded run of the original: --reference-trace recorded.npz.",
        )
    return config


def built(config: T5Config, arrays: Mapping[str, np.ndarray]) -> BuiltModule:
    """FlaxT5 with T5X's weights, its taps, and how it is called.

    Args:
        config: of the model.
        arrays: float32, by T5X's names.

    Raises:
        ReferenceRunError: FlaxT5 is not installed here, or the weights do not fit it.
    """
    try:
        from transformers import T5Config as FlaxConfig

        modeling = importlib.import_module("transformers.models.t5.modeling_flax_t5")
    except ImportError as error:
        raise not_installed(error, "flax-t5", INSTEAD) from error
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict, unflatten_dict

    # "gated-gelu" is the tanh approximation to transformers, as it is to T5X.
    module = modeling.FlaxT5ForConditionalGenerationModule(FlaxConfig(**config.to_json()))
    one = jnp.ones((1, 1), jnp.int32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), one, one, one, one)["params"]
    wanted = {path: tuple(leaf.shape) for path, leaf in flatten_dict(shapes, sep="/").items()}
    found = {path: array.shape for path, array in flax_parameters(config, arrays).items()}
    if config.tie_word_embeddings:  # there, and never used: the output is the embedding's
        wanted.pop("lm_head/kernel", None)
    require_fit(wanted, found, all_used=True)

    def run(variables: Any, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        # Here and not before, so that gradients are those of T5X's variables.
        held = flax_parameters(config, flatten_dict(variables["params"], sep="/"))
        ids, targets = inputs["inputs"], inputs["targets"]
        output = module.apply(
            {"params": unflatten_dict({tuple(path.split("/")): array for path, array in held.items()})},
            ids,
            (ids != 0).astype(jnp.int32),
            jnp.asarray(modeling.shift_tokens_right(np.asarray(targets), 0, 0)),
            (targets != 0).astype(jnp.int32),
            output_attentions=True,
            return_dict=True,
        )
        return {"logits": output.logits, "loss": loss(output.logits, targets)}

    def loss(logits: Any, targets: Any) -> Any:
        """What gradients are taken of; FlaxT5 has none of its own, so that it is no tap."""
        each = -jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)[..., 0]
        return (each * (targets != 0)).sum() / (config.loss_denominator or targets.size)

    tapped = flax_taps(config)
    heard = {tap.name for tap in tapped}
    return BuiltModule(
        {"params": unflatten_dict({tuple(path.split("/")): array for path, array in arrays.items()})},
        run,
        tapped,
        variable_name=lambda path: f"{WEIGHTS}/{path}",
        masks=lambda arrays: {name: arrays[name] != 0 for name in ("inputs", "targets")},
        facts={
            "unheard": [tap.name for tap in taps(config) if tap.name not in heard],
            "left_out": WHY_MASKED,
        },
    )


run = reference(build, implementation="FlaxT5 of transformers", packages=["transformers"], remedy=INSTEAD)
