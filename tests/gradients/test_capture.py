"""Gradients of a PyTorch model: at its taps, and of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from porting.errors import InputError
from porting.gradients.capture import capture_gradients
from porting.inputs import Inputs
from porting.tap import Tap
from porting.trace import read_trace

HIDDEN = "batch length d_model"
TAPS = [
    Tap("first", "batch length (heads d_kv)", {"heads": 3}),
    Tap("again", HIDDEN),
    Tap("shared_one", HIDDEN),
    Tap("shared_two", HIDDEN),
    Tap("act", HIDDEN, hidden_below=-5.0),
    Tap("pair", HIDDEN),
    Tap("aside", HIDDEN),
    Tap("out", HIDDEN),
    Tap("loss", ""),
    Tap("absent.module", HIDDEN),
]


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * 3, x * 5


class Toy(nn.Module):
    """What makes gradients at taps hard: a tensor handed through twice, one changed in place, one aside."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 6)
        self.again = nn.Linear(6, 6, bias=False)
        self.shared_one = nn.Identity()
        self.shared_two = nn.Identity()
        self.act = nn.Linear(6, 6)
        self.pair = Pair()
        self.aside = nn.Linear(6, 6)
        self.tied = self.again  # its second call is not the tap's
        self.unused = nn.Parameter(torch.ones(3))
        self.register_parameter("counts", nn.Parameter(torch.ones(2, dtype=torch.long), requires_grad=False))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.again(self.first(x))
        one = self.shared_one(hidden) * 2
        two = self.shared_two(hidden) * 7
        inner = self.act(one + two)
        inner.relu_()
        left, right = self.pair(inner)
        self.aside(left)
        return self.tied(left + right)


def run(model: nn.Module, inputs: Inputs) -> Mapping[str, Tensor]:
    x = torch.from_numpy(inputs["inputs"]).to(next(model.parameters()).dtype)
    output = model(torch.stack([x, x + 1], dim=-1))
    return {"out": output, "loss": output.square().mean()}


@pytest.fixture
def toy() -> Toy:
    torch.manual_seed(0)
    return Toy().eval()


def expected(toy: Toy, inputs: Inputs) -> dict[str, Tensor]:
    """By hand: every tensor a variable of its own, so that each use is counted where it belongs."""
    x = torch.from_numpy(inputs["inputs"]).float()
    first = toy.first(torch.stack([x, x + 1], dim=-1))
    hidden = toy.again(first)
    one, two = hidden.clone(), hidden.clone()
    act = toy.act(one * 2 + two * 7)
    inner = act.relu()
    left, right = inner * 3, inner * 5
    out = toy.tied(left + right)
    named = {
        "first": first,
        "again": hidden,
        "shared_one": one,
        "shared_two": two,
        "act": act,
        "pair": left,
        "out": out,
    }
    for tensor in named.values():
        tensor.retain_grad()
    out.square().mean().backward()
    gradients = {name: tensor.grad for name, tensor in named.items()}
    gradients |= {name: p.grad for name, p in toy.named_parameters() if p.grad is not None}
    toy.zero_grad()
    return gradients


def test_gradients_are_those_of_the_tensor_that_the_tap_gave(
    toy: Toy, small_inputs: Inputs, tmp_path: Path
) -> None:
    capture_gradients(toy, small_inputs, TAPS, run, tmp_path / "trace", {"model": "toy"})
    trace = read_trace(tmp_path / "trace")
    assert not np.array_equal(trace["shared_one"], trace["shared_two"])
    for name, gradient in expected(toy, small_inputs).items():
        found = trace[name].reshape(gradient.shape)
        np.testing.assert_allclose(found, gradient.numpy(), rtol=1e-6, atol=0, err_msg=name)
    assert trace["loss"] == 1
    assert trace["first"].shape == (2, 4, 3, 2)
    assert trace.metadata["model"] == "toy"
    # A gradient is not masked, even where the tensor is.
    assert all(tensor.hidden_below is None for tensor in trace.tensors)


