"""T5X checkpoints held in memory: recorded ones of the original, and such as its names and shapes make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porting.checkpoint import Checkpoint, LazyTensor
from porting.mapping import Plan, Rule, Shape
from porting.port import ResolvedConfig
from porting.ports.t5.port import PORT
from porting.source import STATE_DICT, Source, plan_conversion, resolve_source
from porting.write_back import WriteBack, plan_write_back
from tests.conftest import SHARED_DATA

Arrays = Mapping[str, np.ndarray]

# Sizes that are all unlike each other, and uneven depths.
D_MODEL, HEADS, D_KV, D_FF, VOCAB, BUCKETS = 20, 3, 8, 36, 64, 32
ENCODER, DECODER = 3, 2


@dataclass(frozen=True)
class Recorded:
    """A checkpoint of T5X's, and what T5X computed from it."""

    arrays: Arrays
    recording: Mapping[str, np.ndarray]

    @property
    def checkpoint(self) -> Checkpoint:
        return in_memory(self.arrays)


def recorded(name: str) -> Recorded:
    """One of the data folder; skips where it is absent."""
    path = SHARED_DATA / name / "recorded.npz"
    if not path.is_file():
        pytest.skip(f"the recorded run {name} is not beside this repository")
    with np.load(path) as file:
        recording = {key: file[key] for key in file}
    arrays = {
        "target/" + key.removeprefix("param:"): value
        for key, value in recording.items()
        if key.startswith("param:")
    }
    return Recorded(arrays, recording)


def in_memory(arrays: Arrays, path: Path = Path("nowhere") / "checkpoint_0") -> Checkpoint:
    tensors = {
        name: LazyTensor(name, array.shape, array.dtype, (), partial(_itself, array))
        for name, array in sorted(arrays.items())
    }
    return Checkpoint(path, "t5x", tensors, ())


def _itself(array: np.ndarray) -> np.ndarray:
    return array


def random_arrays(shapes: Mapping[str, Shape], seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def t5_shapes(*, gated: bool = True, tied: bool = False, vocab: int = VOCAB) -> dict[str, Shape]:
    """Variables of T5X's examples/t5, written down from its network.py and layers.py."""
    mlp = {"wi_0": (D_MODEL, D_FF), "wi_1": (D_MODEL, D_FF)} if gated else {"wi": (D_MODEL, D_FF)}
    layer: dict[str, Shape] = {f"mlp/{name}/kernel": shape for name, shape in mlp.items()}
    layer |= {"mlp/wo/kernel": (D_FF, D_MODEL), "pre_mlp_layer_norm/scale": (D_MODEL,)}
    encoder = {**layer, **_attention("attention"), "pre_attention_layer_norm/scale": (D_MODEL,)}
    decoder = {
        **layer,
        **_attention("self_attention"),
        **_attention("encoder_decoder_attention"),
        "pre_self_attention_layer_norm/scale": (D_MODEL,),
        "pre_cross_attention_layer_norm/scale": (D_MODEL,),
    }
    found: dict[str, Shape] = {
        "token_embedder/embedding": (vocab, D_MODEL),
        "encoder/relpos_bias/rel_embedding": (HEADS, BUCKETS),
        "decoder/relpos_bias/rel_embedding": (HEADS, BUCKETS),
        "encoder/encoder_norm/scale": (D_MODEL,),
        "decoder/decoder_norm/scale": (D_MODEL,),
    }
    if not tied:
        found["decoder/logits_dense/kernel"] = (D_MODEL, vocab)
    for i in range(ENCODER):
        found |= {f"encoder/layers_{i}/{name}": shape for name, shape in encoder.items()}
    for i in range(DECODER):
        found |= {f"decoder/layers_{i}/{name}": shape for name, shape in decoder.items()}
    return {f"target/{name}": shape for name, shape in found.items()}


def _attention(name: str) -> dict[str, Shape]:
    kernels = {f"{name}/{part}/kernel": (D_MODEL, HEADS * D_KV) for part in ("query", "key", "value")}
    return {**kernels, f"{name}/out/kernel": (HEADS * D_KV, D_MODEL)}


def scalable_shapes(*, scanned: bool) -> dict[str, Shape]:
    """Variables of T5X's examples/scalable_t5: heads are a dimension, each layer has a table of positions."""
    found = {}
    for path, joined in t5_shapes().items():
        name, shape = path.removeprefix("target/"), joined
        if "relpos_bias" in name:
            continue
        if name.endswith(("query/kernel", "key/kernel", "value/kernel")):
            shape = (D_MODEL, HEADS, D_KV)
        elif name.endswith("out/kernel"):
            shape = (HEADS, D_KV, D_MODEL)
        found[name] = shape
    for stack, number in (("encoder", ENCODER), ("decoder", DECODER)):
        tables: dict[str, Shape] = {
            f"{stack}/layers_{i}/relpos_bias/rel_embedding": (HEADS, BUCKETS) for i in range(number)
        }
        found |= tables
    if scanned:
        found = _scanned(found)
    return {f"target/{name}": shape for name, shape in found.items()}


def _scanned(unscanned: Mapping[str, Shape]) -> dict[str, Shape]:
    found: dict[str, Shape] = {}
    numbers = {"encoder": ENCODER, "decoder": DECODER}
    for name, shape in unscanned.items():
        stack, _, rest = name.partition("/")
        layer, _, path = rest.partition("/")
        if layer.startswith("layers_"):
            found[f"{stack}/{stack}/{path}"] = (shape[0], numbers[stack], *shape[1:])
        else:
            found[name] = shape
    return found


def converted(checkpoint: Checkpoint) -> tuple[Source, Plan, dict[str, np.ndarray]]:
    """What a checkpoint is, its plan, and the state dict that the plan makes."""
    source = resolve_source(checkpoint)
    plan = plan_conversion(source, checkpoint)
    return source, plan, made(plan, checkpoint)


def made(plan: Plan, checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return {entry.target: entry.make(lambda name: checkpoint.tensors[name].read()) for entry in plan.entries}


def written_back(
    state: Arrays, config: Any, to: str, remembered: Mapping[str, Shape] | None = None
) -> tuple[WriteBack, dict[str, np.ndarray]]:
    """A model directory with this state and this config.json, as a checkpoint of the original."""
    directory = in_memory(state, Path("nowhere") / "model.safetensors")
    reread = PORT.config_from_json(PORT.config_to_json(config))
    itself = (Rule("(?P<parameter>.+)", "{parameter}"),)
    source = Source(PORT, ResolvedConfig(reread, "config.json"), itself, STATE_DICT)
    back = plan_write_back(source, plan_conversion(source, directory), to, remembered)
    return back, made(back.plan, directory)
