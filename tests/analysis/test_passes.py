from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import porting.analysis.passes
from porting.analysis.passes import Arrays
from porting.capture import capture
from porting.compare import compare_traces
from porting.inputs import Inputs
from porting.tap import Tap
from tests.faulty import HIDDEN, INPUTS, TAPS, Bench, Toy, changed, randomise, run, state_of

HEIRS = {"act", "down", "added", "logits", "loss"}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


def one_weight(model: Toy) -> None:
    model.up.weight[2, 3] += 0.5


def other_sum(model: Toy) -> None:
    model.combine = lambda x, y: x - y  # type: ignore[method-assign]


def tiny(model: Toy) -> None:
    model.down.weight[1, 4] *= 1.0005


def test_a_right_port_has_no_fault_and_every_figure(bench: Bench) -> None:
    analysis = bench.analyse(copy.deepcopy(bench.right))
    assert analysis.faults == () and analysis.explained and analysis.remainder is None
    assert analysis.reasons == () and analysis.notes == ()
    assert (analysis.times, analysis.unit) == (32.0, 2.0**-23)
    assert set(analysis.figures) == {tap.name for tap in TAPS}
    for figures in analysis.figures.values():
        assert figures.times_floor < 8
        assert 0 < figures.local_floor < 1e-4 and 0 < figures.floor < 1e-3
        assert figures.local < 1e-4 and figures.passed_on < 1e-4


def test_a_fault_is_found_where_it_is_made_and_not_at_its_heirs(bench: Bench) -> None:
    analysis = bench.analyse(bench.faulty(one_weight))
    assert analysis.faults == ("up",) and not analysis.explained
    figures = analysis.figures
    assert figures["up"].local > 0.1 and figures["up"].times_floor > 1e4
    assert figures["up"].passed_on < 1e-5
    for name in HEIRS:
        assert figures[name].local < 1e-4 and figures[name].times_floor < 8
        assert figures[name].passed_on > 1e-3
    assert analysis.remainder is not None and analysis.remainder.times_floor < 8


def test_two_independent_faults_are_both_found_in_one_run(bench: Bench) -> None:
    def both(model: Toy) -> None:
        one_weight(model)
        other_sum(model)

    analysis = bench.analyse(bench.faulty(both))
    assert analysis.faults == ("up", "added")
    assert analysis.figures["added"].passed_on > 1e-3
    assert analysis.remainder is not None and analysis.remainder.times_floor < 8


def test_a_fault_far_below_the_tolerance_is_found(bench: Bench) -> None:
    model = bench.faulty(tiny)
    analysis = bench.analyse(model)
    assert analysis.faults == ("down",)
    assert analysis.figures["down"].local < 1e-3
    free = capture(model, INPUTS, TAPS, run)
    assert compare_traces(bench.reference, free).status == "match"


def test_faults_stand_in_the_order_of_the_original(bench: Bench) -> None:
    def both(model: Toy) -> None:
        one_weight(model)
        other_sum(model)

    backwards = copy.copy(bench.reference)
    object.__setattr__(backwards, "tensors", bench.reference.tensors[::-1])
    assert bench.analyse(bench.faulty(both), reference=backwards).faults == ("added", "up")


@pytest.mark.parametrize("times", [0.0, 1e-3, 1e9])
def test_how_many_floors_are_allowed_can_be_said(bench: Bench, times: float) -> None:
    analysis = bench.analyse(bench.faulty(one_weight), times=times)
    assert analysis.times == times
    expected = [name for name, f in analysis.figures.items() if f.times_floor > times]
    assert list(analysis.faults) == expected
    assert ("up" in analysis.faults) == (times < 1e6)


