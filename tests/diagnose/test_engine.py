from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from porting.analysis.isolation import Originals
from porting.diagnose.candidates import CANDIDATES
from porting.diagnose.engine import diagnose
from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause
from tests.faulty import Bench, Toy, changed, state_of

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


@pytest.fixture
def no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port's own candidates alone."""
    for name in ("FIRST", "CANDIDATES"):
        monkeypatch.setattr(f"porting.diagnose.engine.{name}", ())


def other_sum(model: Toy) -> None:
    model.combine = lambda x, y: x + y * (1 + 0.01 * x.cos())  # type: ignore[method-assign]


def proposing(
    mended: Callable[[Site], object], faulty: Callable[[Site], object] = lambda _site: None
) -> list:
    def candidate(site: Site) -> Iterator[Hypothesis]:
        yield Hypothesis(Cause("magic", "words"), mended(site), faulty(site))  # type: ignore[arg-type]

    return [candidate]


def test_no_fault_no_run(bench: Bench) -> None:
    assert diagnose(bench.lab(bench.right), bench.analyse(bench.right), {}) == ()


def test_a_fault_that_nothing_explains_lists_what_was_tried(bench: Bench) -> None:
    (fault,) = bench.faults(bench.faulty(other_sum))
    assert (fault.name, fault.cause) == ("added", None)
    assert {"scale", "sum", "order", "bias"} <= set(fault.tried)
    assert len(fault.tried) == len(set(fault.tried))


def test_a_mended_tensor_is_believed(bench: Bench, no_others: None) -> None:
    del no_others
    (fault,) = bench.faults(bench.faulty(other_sum), candidates=proposing(lambda site: site.original))
    assert fault.cause == Cause("magic", "words") and fault.tried == ("magic",)


@pytest.mark.parametrize(
    ("mended", "faulty", "believed"),
    [
        (lambda s: s.original, lambda s: s.port, True),
        (lambda s: lambda: s.original, lambda s: lambda: s.port, True),
        (lambda s: s.original, lambda s: s.original, False),  # the right formula is not what the port has
        (lambda s: s.original, lambda _s: lambda: None, False),
        (lambda s: s.port, lambda s: s.port, False),
        (lambda s: (s.port + s.original) / 2, lambda s: s.port, False),
        (lambda s: s.original[..., :3], lambda s: s.port, False),
        (lambda s: s.original * float("nan"), lambda s: s.port, False),
        (lambda _s: lambda: None, lambda s: s.port, False),
    ],
)
def test_a_formula_must_hold_with_the_fault_and_without(
    bench: Bench, no_others: None, mended: Callable, faulty: Callable, believed: bool
) -> None:
    del no_others
    (fault,) = bench.faults(bench.faulty(other_sum), candidates=proposing(mended, faulty))
    assert (fault.cause is not None) == believed
    assert fault.tried == ("magic",)


def test_the_ports_candidates_come_before_the_general_ones_and_the_first_that_holds_is_taken(
    bench: Bench,
) -> None:
    (fault,) = bench.faults(
        bench.faulty(lambda model: setattr(model, "combine", lambda x, y: x - y)),
        candidates=[*proposing(lambda s: s.port), *proposing(lambda s: s.original)],
    )
    assert fault.cause is not None and fault.cause.kind == "magic"


def test_no_candidates_at_all_find_faults_and_no_causes(bench: Bench) -> None:
    (fault,) = bench.faults(bench.faulty(other_sum), candidates=None)
    assert (fault.name, fault.cause, fault.tried) == ("added", None, ())
    assert fault.local > 0 and fault.times_floor > 32


def test_faults_of_one_cause_are_one_and_others_are_their_own(bench: Bench, no_others: None) -> None:
    del no_others

    def three(model: Toy) -> None:
        model.norm.weight.mul_(2)
        model.up.bias.add_(1)
        model.down.weight.mul_(-1)

    def by_layer(site: Site) -> Iterator[Hypothesis]:
        words = "here" if site.name == "up" else "everywhere"
        yield Hypothesis(Cause("magic", words), site.original)

    first, second = bench.faults(bench.faulty(three), candidates=[by_layer])
    assert (first.name, first.also) == ("norm", ("down",))
    assert (second.name, second.also) == ("up", ())


