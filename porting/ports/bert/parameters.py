"""Names and shapes of the model's parameters: `model.named_parameters()` without PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

from porting.mapping import Shape

from .config import Config

_Parameters = Iterator[tuple[str, Shape]]


def parameter_shapes(config: Config) -> dict[str, Shape]:
    """Parameter name -> shape, in the module's order (model.py; tests hold both against each other)."""
    found = {f"{config.prefix}{name}": shape for name, shape in _encoder(config)}
    return found | dict(_heads(config)) if config.heads else found


def _encoder(config: Config) -> _Parameters:
    width, inner = config.hidden_size, config.intermediate_size
    tables = {
        "word": config.vocab_size,
        "position": config.max_position_embeddings,
        "token_type": config.type_vocab_size,
    }
    for name, rows in tables.items():
        yield f"embeddings.{name}_embeddings.weight", (rows, width)
    yield from _with_bias("embeddings.LayerNorm", width)
    for i in range(config.num_hidden_layers):
        layer = f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            yield from _with_bias(f"{layer}.attention.self.{name}", width, width)
        yield from _with_bias(f"{layer}.attention.output.dense", width, width)
        yield from _with_bias(f"{layer}.attention.output.LayerNorm", width)
        yield from _with_bias(f"{layer}.intermediate.dense", inner, width)
        yield from _with_bias(f"{layer}.output.dense", width, inner)
        yield from _with_bias(f"{layer}.output.LayerNorm", width)
    yield from _with_bias("pooler.dense", width, width)


def _heads(config: Config) -> _Parameters:
    width = config.hidden_size
    yield "cls.predictions.bias", (config.vocab_size,)
    yield from _with_bias("cls.predictions.transform.dense", width, width)
    yield from _with_bias("cls.predictions.transform.LayerNorm", width)
    yield from _with_bias("cls.seq_relationship", 2, width)


def _with_bias(name: str, *shape: int) -> _Parameters:
    """A weight, and a bias for each of its rows: of torch.nn.Linear and LayerNorm."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