def test_what_no_fault_accounts_for_remains(bench: Bench) -> None:
    def both(model: Toy) -> None:
        tiny(model)
        model.up.weight[2, 3] += 5.0

    found = bench.analyse(bench.faulty(both)).figures
    between = (found["down"].times_floor + found["up"].times_floor) / 2
    analysis = bench.analyse(bench.faulty(both), times=between)
    assert analysis.faults == ("up",)
    assert analysis.remainder is not None
    assert analysis.remainder.name in HEIRS, "it is left out, or inherits from what is"
    assert analysis.remainder.times_floor > 8
    assert analysis.remainder.max_abs_diff > found["down"].local / 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_port_is_judged_by_its_own_rounding(bench: Bench, dtype: torch.dtype) -> None:
    right = bench.analyse(copy.deepcopy(bench.right).to(dtype))
    assert right.faults == ()
    assert right.unit == torch.finfo(dtype).eps and right.times == 4.0
    assert max(f.local_floor for f in right.figures.values()) > 1e-4
    assert bench.analyse(bench.faulty(one_weight).to(dtype)).faults == ("up",)


def test_coarser_stored_weights_allow_more(bench: Bench) -> None:
    stored = copy.deepcopy(bench.right).bfloat16().float()
    assert bench.analyse(copy.deepcopy(stored)).faults != ()
    analysis = bench.analyse(stored, unit=2.0**-7)
    assert analysis.faults == () and analysis.unit == 2.0**-7 and analysis.times == 4.0
    assert bench.analyse(copy.deepcopy(bench.right), unit=2.0**-52).unit == 2.0**-23


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_a_fault_where_it_is_made(bench: Bench, value: float) -> None:
    def broken(model: Toy) -> None:
        model.up.bias[1] = value

    analysis = bench.analyse(bench.faulty(broken))
    assert analysis.faults == ("up",)
    assert analysis.figures["up"].local == math.inf
    for name in HEIRS:
        assert analysis.figures[name].times_floor < 8
    assert analysis.figures["added"].passed_on == math.inf


class Masked(nn.Module):
    """Scores with positions hidden; their softmax."""

    def __init__(self, hidden: float = -1e9, from_position: int = 3) -> None:
        super().__init__()
        self.q = nn.Linear(4, 6)
        self.scores, self.weights = nn.Identity(), nn.Identity()
        self.hidden, self.from_position = hidden, from_position
        randomise(self)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(6, dtype=x.dtype)
        mask[self.from_position :] = self.hidden
        return self.weights(self.scores(self.q(x) + mask).softmax(-1))


def run_masked(model: nn.Module, inputs: object) -> dict[str, Tensor]:
    del inputs
    generator = torch.Generator().manual_seed(0)
    dtype = next(model.parameters()).dtype
    return {"out": model(torch.randn(2, 5, 4, generator=generator, dtype=torch.float64).to(dtype))}


MASKED_TAPS = [
    Tap("scores", "batch length memory_length", hidden_below=-1e8),
    Tap("weights", "batch length memory_length"),
]


def masked_bench() -> Bench:
    return Bench(Masked(), MASKED_TAPS, run_masked)


def test_hidden_scores_may_have_any_value_and_take_no_part() -> None:
    bench = masked_bench()
    analysis = bench.analyse(Masked(hidden=-2e9))
    assert analysis.faults == ()
    assert analysis.figures["scores"].local < 1e-5
    assert analysis.figures["scores"].local_floor < 1e-5


def test_a_position_that_one_side_hides_is_a_fault_and_its_heir_is_none() -> None:
    analysis = masked_bench().analyse(Masked(from_position=4))
    assert analysis.faults == ("scores",)
    assert analysis.figures["scores"].local == math.inf
    assert analysis.figures["weights"].passed_on > 1e-3


def test_a_soft_mask_is_a_fault() -> None:
    assert masked_bench().analyse(Masked(hidden=-1e4)).faults == ("scores",)


def test_what_float32_loses_does_not_widen_the_floor() -> None:
    """A score beside 1e6 loses its digits in float32 and not in float64: rounding does not allow it."""

    class Lossy(nn.Module):
        def __init__(self, keeps: bool) -> None:
            super().__init__()
            self.q, self.lost = nn.Linear(4, 6), nn.Identity()
            randomise(self)
            self.keeps = keeps

        def forward(self, x: Tensor) -> Tensor:
            y = self.q(x)
            return self.lost(y if self.keeps else (y * 1e-3 + 1e6) - 1e6)

    bench = Bench(Lossy(keeps=False), [Tap("q", HIDDEN), Tap("lost", HIDDEN)], run_masked, wide=False)
    assert bench.analyse(Lossy(keeps=False)).figures["lost"].local_floor < 1e-5
    assert bench.analyse(Lossy(keeps=True)).faults == ("lost",)


