from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from porting.diagnose.lab import Lab
from porting.tap import Tap
from tests.faulty import HIDDEN, INPUTS, TAPS, Bench, Toy, changed, run, state_of


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


def test_what_a_tensor_is_computed_from_ends_at_the_taps_before_it(bench: Bench) -> None:
    found = bench.lab(bench.right).record(["embed", "up", "act", "added", "logits"])
    assert found["embed"].sources == () and found["embed"].parameters == ("embed.weight",)
    assert found["up"].sources == ("norm",) and found["up"].parameters == ("up.weight", "up.bias")
    assert found["act"].sources == ("up",) and found["act"].parameters == ()
    assert found["added"].sources == ("embed", "down") and found["added"].parameters == ()
    assert found["logits"].sources == ("added",) and found["logits"].parameters == ("embed.weight",)
    assert all(entry.inherits == () for entry in found.values())


def test_arguments_are_the_originals(bench: Bench) -> None:
    zeros = changed(bench.reference, {"norm": 0 * bench.reference["norm"]})
    lab = Bench.lab(bench, bench.right)
    lab.originals = type(lab.originals)(zeros)
    found = lab.record(["up", "logits"])
    assert len(found["up"].arguments) == 1 and not found["up"].arguments[0].any()
    assert found["up"].arguments[0].shape == (3, 6, 8) and not found["up"].arguments[0].requires_grad
    assert found["logits"].arguments == (), "an output has no module that is called"


def test_outputs_that_nothing_can_replace_hand_on_their_faults(bench: Bench) -> None:
    assert bench.lab(bench.right).record(["logits", "loss"])["loss"].inherits == ("logits",)
    assert bench.lab(bench.right).record(["loss"])["loss"].inherits == (), "only what is faulty is inherited"


def test_tensors_of_another_shape_hand_on_their_faults(bench: Bench) -> None:
    def longer(model: Toy) -> None:
        model.up, model.down = nn.Linear(8, 15), nn.Linear(15, 8, bias=False)

    found = bench.lab(bench.faulty(longer)).record(["up", "act", "down", "added"])
    assert found["up"].inherits == ()
    assert found["act"].inherits == ("up",)
    assert found["down"].inherits == ("up", "act")
    assert found["added"].inherits == (), "down was replaced"


def test_recording_leaves_everything_as_it_was(bench: Bench) -> None:
    model = bench.faulty(lambda model: model.up.weight.requires_grad_(False))
    model.train()
    before = state_of(model)
    found = bench.lab(model).record(["up"])
    assert found["up"].parameters == ("up.weight", "up.bias"), "frozen ones too"
    assert state_of(model) == before


def test_a_model_that_raises_while_it_is_recorded_is_left_as_it_was(bench: Bench) -> None:
    def fail(_x: Tensor, _y: Tensor) -> Tensor:
        raise KeyError("surprise")

    model = copy.deepcopy(bench.right)
    model.combine = fail
    model.up.weight.requires_grad_(False)
    before = state_of(model)
    with pytest.raises(KeyError, match="surprise"):
        bench.lab(model).record(["up"])
    with pytest.raises(KeyError, match="surprise"):
        bench.lab(model).replay("logits", {"up.weight": torch.zeros(12, 8)})
    assert state_of(model) == before


def test_a_model_that_changes_tapped_tensors_in_place_is_recorded() -> None:
    class InPlace(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU(inplace=True)

        def combine(self, x: Tensor, y: Tensor) -> Tensor:
            y += x
            return y

    lab = Bench(InPlace()).lab(InPlace())
    found = lab.record(["act", "added"])
    assert found["act"].sources == ("up",) and set(found["added"].sources) == {"embed", "down"}
    assert lab.notes == []


def test_a_model_without_gradients_is_recorded_as_far_as_it_goes(bench: Bench) -> None:
    class NoGradients(Toy):
        def combine(self, x: Tensor, y: Tensor) -> Tensor:
            return torch.from_numpy(x.numpy() + y.numpy())

    model = NoGradients()
    before = state_of(model)
    lab = bench.lab(model)
    found = lab.record(["up", "logits"])
    assert found["up"].parameters == ("up.weight", "up.bias")
    assert len(lab.notes) == 1 and lab.notes[0].startswith("the port does not run with gradients (")
    assert state_of(model) == before


def test_a_replay_is_fed_with_the_original_and_computed_in_float64_axes(bench: Bench) -> None:
    lab = bench.lab(bench.faulty(lambda model: model.norm.weight.mul_(100)))
    found = lab.replay("up")
    assert found is not None
    assert found.dtype == torch.float64 and found.shape == (3, 6, 3, 4)
    expected = torch.tensor(bench.reference["up"]).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_replay_stops_where_it_is_to_end(bench: Bench) -> None:
    model = copy.deepcopy(bench.right)
    model.combine = lambda _x, _y: pytest.fail("the rest of the model need not run")
    assert bench.lab(model).replay("down") is not None


def test_a_tap_that_is_never_reached_has_no_replay(bench: Bench) -> None:
    taps = [*TAPS, Tap("unused", HIDDEN)]
    lab = Lab(bench.right, INPUTS, taps, run, bench.lab(bench.right).originals)
    assert lab.replay("unused") is None
    assert lab.original("unused") is None and lab.original("nonsense") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_weights_are_in_place_only_while_it_runs(bench: Bench, dtype: torch.dtype) -> None:
    model = copy.deepcopy(bench.right).to(dtype)
    before = state_of(model)
    lab = bench.lab(model)
    weight = torch.zeros(12, 8, dtype=torch.float64)
    found = lab.replay("up", {"up.weight": weight, "up.bias": torch.ones(12)})
    assert found is not None and bool((found == 1).all())
    assert state_of(model) == before


def test_weights_that_are_shared_change_together(bench: Bench) -> None:
    class Tied(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.alias = self.embed

    lab = bench.lab(Tied())
    assert "alias.weight" not in lab.parameters
    assert "embed.weight" in lab.record(["logits"])["logits"].parameters
    found = lab.replay("logits", {"embed.weight": torch.zeros(11, 8)})
    assert found is not None and not found.any()


def test_another_model_can_stand_in(bench: Bench) -> None:
    def zero(model: Toy) -> None:
        model.up.weight.zero_()
        model.up.bias.fill_(3.0)

    found = bench.lab(bench.right).replay("up", instead=(bench.faulty(zero), TAPS))
    assert found is not None and bool((found == 3).all())


class Compiled(nn.Module):
    """What `torch.compile` makes of a module, as far as names go."""

    def __init__(self, model: Toy) -> None:
        super().__init__()
        self._orig_mod = model

    @property
    def embed(self) -> nn.Module:
        return self._orig_mod.embed

    def forward(self, ids: Tensor) -> Tensor:
        return self._orig_mod(ids)


def test_a_compiled_model_has_the_names_of_the_model(bench: Bench) -> None:
    lab = bench.lab(Compiled(bench.faulty(lambda model: model.up.weight.mul_(2))))
    assert list(lab.parameters) == list(bench.lab(bench.right).parameters)
    assert lab.record(["up"])["up"].parameters == ("up.weight", "up.bias")
    found = bench.faults(Compiled(bench.faulty(lambda model: model.up.weight.mul_(2))))
    assert [fault.cause.subject for fault in found if fault.cause] == ["up.weight"]
