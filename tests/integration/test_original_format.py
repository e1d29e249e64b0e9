"""What is written back is what the original made: names, shapes and bits. Variants: test_family.py."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from porting import Inputs, convert_checkpoint
from porting.checkpoint import Checkpoint, open_checkpoint
from porting.inverse import invert_plan
from porting.mapping import Shape, make_plan
from porting.original import Original
from porting.ports.t5.from_gin import config_from_gin
from porting.ports.t5.infer import infer_config
from porting.ports.t5.located import located
from porting.ports.t5.original_format import MESH
from porting.ports.t5.port import PORT
from porting.ports.t5.rules import is_weight
from porting.ports.t5.variables import variables
from porting.references.process import ReferenceProcess
from porting.source import parameter_shapes, variable_shapes
from tests.integration.conftest import OLD_NAMES, ROOT, SMALL, V1_0, V1_1, MakeCheckpoint
from tests.integration.test_family import Variant, restored_bits

PLAIN = {
    "t5.1.0": Variant(V1_0, SMALL, "t5"),
    "t5.1.1": Variant(V1_1, SMALL, "t5"),
    "bfloat16": Variant(V1_1, SMALL, "t5", build={"dtype": "bfloat16"}),
}


@dataclass(frozen=True)
class Made:
    """A checkpoint that the original made, and its config as porting reads it."""

    name: str
    variant: Variant
    checkpoint: Checkpoint
    config: Any
    weights: Mapping[str, Shape]


@pytest.fixture(scope="module")
def listing() -> Iterator[ReferenceProcess]:
    with ReferenceProcess("tests.integration.mesh_variables:listed", ROOT) as process:
        yield process


@pytest.fixture(scope="module")
def running() -> Iterator[ReferenceProcess]:
    with ReferenceProcess(PORT.reference) as process:
        yield process


@pytest.fixture(
    scope="module",
    params=PLAIN,
    ids=lambda name: name,
)
def made(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint) -> Made:
    variant = PLAIN[request.param]
    folder = make_checkpoint(variant.files, variant.overrides, **variant.build)
    checkpoint = open_checkpoint(folder)
    shapes = variable_shapes(checkpoint)
    config, _ = config_from_gin(folder / "operative_config.gin", shapes)
    weights = {name: shape for name, shape in shapes.items() if is_weight(name)}
    return Made(request.param, variant, checkpoint, config, weights)


def from_json(config: Any) -> Any:
    """The config as a model directory keeps it."""
    return PORT.config_from_json(json.loads(json.dumps(PORT.config_to_json(config))))


def test_the_config_tells_every_variable(made: Made) -> None:
    assert variables(made.config) == made.weights


def test_a_model_directorys_config_tells_them_too(made: Made) -> None:
    config = from_json(made.config)
    assert variables(config) == made.weights
    assert variables(located(config, made.weights)) == made.weights


def test_an_inferred_config_tells_them_too(made: Made) -> None:
    assert variables(infer_config(made.weights, made.variant.answers or {}).config) == made.weights


def test_every_variable_comes_back_bit_for_bit(made: Made) -> None:
    parameters = parameter_shapes(PORT, made.config)
    plan = make_plan(PORT.rules(made.config, list(made.weights)), made.weights, parameters)
    back = invert_plan(plan)
    assert {entry.target: entry.target_shape for entry in back.entries} == made.weights
    originals = {name: made.checkpoint.tensors[name].read() for name in made.weights}
    model = {entry.target: entry.make(originals.__getitem__) for entry in plan.entries}
    assert {name: values.shape for name, values in model.items()} == parameters
    wanted = np.dtype(ml_dtypes.bfloat16 if made.name == "bfloat16" else np.float32)
    for entry in back.entries:
        values, original = entry.make(model.__getitem__), originals[entry.target]
        assert (values.dtype, values.shape) == (wanted, original.shape)
        assert values.tobytes() == original.tobytes(), entry.target
    # What is compared above is not all the same.
    assert any(np.ptp(values.astype(np.float32)) > 0 for values in originals.values())


def test_the_gin_text_says_the_config_again(made: Made, tmp_path: Path) -> None:
    for config in (made.config, located(from_json(made.config), made.weights)):
        path = tmp_path / "operative_config.gin"
        path.write_text(MESH.files(config, list(made.weights))["operative_config.gin"])
        assert config_from_gin(path, made.weights)[0] == config.architecture


def test_mesh_builds_them_from_the_gin_text(made: Made, listing: ReferenceProcess, tmp_path: Path) -> None:
    """From a model directory's config and the variables' names Mesh itself makes exactly these variables."""
    config = located(from_json(made.config), made.weights)
    text = MESH.files(config, list(made.weights))["operative_config.gin"]
    listing.call(
        {"gin": text, "config": PORT.config_to_json(config), "output": str(tmp_path / "listed.json")}
    )
    found = json.loads((tmp_path / "listed.json").read_text())
    assert {name: tuple(shape) for name, shape in found.items()} == made.weights


@pytest.fixture(scope="module")
def there_and_back(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, converted, and the model directory converted back."""
    folder = tmp_path_factory.mktemp("back")
    convert_checkpoint(made.checkpoint.path, folder / "model")
    convert_checkpoint(folder / "model", folder / "mesh", to="mesh")
    return folder


def test_tensorflow_restores_what_went_there_and_back(made: Made, there_and_back: Path) -> None:
    first, again = restored_bits(made.checkpoint.path), restored_bits(there_and_back / "mesh")
    assert again == {name: first[name] for name in (*made.weights, "global_step")}


def test_mesh_runs_what_went_there_and_back(
    made: Made, there_and_back: Path, running: ReferenceProcess, tmp_path: Path
) -> None:
    """Also where nobody remembers how the variables lay and were called."""
    forgotten = tmp_path / "model"
    shutil.copytree(there_and_back / "model", forgotten)
    (forgotten / "porting.json").unlink()
    convert_checkpoint(forgotten, tmp_path / "mesh", to="mesh")
    ids = np.random.default_rng(0).integers(2, 100, size=(2, 2, 40))
    inputs = Inputs.from_arrays({"inputs": ids[0], "targets": ids[1]})
    traces = []
    for folder in (made.checkpoint.path.parent, there_and_back / "mesh", tmp_path / "mesh"):
        with Original(folder, process=running) as original:
            traces.append(original.run(inputs))
    first, again, renamed = traces
    for tensor in first.tensors:
        np.testing.assert_array_equal(again[tensor.name], first[tensor.name])
    np.testing.assert_allclose(renamed["logits"], first["logits"], atol=1e-5 * np.abs(first["logits"]).max())


def test_old_names_of_norms_are_kept(
    make_checkpoint: MakeCheckpoint, listing: ReferenceProcess, tmp_path: Path
) -> None:
    folder = make_checkpoint(V1_0, (*SMALL, *OLD_NAMES))
    shapes = variable_shapes(open_checkpoint(folder))
    weights = {name: shape for name, shape in shapes.items() if is_weight(name)}
    assert "encoder/final_layer_norm/scale" in weights
    config = located(from_json(config_from_gin(folder / "operative_config.gin", shapes)[0]), weights)
    text = MESH.files(config, list(weights))["operative_config.gin"]
    listing.call(
        {"gin": text, "config": PORT.config_to_json(config), "output": str(tmp_path / "listed.json")}
    )
    assert json.loads((tmp_path / "listed.json").read_text()) == {n: list(s) for n, s in weights.items()}
