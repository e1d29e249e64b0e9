"""Variants of T5: checkpoints that Mesh TensorFlow made, their ports, and the original's tensors, kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from porting import Inputs, Trace, convert_checkpoint, load_model, run_reference
from porting.model_dir import read_config
from porting.port import Port
from porting.references.process import run_in_process
from porting.trace import TracedTensor, read_trace

ROOT = Path(__file__).parents[2]
VOCAB_SIZE = 100

# heads * d_kv != d_model, heads != buckets, d_ff unlike both, uneven depths.
_SIZES = ("d_model = 24", "d_ff = 40", "d_kv = 12", "num_heads = 3")
_DEPTHS = ("encoder/make_layer_stack.num_layers = 3", "decoder/make_layer_stack.num_layers = 2")
_T5 = (*_SIZES, *_DEPTHS, "decoder/Unitransformer.loss_denominator = 233.0")
_V1_0 = ("defaults.gin", "models/t5.1.0.small.gin")
_V1_1 = ("defaults.gin", "models/t5.1.1.small.gin")
_MIXTURE = (
    "encoder/make_layer_stack.layers = [@transformer_layers.SelfAttention,"
    " @transformer_layers.DenseReluDense, @transformer_layers.SelfAttention, @moe.MoE1D]",
    "decoder/make_layer_stack.layers = [@transformer_layers.SelfAttention,"
    " @transformer_layers.EncDecAttention, @transformer_layers.DenseReluDense,"
    " @transformer_layers.SelfAttention, @transformer_layers.EncDecAttention, @moe.MoE1D]",
    "encoder/make_layer_stack.num_layers = 2",
    "decoder/make_layer_stack.num_layers = 1",
    "MoE1D.moe_gating = 'switch'",
    "MoE1D.num_experts = 5",
    "MoE1D.hidden_size = 40",
    "MoE1D.capacity_factor_eval = 0.8",
)
_TALKING = (
    "num_layers = 2",
    "TalkingHeadsSelfAttention.key_heads_dims = [('key_heads', 2)]",
    "TalkingHeadsSelfAttention.softmax_heads_dims = [('heads', 3)]",
    "TalkingHeadsSelfAttention.value_heads_dims = [('value_heads', 4)]",
    "TalkingHeadsSelfAttention.key_size = 5",
    "TalkingHeadsSelfAttention.value_size = 7",
)


@dataclass(frozen=True)
class Variant:
    """A model of the family.

    Attributes:
        files, overrides: the published gin files, and what shrinks and changes them.
        kind: "bitransformer" or "lm".
        blind: whether the inputs hold a target that sees nothing (see tests/integration/test_family.py).
    """

    files: tuple[str, ...]
    overrides: tuple[str, ...]
    kind: str = "bitransformer"
    blind: bool = True


VARIANTS: dict[str, Variant] = {
    "t5.1.0": Variant(_V1_0, _T5),
    "t5.1.1": Variant(_V1_1, _T5),
    "bias of each layer": Variant(_V1_0, (*_T5, "SelfAttention.relative_attention_type = 'bias'")),
    "grouped heads": Variant(_V1_1, (*_T5, "num_heads = 6", "SelfAttention.num_memory_heads = 2")),
    "shared kv": Variant(_V1_0, (*_T5, "SelfAttention.shared_kv = True")),
    "talking heads": Variant(("defaults.gin", "models/t5.1.th.base.gin"), (*_SIZES, *_TALKING)),
    "learned positions": Variant(("defaults.gin", "models/bi_bert_base.gin"), (*_SIZES, "num_layers = 2")),
    "language model": Variant(("defaults.gin", "models/lm_v1.gin"), (*_SIZES, "num_layers = 3"), kind="lm"),
    "switch": Variant(_V1_0, (*_T5, *_MIXTURE), blind=False),
}


def _ids(kind: str, batch: int, lengths: tuple[int, int], seed: int, zero: Callable[..., None]) -> Inputs:
    generator = np.random.default_rng(seed)
    inputs, targets = (generator.integers(2, VOCAB_SIZE, size=(batch, length)) for length in lengths)
    if kind == "lm":
        targets = inputs
    zero(inputs, targets)
    if kind == "lm":
        return Inputs.from_arrays(
            {"inputs": np.pad(targets, ((0, 0), (1, 0)))[:, :-1], "targets": targets}, origin="corpus"
        )
    return Inputs.from_arrays({"inputs": inputs, "targets": targets}, origin="corpus")


def inputs_named(name: str, variant: Variant) -> Inputs:
    """Token ids: "standard" for faults; the others have one awkward thing each.

    Standard: beyond the last bucket's 128, padding at the end and inside, and (but for deep stacks that such
    rows drive to large numbers) a padded target whose inputs have no padding, so that it sees nothing.
    """
    kind = variant.kind

    def standard(inputs: np.ndarray, targets: np.ndarray) -> None:
        for array in (targets,) if kind == "lm" else (inputs, targets):
            array[1, 90:] = 0
            array[1, 40:52] = 0
            array[:, 7] = 1
        targets[0, 126:] = 0
        if not variant.blind and kind != "lm":
            inputs[0, 133:] = 0

    def nearly_nothing(inputs: np.ndarray, targets: np.ndarray) -> None:
        for array in (targets,) if kind == "lm" else (inputs, targets):
            array[:, 1:] = 0

    def nothing(_inputs: np.ndarray, _targets: np.ndarray) -> None:
        pass

    def tail(inputs: np.ndarray, targets: np.ndarray) -> None:
        for array in (targets,) if kind == "lm" else (inputs, targets):
            array[-1, array.shape[1] // 2 :] = 0
            if not variant.blind:
                array[:, -1] = 0

    made = {
        "standard": lambda: _ids(kind, 2, (136, 132), 5, standard),
        "length 1": lambda: _ids(kind, 2, (1, 1), 6, nothing),
        "length 7": lambda: _ids(kind, 3, (7, 7), 7, tail),
        "length 129": lambda: _ids(kind, 2, (129, 129), 8, tail),
        "length 160": lambda: _ids(kind, 2, (160, 150), 9, tail),
        "all but one padding": lambda: _ids(kind, 2, (12, 12), 10, nearly_nothing),
        "batch of one": lambda: _ids(kind, 1, (33, 21), 11, nothing),
        "packed": lambda: _packed(kind),
    }
    return made[name]()


def _packed(kind: str) -> Inputs:
    """Three examples in a row, and padding after them."""
    generator = np.random.default_rng(12)
    arrays = {}
    for name, ids_name, lengths in (
        ("inputs", "sequence_ids", (20, 9, 12)),
        ("targets", "decoder_sequence_ids", (11, 14, 8)),
    ):
        ids = np.repeat([1, 2, 3, 0], [*lengths, 4])
        arrays[ids_name] = np.stack([ids, ids])
        arrays[name] = generator.integers(2, VOCAB_SIZE, size=(2, len(ids))) * (arrays[ids_name] != 0)
    if kind == "lm":
        ids, targets = arrays["sequence_ids"], arrays["inputs"]
        previous = np.pad(ids, ((0, 0), (1, 0)))[:, :-1]
        shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1] * (previous == ids)
        arrays = {"inputs": shifted, "targets": targets, "sequence_ids": ids}
    return Inputs.from_arrays(arrays, origin="corpus")


INPUTS = (
    "standard",
    "length 1",
    "length 7",
    "length 129",
    "length 160",
    "all but one padding",
    "batch of one",
    "packed",
)


class _InMemory(Trace):
    """A trace that is compared many times."""

    def read(self, tensor: TracedTensor) -> np.ndarray:
        kept: dict[str, np.ndarray] = self.__dict__.setdefault("kept", {})
        if tensor.name not in kept:
            kept[tensor.name] = np.array(super().read(tensor))
        return kept[tensor.name]


@dataclass
class Ported:
    """A variant's checkpoint, the model directory made of it, and the original's tensors, in `folder`."""

    name: str
    folder: Path
    traces: dict[str, Trace] = field(default_factory=dict)

    @property
    def variant(self) -> Variant:
        return VARIANTS[self.name]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def model_dir(self) -> Path:
        return self.folder / "model"

    @cached_property
    def port_and_config(self) -> tuple[Port, dict[str, Any]]:
        port, _ = read_config(self.model_dir)
        return port, json.loads((self.model_dir / "config.json").read_text())

    def model(self) -> torch.nn.Module:
        """A right port, new."""
        return load_model(self.model_dir)

    def model_with(self, content: Mapping[str, Any]) -> torch.nn.Module:
        """The same weights under another config.json."""
        port, _ = self.port_and_config
        model = port.build(port.config_from_json(content))
        model.load_state_dict(self.model().state_dict())
        return model.eval()

    def trace(self, inputs: str = "standard") -> Trace:
        """What the original computes, run at the first call and read after."""
        if inputs not in self.traces:
            folder = self.folder / f"trace-{inputs.replace(' ', '-')}"
            if not (folder / "trace.json").exists():
                self.made_trace(inputs, folder)
            self.traces[inputs] = _InMemory(**vars(read_trace(folder)))
        return self.traces[inputs]

    def made_trace(self, inputs: str, folder: Path) -> None:
        """Run the original."""
        run_reference(self.checkpoint, inputs_named(inputs, self.variant), save_to=folder)


def ported(name: str, cache: Path) -> Ported:
    """Make a variant in the cache, or take it from there; the cache tells when a variant was changed."""
    variant = VARIANTS[name]
    folder = cache / name.replace(" ", "-")
    spec = {
        "files": variant.files,
        "overrides": variant.overrides,
        "kind": variant.kind,
        "scope": "transformer",
        "vocab_size": VOCAB_SIZE,
        "seed": 1 + list(VARIANTS).index(name),
        "dtype": "float32",
        "slots": False,
        "output": str((folder / "checkpoint").resolve()),
    }
    text = json.dumps(spec)
    made = folder / "made.json"
    if not made.exists() or made.read_text() != text:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run_in_process("tests.integration.mesh_checkpoint:make", spec, ROOT)
        convert_checkpoint(folder / "checkpoint", folder / "model")
        made.write_text(text)
    return Ported(name, folder)
