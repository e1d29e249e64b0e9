from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from porting.capture import capture, to_numpy
from porting.inputs import Inputs
from porting.tap import Tap
from porting.trace import read_trace


class Toy(nn.Module):
    """Calls `late` before `early`, `twice` two times, `pair` for a tuple, and `unused` never."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.late, self.twice, self.unused = (nn.Linear(2, 6, bias=False) for _ in range(4))
        self.pair = nn.LSTM(6, 4, batch_first=True)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        late, early = self.late(x), self.early(x)
        self.twice(x)
        self.twice(x + 1)
        return self.dropout(self.pair(late + early)[0])


def run(model: nn.Module, inputs: Inputs) -> Mapping[str, Tensor]:
    x = torch.from_numpy(inputs["inputs"]).to(next(model.parameters()).dtype)
    output = model(torch.stack([x, x + 1], dim=-1))
    return {"out": output, "loss": output.sum()}


GROUP = "batch length (heads d_kv)"
TAPS = [
    Tap("early", GROUP, {"heads": 3}),
    Tap("late", "batch length d_model", hidden_below=-5.0),
    Tap("loss", ""),
    Tap("out", "batch length d_model"),
    Tap("pair", "batch length d_model"),
    Tap("twice", "batch length d_model"),
    Tap("unused", "batch length d_model"),
    Tap("absent.module", "batch length d_model"),
]


@pytest.fixture
def toy() -> Toy:
    torch.manual_seed(0)
    return Toy().eval()


def test_tensors_are_traced_as_they_are_computed(toy: Toy, small_inputs: Inputs, tmp_path: Path) -> None:
    heard: list[str] = []
    capture(toy, small_inputs, TAPS, run, tmp_path / "trace", {"model": "toy"}, heard.append)
    trace = read_trace(tmp_path / "trace")
    # Modules in the order of their calls, then the outputs; what is never called stays out.
    assert trace.names() == heard == ["late", "early", "twice", "pair", "loss", "out"]
    assert trace["early"].shape == (2, 4, 3, 2)
    assert trace.tensors[1].dims == ("batch", "length", "heads", "d_kv")
    assert [tensor.hidden_below for tensor in trace.tensors[:2]] == [-5.0, None]
    with torch.no_grad():
        expected = run(toy, small_inputs)["out"]
    np.testing.assert_array_equal(trace["out"], expected.numpy())
    np.testing.assert_array_equal(trace["pair"], trace["out"])
    assert float(trace["loss"]) == pytest.approx(float(expected.sum()))
    np.testing.assert_array_equal(trace.inputs["inputs"], small_inputs["inputs"])


def test_only_the_first_call_of_a_module_is_traced(toy: Toy, small_inputs: Inputs) -> None:
    x = torch.from_numpy(small_inputs["inputs"]).float()
    first = toy.twice(torch.stack([x, x + 1], dim=-1)).detach().numpy()
    np.testing.assert_array_equal(capture(toy, small_inputs, TAPS, run)["twice"], first)


def test_the_model_is_left_as_it_was(toy: Toy, small_inputs: Inputs) -> None:
    for mode in (True, False):
        toy.train(mode)
        capture(toy, small_inputs, TAPS, run)
        assert toy.training is mode
    assert not any(module._forward_hooks for module in toy.modules())
    assert all(parameter.grad is None for parameter in toy.parameters())


def test_hooks_are_taken_away_after_a_failure_too(toy: Toy, small_inputs: Inputs) -> None:
    with pytest.raises(ValueError, match="early: dims 'batch length' name 2 axes"):
        capture(toy, small_inputs, [Tap("early", "batch length")], run)
    assert not any(module._forward_hooks for module in toy.modules())


def test_metadata_says_what_was_run(toy: Toy, small_inputs: Inputs) -> None:
    metadata = capture(toy.bfloat16(), small_inputs, TAPS, run, metadata={"model": "toy"}).metadata
    assert metadata["model"] == "toy"
    assert metadata["implementation"] == "Toy"
    assert metadata["versions"]["torch"] == torch.__version__
    assert metadata["compute_dtype"] == "bfloat16"
    assert metadata["deterministic"] is True


def test_dropout_left_on_is_seen(toy: Toy, small_inputs: Inputs) -> None:
    assert capture(toy.train(), small_inputs, TAPS, run).metadata["deterministic"] is False


def test_nan_repeats_itself(toy: Toy, small_inputs: Inputs) -> None:
    with torch.no_grad():
        toy.late.weight[0, 0] = float("nan")
    trace = capture(toy, small_inputs, TAPS, run)
    assert trace.metadata["deterministic"] is True
    assert np.isnan(trace["late"]).any()


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.bfloat16, np.float32),
        (torch.float16, np.float32),
        (torch.float32, np.float32),
        (torch.float64, np.float64),
    ],
)
def test_values_widen_exactly(dtype: torch.dtype, expected: type) -> None:
    values = torch.tensor([1.0, 1 / 3, -65000.0, float("inf")], dtype=dtype, requires_grad=True)
    array = to_numpy(values)
    assert array.dtype == expected
    assert array.tolist() == values.detach().double().tolist()


def test_what_is_changed_in_place_later_is_not_changed_in_the_trace() -> None:
    tensor = torch.ones(2)
    array = to_numpy(tensor)
    tensor.zero_()
    assert array.tolist() == [1, 1]


def test_dropout_left_on_is_told_from_what_is_random_anyway(toy: Toy, small_inputs: Inputs) -> None:
    toy.train()
    toy.early.eval()
    assert capture(toy, small_inputs, TAPS, run).metadata["deterministic_in_eval"] is True
    assert toy.training and toy.dropout.training and not toy.early.training

    def noisy(model: nn.Module, inputs: Inputs) -> Mapping[str, Tensor]:
        return {"out": run(model, inputs)["out"] + torch.rand(())}

    assert capture(toy.eval(), small_inputs, TAPS, noisy).metadata["deterministic_in_eval"] is False
    assert "deterministic_in_eval" not in capture(toy, small_inputs, TAPS, run).metadata


def test_what_a_run_without_hooks_gives_is_held_against_the_one_with_them(
    toy: Toy, small_inputs: Inputs
) -> None:
    assert capture(toy, small_inputs, TAPS, run).metadata["without_hooks"] == {"out": 0.0, "loss": 0.0}

    def shy(model: nn.Module, inputs: Inputs) -> Mapping[str, Tensor]:
        heard = bool(model.late._forward_hooks)
        return {"out": run(model, inputs)["out"] + (0.0 if heard else 0.5), "empty": torch.zeros(0)}

    metadata = capture(toy, small_inputs, TAPS, shy).metadata
    assert metadata["without_hooks"] == {"out": pytest.approx(0.5), "empty": 0.0}
    assert metadata["deterministic"] is True
