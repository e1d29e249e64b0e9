"""A port of the small PyTorch original, and its reference: what a port's files come down to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from porting.inputs import Inputs, random_inputs
from porting.mapping import Rule
from porting.port import Port, ResolvedConfig
from porting.references.original_tap import OriginalTap
from porting.references.pytorch import BuiltModule, load_weights, reference
from porting.tap import Tap
from tests.references.small_torch import VOCABULARY, Model, call


class PortedModel(nn.Module):
    """The original's module, one level deeper."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Model()

    def forward(self, ids: Tensor) -> Mapping[str, Tensor]:
        return call(self.net, {"inputs": ids})


SIZES = {"batch": 3}
PLACES = {
    "net.table": ("table", "batch length width"),
    "net.block": ("block", "batch length width"),
    "net.block@1": ("block@1", "batch length width"),
    "net.block@1:1": ("block@1:1", "batch length width"),
    "net.out": ("out", "(batch length) classes"),
    "loss": ("loss", ""),
}


def build(request: Mapping[str, Any]) -> BuiltModule:
    model = Model()
    load_weights(model, request["checkpoint"])
    taps = [OriginalTap(name, original, dims) for name, (original, dims) in PLACES.items()]
    return BuiltModule(model, call, taps, sizes=lambda arrays: {"batch": len(arrays["inputs"])})


run_original = reference(build, implementation="the small original")


def run(model: nn.Module, inputs: Inputs) -> Mapping[str, Tensor]:
    return {"loss": model(torch.from_numpy(inputs.arrays()["inputs"]).long())["loss"]}


PORT = Port(
    name="small",
    recognises=lambda shapes: "block.dense.weight" in shapes,
    read_config=lambda path, _shapes: ResolvedConfig({}, origin=str(path)),
    infer_config=lambda _shapes: ResolvedConfig({}, origin="inferred"),
    config_from_json=lambda content: dict(content),
    config_to_json=lambda _config: {"model_type": "small"},
    rules=lambda _config, _names: [Rule(r"(?P<path>.+)", "net.{path}")],
    build=lambda _config: PortedModel(),
    run=run,
    taps=lambda _config: [Tap(name, dims, SIZES) for name, (_, dims) in PLACES.items()],
    random_inputs=lambda _config, batch, length, seed: random_inputs(VOCABULARY, batch, length, seed),
    check_ids=lambda _config, inputs: inputs.check_range({"inputs": VOCABULARY}),
    reference="tests.references.small_port:run_original",
    reference_config=lambda _config, _names: "",
    model_types=("small",),
)
