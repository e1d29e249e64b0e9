"""PyTorch modules as originals, beside the module itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from porting.errors import ReferenceRunError
from porting.gradients.traces import gradients_of
from porting.references.process import ReferenceProcess
from porting.references.pytorch import load_weights
from tests.references.running import IDS, Runner
from tests.references.small_torch import Model, call


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(3)
    return Model().eval()


@pytest.fixture(scope="module")
def runner(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("torch")
    save_file(model.state_dict(), folder / "model.safetensors")
    with ReferenceProcess("tests.references.small_torch:run") as process:
        yield Runner(process, folder / "model.safetensors", folder)


def expected(model: Model) -> Mapping[str, torch.Tensor]:
    embedded = model.table(torch.from_numpy(IDS).long())
    first = model.block(embedded)[0]
    second, half = model.block(first)
    logits = model.out(second + half)
    return {
        "embedded": embedded,
        "first": first,
        "second": second,
        "half": half,
        "logits": logits,
        "loss": logits.square().mean(),
    }


def test_what_modules_return_in_the_order_of_computation(runner: Runner, model: Model) -> None:
    trace = runner.run(IDS)
    assert trace.names() == ["embedded", "first", "second", "half", "logits", "loss"]
    for name, values in expected(model).items():
        np.testing.assert_allclose(trace[name], values.detach().numpy(), rtol=1e-6, atol=1e-6)
    entries = {tensor.name: tensor for tensor in trace.tensors}
    assert entries["logits"].dims == ("batch", "length", "classes")
    assert entries["half"].original_name == "block@1:1"
    assert trace.metadata["deterministic"] is True
    assert trace.metadata["implementation"] == "a small module"
    assert trace.metadata["compute_dtype"] == "float32"
    assert set(trace.metadata["versions"]) >= {"torch", "numpy", "python"}
    assert trace.metadata["absent"] == ["spare"]


def test_gradients_of_taps_and_parameters_in_backward_order(runner: Runner, model: Model) -> None:
    gradients = gradients_of(runner.run(IDS, backward=True))
    assert gradients.names() == [
        "loss",
        "logits",
        "out.weight",
        "out.bias",
        "half",
        "second",
        "first",
        "block.dense.weight",
        "block.dense.bias",
        "embedded",
        "table.weight",
        "unused.weight",
    ]
    model.zero_grad()
    call(model, {"inputs": torch.from_numpy(IDS).long()})["loss"].backward()
    for name, parameter in model.named_parameters():
        wanted = torch.zeros(1, 1) if parameter.grad is None else parameter.grad
        np.testing.assert_allclose(gradients[name], wanted.numpy(), rtol=1e-5, atol=1e-7)
    assert gradients.metadata["variables"] == [
        name for name in gradients.names() if name.endswith(("weight", "bias"))
    ]
    assert gradients.metadata["without_gradient"] == ["unused.weight"]
    assert gradients["logits"].shape == (2, 4, 3)
    # Half of `second` goes on through `half`, which is heard by itself.
    np.testing.assert_allclose(gradients["half"], gradients["second"], rtol=1e-6)


def test_wrong_names_are_all_said_with_the_nearest_ones(runner: Runner) -> None:
    with pytest.raises(ReferenceRunError) as error:
        runner.run(IDS, {"wrong": "z"})
    said = str(error.value)
    assert "2 taps do not fit" in said
    assert "logits: expected a module or output named logitsz, found none; nearest: logits" in said
    assert "first: expected a module or output named blockz, found none; nearest: block" in said


def test_a_module_that_is_never_called_is_said(runner: Runner) -> None:
    with pytest.raises(ReferenceRunError, match=r"spare: expected a tensor from unused"):
        runner.run(IDS, {"silent": True})


def test_an_original_that_does_not_repeat_itself_says_so(runner: Runner) -> None:
    assert runner.run(IDS, {"noise": True}).metadata["deterministic"] is False


def test_gradients_without_a_loss_are_refused(runner: Runner) -> None:
    with pytest.raises(ReferenceRunError, match="scalar output 'cost'"):
        runner.run(IDS, {"loss": "cost"}, backward=True)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_weights_fill_the_module_and_nothing_is_left_over(tmp_path: Path, model: Model, name: str) -> None:
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    (torch.save if name.endswith(".pt") else save_file)(state, tmp_path / name)
    other = Model()
    load_weights(other, tmp_path / name, rename=lambda key: key.removeprefix("model."))
    for key, value in other.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])
    with pytest.raises(ReferenceRunError) as error:
        load_weights(
            other, tmp_path / name, rename=lambda key: key.removeprefix("model.").replace("out", "o")
        )
    said = str(error.value)
    assert "out.weight: expected shape [3, 5], found none" in said
    assert "o.weight: expected a place for it in the original" in said


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path(tmp_path / "ran").touch, ())

    torch.save({"weight": Evil()}, tmp_path / "weights.pt")
    with pytest.raises(ReferenceRunError, match="read safely"):
        load_weights(Model(), tmp_path / "weights.pt")
    assert not (tmp_path / "ran").exists()