def longer(model: Toy) -> None:
    """`up` gives more than the original has; `down` reads all of it."""
    model.up, model.down = nn.Linear(8, 15), nn.Linear(15, 8, bias=False)


def test_another_shape_is_a_fault_beyond_all_measure(bench: Bench) -> None:
    taps = [t for t in TAPS if t.name != "act"]
    analysis = Bench(bench.right, taps).analyse(bench.faulty(longer))
    assert analysis.faults[0] == "up"
    assert analysis.figures["up"].local == analysis.figures["up"].times_floor == math.inf
    assert math.isnan(analysis.figures["up"].local_floor)
    assert "logits" not in analysis.faults, "its inputs could be replaced"


def test_names_of_axes_that_do_not_fit_are_a_fault(bench: Bench) -> None:
    other = changed(bench.reference, dims={"norm": "batch length d_kv"})
    assert bench.analyse(copy.deepcopy(bench.right), reference=other).faults == ("norm",)


def test_taps_of_one_side_alone_are_no_faults(bench: Bench) -> None:
    fewer = copy.copy(bench.reference)
    object.__setattr__(fewer, "tensors", bench.reference.tensors[2:])
    analysis = bench.analyse(bench.faulty(lambda model: model.norm.weight.mul_(2)), reference=fewer)
    assert analysis.faults == ("up",), "what it inherits from tensors that cannot be replaced shows there"
    assert math.isnan(analysis.figures["norm"].local) and analysis.figures["norm"].floor > 0


def test_the_same_run_gives_the_same_figures(bench: Bench) -> None:
    one, other = (bench.analyse(bench.faulty(one_weight)) for _ in range(2))
    assert one.figures == other.figures
    assert (one.faults, one.remainder) == (other.faults, other.remainder)


def test_no_two_taps_are_moved_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = (nn.ModuleDict({"projection": nn.Linear(4, 4)}) for _ in range(2))
            randomise(self)

        def forward(self, x: Tensor) -> Tensor:
            return self.one["projection"](x) + self.other["projection"](x)

    seeds: list[int] = []

    def moved(value: Tensor, *_: object, seed: int) -> Tensor:
        seeds.append(seed)
        return value

    bench = Bench(Pair(), [Tap("one.projection", HIDDEN), Tap("other.projection", HIDDEN)], run_masked)
    monkeypatch.setattr(porting.analysis.passes, "moved", moved)
    bench.analyse(copy.deepcopy(bench.right))
    assert len(seeds) == 4, "two taps in the isolated run and in the free one"
    assert len(set(seeds)) == 2


def shared(model: Toy) -> None:
    model.alias = model.embed  # type: ignore[assignment]


def frozen(model: Toy) -> None:
    for p in (model.up.weight, model.embed.weight):
        p.requires_grad_(False)


def in_training(model: Toy) -> None:
    model.train()
    model.act.eval()


@pytest.mark.parametrize("change", [shared, frozen, in_training, lambda model: model.bfloat16()])
def test_the_model_is_left_as_it_was(bench: Bench, change: Callable[[nn.Module], None]) -> None:
    model = bench.faulty(change)
    one_weight_of = copy.deepcopy(model.state_dict())
    before = state_of(model)
    bench.analyse(model)
    assert state_of(model) == before
    assert all(torch.equal(value, one_weight_of[name]) for name, value in model.state_dict().items())
    if change is shared:
        assert model.alias is model.embed


@pytest.mark.parametrize("call", range(1, 7))
def test_a_model_that_raises_is_left_as_it_was(bench: Bench, call: int) -> None:
    """Whichever of the runs it is in, and whatever it raises."""
    model = bench.faulty(one_weight)
    analyser = bench.analyser(model)
    before = state_of(model)
    calls = iter(range(1, 100))

    def raising(x: Tensor, y: Tensor) -> Tensor:
        if next(calls) == call:
            raise KeyError("surprise")
        return x + y

    model.combine = raising  # type: ignore[method-assign]
    with pytest.raises(KeyError, match="surprise"):
        analyser.analyse()
    assert state_of(model) == before


