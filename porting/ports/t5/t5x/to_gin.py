"""The text from which T5X builds a model, written beside a checkpoint that was made for it."""

from __future__ import annotations

from collections.abc import Sequence

from porting.ports.t5.attention_specs import AttentionSpec
from porting.ports.t5.config import Config
from porting.ports.t5.layer_specs import FeedForwardSpec
from porting.ports.t5.t5x.names import is_scanned

# Mesh's name of an activation -> Flax's. gelu is the tanh approximation in both.
FLAX_ACTIVATIONS = {
    **{name: name for name in ("linear", "relu", "gelu", "sigmoid", "tanh", "elu", "selu", "softplus")},
    "swish": "silu",
}


def gin_from_config(config: Config, names: Sequence[str]) -> str:
    """A config from which T5X builds this model.

    Args:
        config: the model, whose layers are all of the same sizes.
        names: the checkpoint's variables, which tell whether layers are scanned.
    """
    architecture = config.architecture
    stacks = architecture.stacks
    specs = [spec for stack in stacks.values() for spec in stack.layers]
    attention = next(spec for spec in specs if isinstance(spec, AttentionSpec))
    mlp = next(spec for spec in specs if isinstance(spec, FeedForwardSpec))
    blocks = {name: sum(place.index == 0 for place in stack.places) for name, stack in stacks.items()}
    values = {
        "vocab_size": architecture.vocab_size,
        "dtype": "float32",
        "emb_dim": architecture.d_model,
        "num_heads": attention.num_heads,
        "num_encoder_layers": blocks["encoder"],
        "num_decoder_layers": blocks["decoder"],
        "head_dim": attention.d_kv,
        "mlp_dim": mlp.d_ff,
        "mlp_activations": tuple(FLAX_ACTIVATIONS[name] for name in mlp.activations),
        "dropout_rate": architecture.dropout_rate,
        "logits_via_embedding": architecture.tie_word_embeddings,
    }
    own = any(spec.relative_attention_type == "bias" for spec in specs if isinstance(spec, AttentionSpec))
    if own:
        values["scan_layers"] = is_scanned(names, "encoder")
    network = "scalable_t5" if own else "t5"
    lines = [
        "from __gin__ import dynamic_registration",
        "",
        f"from t5x.examples.{network} import network",
        "",
        "network.Transformer.config = @network.T5Config()",
        "network.T5Config:",
        *(f"  {name} = {value!r}" for name, value in values.items()),
    ]
    return "\n".join(lines) + "\n"
