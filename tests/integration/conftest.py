"""Checkpoints made by the original code, each once a test run."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from porting.references.process import ReferenceProcess

ROOT = Path(__file__).parents[2]
# Non-square attention (heads * d_kv != d_model), heads != buckets, d_ff unlike both, uneven depths.
SMALL = (
    "d_model = 24",
    "d_ff = 40",
    "d_kv = 12",
    "num_heads = 3",
    "encoder/make_layer_stack.num_layers = 3",
    "decoder/make_layer_stack.num_layers = 2",
    "decoder/Unitransformer.loss_denominator = 233.0",
)
# What makes Mesh name and build its norms as in 2019.
OLD_NAMES = ("LayerStack.dropout_rate = 0.1", "LayerStack.norm_epsilon = 1e-6")
V1_0 = ("defaults.gin", "models/t5.1.0.small.gin")
V1_1 = ("defaults.gin", "models/t5.1.1.small.gin")

MakeCheckpoint = Callable[..., Path]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These tests run the original: without it they are skipped, by name.

    It is Mesh TensorFlow, unless the test's module lists in `ORIGINAL` what it needs.
    """
    for item in items:
        if Path(__file__).parent in item.path.parents:
            needed = getattr(item.module, "ORIGINAL", ("tensorflow", "mesh_tensorflow", "t5"))  # type: ignore[attr-defined]
            missing = [name for name in needed if not importlib.util.find_spec(name)]
            if missing:
                reason = f"not installed: {', '.join(missing)} (see README)"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def making() -> Iterator[ReferenceProcess]:
    """The original, where checkpoints are made; it starts once for all of them."""
    with ReferenceProcess("tests.integration.mesh_checkpoint:make", ROOT) as process:
        yield process


@pytest.fixture(scope="session")
def make_checkpoint(making: ReferenceProcess, tmp_path_factory: pytest.TempPathFactory) -> MakeCheckpoint:
    """Build a checkpoint with Mesh TensorFlow; equal requests are built once."""
    made: dict[str, Path] = {}

    def make(
        files: tuple[str, ...],
        overrides: tuple[str, ...] = SMALL,
        *,
        vocab_size: int = 100,
        seed: int = 1,
        dtype: str = "float32",
        slots: bool = True,
        kind: str = "bitransformer",
        scope: str = "transformer",
        **edits: object,
    ) -> Path:
        request = {
            "files": files,
            "overrides": overrides,
            "vocab_size": vocab_size,
            "seed": seed,
            "dtype": dtype,
            "slots": slots,
            "kind": kind,
            "scope": scope,
            **edits,
        }
        key = json.dumps(request)
        if key not in made:
            folder = tmp_path_factory.mktemp("mesh")
            making.call({**request, "output": str(folder / "checkpoint")})
            made[key] = folder / "checkpoint"
        return made[key]

    return make