def test_a_port_with_float32_in_its_code_is_analysed_and_it_is_said(bench: Bench) -> None:
    def fixed(model: Toy) -> None:
        one_weight(model)
        constant = torch.ones(8)
        model.combine = lambda x, y: x + (y @ torch.diag(constant))  # type: ignore[method-assign]

    model = bench.faulty(fixed)
    before = state_of(model)
    analysis = bench.analyse(model)
    assert analysis.faults == ("up",)
    assert len(analysis.notes) == 1 and "does not run in float64" in analysis.notes[0]
    assert state_of(model) == before


def test_a_port_that_computes_otherwise_when_it_is_heard_is_not_trusted(bench: Bench) -> None:
    class Shy(Toy):
        def combine(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y if self.added._forward_hooks else x + y * 1.001

    analysis = bench.analyse(Shy())
    assert [reason.split(":")[0] for reason in analysis.reasons] == [
        "the port computes another logits when nothing listens",
        "the port computes another loss when nothing listens",
    ]
    assert analysis.faults == ()


def test_scalars_and_empty_tensors_have_figures() -> None:
    class Few(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.none, self.mean = nn.Linear(4, 6), nn.Identity(), nn.Identity()
            randomise(self)

        def forward(self, x: Tensor) -> Tensor:
            y = self.q(x)
            return self.mean(self.none(y[:, :0]).sum() + y.mean())

    bench = Bench(Few(), [Tap("none", HIDDEN), Tap("mean", "")], run_masked)
    analysis = bench.analyse(bench.faulty(lambda model: model.q.bias.add_(1)))
    assert analysis.faults == ("mean",)
    empty = analysis.figures["none"]
    assert (empty.local, empty.passed_on, empty.local_floor, empty.floor, empty.times_floor) == (0,) * 5


def test_stages_are_told(bench: Bench) -> None:
    stages: list[str] = []
    bench.analyse(copy.deepcopy(bench.right), on_stage=stages.append)
    assert stages == ["isolating each tensor", "measuring the noise floor"]


def test_arrays_wait_on_disk_by_name_and_kind() -> None:
    arrays = Arrays()
    arrays.put("floor", "a", np.ones(2, np.float32))
    arrays.put("isolated", "a", np.zeros(2))
    arrays.put("floor", "a", np.full(3, 2.0, np.float32))
    assert arrays.get("floor", "a").tolist() == [2, 2, 2]
    assert arrays.get("isolated", "a").dtype == np.float64
    assert ("floor", "a") in arrays and ("floor", "b") not in arrays
    with pytest.raises(KeyError):
        arrays.get("floor", "b")


def test_what_was_computed_can_be_looked_up(bench: Bench) -> None:
    arrays = bench.analyse(bench.faulty(one_weight)).arrays
    assert arrays is not None
    apart = np.abs(arrays.get("isolated", "up") - bench.reference["up"])
    assert float(apart.max()) > 0.1
    assert (apart > 32 * arrays.get("floor", "up")).sum() == 18, "one of twelve values at each position"


class Sure(nn.Module):
    """Logits that are sure of their answer: a loss near zero, made of large numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 11)
        self.logits = nn.Identity()
        with torch.no_grad():
            self.embed.weight.copy_(0.5 * torch.randn(11, 11, generator=torch.Generator().manual_seed(3)))
            self.embed.weight += 20 * torch.eye(11)

    def forward(self, ids: Tensor) -> Tensor:
        return self.logits(self.embed(ids))


def test_a_loss_near_zero_may_be_rounded_as_the_logits_it_is_made_of() -> None:
    """Moving its inputs moves such a loss by nothing, and yet two ways to compute it differ."""

    def loss(model: Sure, inputs: Inputs) -> dict[str, Tensor]:
        ids = torch.from_numpy(inputs["inputs"]).long()
        logits = model(ids)
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())}

    bench = Bench(Sure(), [Tap("logits", "batch length vocab"), Tap("loss", "")], loss)
    figures = bench.analyse(copy.deepcopy(bench.right)).figures["loss"]
    assert 0 < figures.local < 1e-6
    assert figures.times_floor < 8