def test_faults_that_nothing_explains_are_never_grouped(bench: Bench, no_others: None) -> None:
    del no_others

    def two(model: Toy) -> None:
        model.norm.weight.mul_(2)
        model.up.bias.add_(1)

    found = bench.faults(bench.faulty(two))
    assert [(fault.name, fault.also) for fault in found] == [("norm", ()), ("up", ())]


def test_the_original_names_are_told(bench: Bench) -> None:
    model = bench.faulty(other_sum)
    (fault,) = diagnose(bench.lab(model), bench.analyse(model), {"added": "tf/add"}, None)
    assert fault.reference_name == "tf/add"


def test_heirs_of_what_cannot_be_replaced_are_no_faults(bench: Bench) -> None:
    """The loss is computed from logits that stay the port's: both are off, and one is the fault."""

    class Loud(Toy):
        pass

    model = Loud()
    right = bench.run

    def loud(model: Toy, inputs: object) -> dict[str, torch.Tensor]:
        logits = right(model, inputs)["logits"]
        logits = logits * 2 if isinstance(model, Loud) else logits
        return {"logits": logits, "loss": logits.square().mean()}

    faulty = Bench(Toy(), run=loud)
    assert faulty.analyse(model).faults == ("logits", "loss")
    (fault,) = faulty.faults(model)
    assert fault.name == "logits" and fault.cause is not None
    assert "2 times" in fault.cause.words and fault.also == ()


def test_axes_of_other_names_are_a_fault_without_a_cause(bench: Bench) -> None:
    other = changed(bench.reference, dims={"norm": "batch length d_kv"})
    lab = bench.lab(bench.right)
    lab.originals = Originals(other)
    (fault,) = diagnose(lab, bench.analyse(bench.right, reference=other), {})
    assert (fault.name, fault.cause, fault.tried) == ("norm", None, ())


@pytest.mark.parametrize(
    ("name", "bad", "checkpoint"),
    [("norm", NAN, True), ("down", NAN, True), ("up", INF, True), ("down", NAN, False), ("down", INF, False)],
)
def test_weights_that_are_no_numbers_are_named_where_the_checkpoint_is_known(
    bench: Bench, name: str, bad: float, checkpoint: bool
) -> None:
    def broken(model: Toy) -> None:
        model.get_submodule(name).weight.view(-1)[3] = bad

    (fault,) = bench.faults(bench.faulty(broken), checkpoint=checkpoint)
    assert fault.name == name
    if checkpoint:
        assert fault.cause is not None
        assert fault.cause.words.startswith(f"{name}.weight is not what the checkpoint holds: 1 of")
    else:
        assert fault.cause is None and fault.tried


def test_numbers_that_are_lost_are_not_explained_by_a_formula_that_leaves_them_out(bench: Bench) -> None:
    """All but one element is right: a factor of one explains nothing."""

    def lose(model: Toy) -> None:
        def combine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            total = x + y
            total[0, 0, 0] = float("nan")
            return total

        model.combine = combine  # type: ignore[method-assign]

    (fault,) = bench.faults(bench.faulty(lose))
    assert fault.cause is None and "scale" in fault.tried


def test_a_narrow_port_is_diagnosed_as_well(bench: Bench) -> None:
    def swap(model: Toy) -> None:
        model.down.weight[:] = model.down.weight[[1, 0, *range(2, 8)]]

    (fault,) = bench.faults(bench.faulty(swap).bfloat16())
    assert fault.cause is not None
    assert fault.cause.words == "down.weight has its rows permuted: 2 of 8 stand elsewhere"


def test_a_diagnosis_leaves_the_model_as_it_was_and_repeats_itself(bench: Bench) -> None:
    model = bench.faulty(other_sum)
    model.up.weight.requires_grad_(False)
    model.train()
    before = state_of(model)
    one, other = bench.faults(model), bench.faults(model)
    assert one == other
    assert state_of(model) == before


def test_every_general_candidate_may_be_asked_of_every_tensor(bench: Bench) -> None:
    """None raises, and none proposes what is not to be proposed of a right tensor: nothing is explained."""
    for here in bench.sites(bench.right, [tap.name for tap in bench.taps]):
        for candidate in CANDIDATES:
            for hypothesis in candidate(here):
                assert hypothesis.cause.kind and hypothesis.cause.words
