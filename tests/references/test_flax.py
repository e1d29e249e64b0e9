"""Flax modules as originals: a small one, run by JAX, beside the same formulas in PyTorch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from porting.errors import ReferenceRunError
from porting.gradients.traces import gradients_of
from porting.references.process import ReferenceProcess, run_in_process
from tests.references.running import IDS, Runner

SMALL = "tests.references.small_flax"
REPOSITORY = Path(__file__).parents[2]
INSTALLED = importlib.util.find_spec("jax") is not None and importlib.util.find_spec("flax") is not None
needs_flax = pytest.mark.skipif(not INSTALLED, reason="not installed: jax, flax (see docs/references.md)")


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("flax")
    run_in_process(f"{SMALL}:make_checkpoint", {"output": str(folder / "model.msgpack")})
    with ReferenceProcess(f"{SMALL}:run") as process:
        yield Runner(process, folder / "model.msgpack", folder)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    from flax.serialization import msgpack_restore
    from flax.traverse_util import flatten_dict

    held = flatten_dict(msgpack_restore(checkpoint.read_bytes()), sep="/")
    return {name: torch.from_numpy(np.array(value)).requires_grad_() for name, value in held.items()}


def expected(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    def block(x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ held["block/dense/kernel"] + held["block/dense/bias"]) + x

    embedded = held["table/embedding"][torch.from_numpy(IDS).long()]
    first = block(embedded)
    second = block(first)
    half = second / 2
    x = second + half
    for kernel, bias in zip(held["steps/dense/kernel"], held["steps/dense/bias"], strict=True):
        x = x @ kernel + bias
    scores = x @ held["table/embedding"].T
    values = {"embedded": embedded, "first": first, "second": second, "half": half, "second step": x}
    return {**values, "scores": scores, "loss": scores.square().mean()}


@needs_flax
def test_what_modules_return_and_gradients(runner: Runner) -> None:
    trace = runner.run(IDS, backward=True)
    assert trace.names() == ["embedded", "first", "second", "half", "second step", "scores", "loss"]
    held = weights(runner.checkpoint)
    values = expected(held)
    for name, value in values.items():
        np.testing.assert_allclose(trace[name], value.detach().numpy(), rtol=1e-4, atol=1e-4)
    assert trace.metadata["deterministic"] is True
    assert trace.metadata["absent"] == ["spare"]
    assert set(trace.metadata["versions"]) >= {"jax", "flax", "numpy", "python"}

    gradients = gradients_of(trace)
    names = gradients.names()
    assert names[:3] == ["loss", "scores", "second step"]
    assert sorted(names[3:5]) == ["steps/dense/bias", "steps/dense/kernel"]
    assert names[5:8] == ["half", "second", "first"]
    assert sorted(names[8:10]) == ["block/dense/bias", "block/dense/kernel"]
    assert names[10:] == ["embedded", "table/embedding"]
    wanted = torch.autograd.grad(values["loss"], [*held.values(), values["first"], values["embedded"]])
    for name, gradient in zip([*held, "first", "embedded"], wanted, strict=True):
        np.testing.assert_allclose(gradients[name], gradient.numpy(), rtol=1e-3, atol=1e-4)
    # Half of `second` is made before it is returned, and is heard by itself.
    np.testing.assert_allclose(gradients["half"], gradients["second"], rtol=1e-6)
    assert set(gradients.metadata["variables"]) == set(held)


@needs_flax
def test_wrong_names_and_no_loss_are_said(runner: Runner) -> None:
    with pytest.raises(ReferenceRunError) as error:
        runner.run(IDS, {"wrong": "x"})
    said = str(error.value)
    assert "embedded: expected a module or output named tablex, found none; nearest: table" in said
    assert "second: expected a module or output named block@1x, found none; nearest: block" in said
    with pytest.raises(ReferenceRunError, match="scalar output 'cost'"):
        runner.run(IDS, {"loss": "cost"}, backward=True)


@needs_flax
def test_dropout_that_is_left_on_shows(runner: Runner) -> None:
    assert runner.run(IDS, {"dropout": True}).metadata["deterministic"] is False


@needs_flax
def test_whole_variables_and_variables_that_do_not_fit(runner: Runner, tmp_path: Path) -> None:
    whole, spoiled = tmp_path / "whole.msgpack", tmp_path / "spoiled.msgpack"
    dotted = tmp_path / "model.safetensors"
    save_file({name.replace("/", "."): w.detach() for name, w in weights(runner.checkpoint).items()}, dotted)
    run_in_process(f"{SMALL}:make_checkpoint", {"output": str(whole), "whole": True})
    run_in_process(f"{SMALL}:make_checkpoint", {"output": str(spoiled), "spoiled": True})
    scores = runner.run(IDS)["scores"]
    for file in (whole, dotted):
        same = Runner(runner.process, file, tmp_path / file.stem).run(IDS)
        np.testing.assert_array_equal(same["scores"], scores)
    with pytest.raises(ReferenceRunError) as error:
        Runner(runner.process, spoiled, tmp_path / "spoiled").run(IDS)
    assert "params/block/dense/kernel: expected shape [5, 5], found none" in str(error.value)
    assert "params/odd/kernel: expected a place for it in the original, found none" in str(error.value)


@pytest.mark.slow
@pytest.mark.skipif(INSTALLED, reason="run without an environment of their own")
def test_in_an_environment_that_has_flax(tmp_path: Path) -> None:
    """The tests above, with jax and flax installed beside what is installed here."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    [site] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "installed_here.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    subprocess.run([python, "-m", "pip", "install", "-q", "jax==0.6.2", "flax==0.10.7"], check=True)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ran = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "4 passed" in ran.stdout