def test_parameters_are_named_once_and_those_without_a_gradient_are_zero(
    toy: Toy, small_inputs: Inputs
) -> None:
    trace = capture_gradients(toy, small_inputs, TAPS, run)
    parameters = [name for name, _ in toy.named_parameters() if name != "counts"]
    assert trace.metadata["parameters"] == parameters
    assert "tied.weight" not in parameters
    assert trace.metadata["without_gradient"] == ["aside", "unused", "aside.weight", "aside.bias"]
    assert not trace["unused"].any()
    assert "absent.module" not in trace.names()


def test_the_model_is_left_as_it_was(toy: Toy, small_inputs: Inputs) -> None:
    toy.act.weight.requires_grad_(False)
    toy.first.weight.grad = torch.full_like(toy.first.weight, 3.0)
    for training in (True, False):
        toy.train(training)
        with torch.no_grad():
            trace = capture_gradients(toy, small_inputs, TAPS, run)
        assert toy.training is training
    assert trace["act.weight"].any()  # frozen, and compared all the same
    assert not toy.act.weight.requires_grad
    assert toy.first.weight.requires_grad
    assert (toy.first.weight.grad == 3).all()
    assert all(p.grad is None for name, p in toy.named_parameters() if name != "first.weight")
    assert not any(module._forward_hooks for module in toy.modules())


def test_the_model_is_left_as_it_was_after_a_failure_too(toy: Toy, small_inputs: Inputs) -> None:
    toy.act.weight.requires_grad_(False)
    with pytest.raises(RuntimeError, match="stop"):
        capture_gradients(
            toy, small_inputs, TAPS, lambda _model, _inputs: (_ for _ in ()).throw(RuntimeError("stop"))
        )
    assert not toy.act.weight.requires_grad
    assert not any(module._forward_hooks for module in toy.modules())


def test_parameters_get_the_gradient_of_a_run_without_hooks(toy: Toy, small_inputs: Inputs) -> None:
    """Of what training would compute, where a model computes otherwise while it is listened to."""

    def two_ways(model: nn.Module, inputs: Inputs) -> Mapping[str, Tensor]:
        outputs = run(model, inputs)
        hooked = any(module._forward_hooks for module in model.modules())
        return outputs if hooked else {**outputs, "loss": outputs["loss"] * 2}

    right, other = (capture_gradients(toy, small_inputs, TAPS, each) for each in (run, two_ways))
    np.testing.assert_array_equal(other["first"], right["first"])
    np.testing.assert_array_equal(other["first.weight"], right["first.weight"] * 2)


def test_a_cut_in_the_graph_shows_behind_it(toy: Toy, small_inputs: Inputs) -> None:
    """The tap at which it was cut is still read by what follows, with the gradient that it always had."""
    right = capture_gradients(toy, small_inputs, TAPS, run)
    first = toy.first.forward
    toy.first.forward = lambda x: first(x).detach()
    cut = capture_gradients(toy, small_inputs, TAPS, run)
    np.testing.assert_array_equal(cut["first"], right["first"])
    assert set(cut.metadata["without_gradient"]) - set(right.metadata["without_gradient"]) == {
        "first.weight",
        "first.bias",
    }


def test_a_detached_loss_reaches_nothing(toy: Toy, small_inputs: Inputs) -> None:
    trace = capture_gradients(
        toy, small_inputs, TAPS, lambda model, inputs: {k: v.detach() for k, v in run(model, inputs).items()}
    )
    assert set(trace.names()) == set(trace.metadata["without_gradient"])
    assert not any(values.any() for _, values in trace.items())


@pytest.mark.parametrize("outputs", [{}, {"loss": torch.ones(2)}], ids=["none", "no scalar"])
def test_without_a_loss_there_are_no_gradients(
    toy: Toy, small_inputs: Inputs, outputs: Mapping[str, Tensor]
) -> None:
    with pytest.raises(InputError, match="scalar output 'loss'"):
        capture_gradients(toy, small_inputs, TAPS, lambda _model, _inputs: outputs)


def test_low_precision_widens(toy: Toy, small_inputs: Inputs) -> None:
    toy.counts = nn.Parameter(torch.ones(1), requires_grad=False)
    assert capture_gradients(toy.bfloat16(), small_inputs, TAPS, run)["first.weight"].dtype == np.float32
