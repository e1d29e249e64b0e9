"""Keras models as originals: a small one, run by Keras, beside the same formulas in PyTorch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from porting.checkpoint import open_checkpoint
from porting.errors import ReferenceRunError
from porting.gradients.traces import gradients_of
from porting.references.process import ReferenceProcess, run_in_process
from tests.references.running import IDS, Runner

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="not installed: tensorflow"
)
SMALL = "tests.references.small_keras"
LEGACY = pytest.param(
    "run_legacy",
    marks=pytest.mark.skipif(importlib.util.find_spec("tf_keras") is None, reason="not installed: tf-keras"),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    run_in_process(f"{SMALL}:make_checkpoint", {"output": str(folder / "model.ckpt")})
    return folder / "model.ckpt"


@pytest.fixture(scope="module", params=["run", LEGACY])
def runner(
    request: pytest.FixtureRequest, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runner]:
    with ReferenceProcess(f"{SMALL}:{request.param}") as process:
        yield Runner(process, checkpoint, tmp_path_factory.mktemp("runs"))


def expected(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    def block(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ held["dense/kernel"] + held["dense/bias"])

    embedded = held["table/embeddings"][torch.from_numpy(IDS).long()]
    tanh = block(embedded)
    first = tanh + embedded
    second = block(first) + first
    half = second / 2
    logits = (second + half) @ held["out/kernel"] + held["out/bias"]
    values = {"embedded": embedded, "tanh": tanh, "first": first, "second": second, "half": half}
    return {**values, "logits": logits, "loss": logits.square().mean()}


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {
        name: torch.from_numpy(np.array(tensor.read())).requires_grad_()
        for name, tensor in open_checkpoint(checkpoint).tensors.items()
    }


@pytest.mark.parametrize("functional", [False, True])
def test_what_layers_return_and_gradients(runner: Runner, functional: bool) -> None:
    trace = runner.run(IDS, {"functional": functional}, backward=True)
    # `half` is tapped before `second`, and both are returned at once.
    assert trace.names() == ["embedded", "tanh", "first", "half", "second", "logits", "loss"]
    held = weights(runner.checkpoint)
    values = expected(held)
    for name, value in values.items():
        np.testing.assert_allclose(trace[name], value.detach().numpy(), rtol=1e-5, atol=1e-5)
    assert trace.metadata["deterministic"] is True
    assert trace.metadata["absent"] == ["spare"]
    assert set(trace.metadata["versions"]) >= {"tensorflow", "numpy", "python"}
    assert {"keras", "tf-keras"} & set(trace.metadata["versions"])

    gradients = gradients_of(trace)
    assert gradients.names()[:2] == ["loss", "logits"]
    assert sorted(gradients.names()[2:4]) == ["out/bias", "out/kernel"]
    assert gradients.names()[4:8] == ["second", "half", "first", "tanh"]
    assert sorted(gradients.names()[8:10]) == ["dense/bias", "dense/kernel"]
    assert gradients.names()[10:] == ["embedded", "table/embeddings"]
    wanted = torch.autograd.grad(values["loss"], list(held.values()))
    for name, gradient in zip(held, wanted, strict=True):
        np.testing.assert_allclose(gradients[name], gradient.numpy(), rtol=1e-4, atol=1e-5)
    through = [values[name] for name in ("embedded", "tanh", "first")]
    for name, gradient in zip(
        ("embedded", "tanh", "first"), torch.autograd.grad(expected_loss(held, through), through), strict=True
    ):
        np.testing.assert_allclose(gradients[name], gradient.numpy(), rtol=1e-4, atol=1e-5)
    # Half of `second` is made before it is returned, and is heard by itself.
    np.testing.assert_allclose(gradients["half"], gradients["second"], rtol=1e-6)
    assert set(gradients.metadata["variables"]) == set(held)


def expected_loss(held: dict[str, torch.Tensor], through: list[torch.Tensor]) -> torch.Tensor:
    """The loss again, from tensors whose graph was freed."""
    values = expected(held)
    through[:] = [values[name] for name in ("embedded", "tanh", "first")]
    return values["loss"]


def test_wrong_names_and_no_loss_are_said(runner: Runner) -> None:
    with pytest.raises(ReferenceRunError) as error:
        runner.run(IDS, {"wrong": "x"})
    said = str(error.value)
    assert "embedded: expected a module or output named tablex, found none; nearest: table" in said
    assert "tanh: expected a module or output named block/densex, found none; nearest: block/dense" in said
    with pytest.raises(ReferenceRunError, match="scalar output 'cost'"):
        runner.run(IDS, {"loss": "cost"}, backward=True)


def test_dropout_that_is_left_on_shows(runner: Runner) -> None:
    assert runner.run(IDS, {"training": True}).metadata["deterministic"] is False


def test_a_checkpoint_of_another_model_is_refused(runner: Runner, tmp_path: Path) -> None:
    edits = {"without": ["out/bias", "dense/bias"]}
    run_in_process(f"{SMALL}:make_checkpoint", {"output": str(tmp_path / "model.ckpt"), **edits})
    with pytest.raises(ReferenceRunError) as error:
        Runner(runner.process, tmp_path / "model.ckpt", tmp_path).run(IDS)
    assert "out/bias: expected shape [3], found none" in str(error.value)
    assert "dense/bias: expected" in str(error.value)
