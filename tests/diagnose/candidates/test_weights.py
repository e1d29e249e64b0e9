from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.faulty import Bench, Toy


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


SWAPPED = [1, 0, 2, 3, 4, 5, 6, 7]


def swap_groups(model: Toy) -> None:
    """Twelve rows of three heads: the first two heads exchanged."""
    model.up.weight[:] = model.up.weight.reshape(3, 4, 8)[[1, 0, 2]].reshape(12, 8)


def interleave(model: Toy) -> None:
    model.up.weight[:] = model.up.weight.reshape(3, 4, 8).transpose(0, 1).reshape(12, 8)


CHANGES = {
    "is zero": lambda model: model.down.weight.zero_(),
    "is 2 times what the checkpoint holds": lambda model: model.down.weight.mul_(2),
    "is not what the checkpoint holds: 1 of 96 elements differ, by up to 0.5": (
        lambda model: model.down.weight.view(-1)[5].add_(0.5)
    ),
    "has its rows permuted: 2 of 8 stand elsewhere": (
        lambda model: model.down.weight.copy_(model.down.weight[SWAPPED].clone())
    ),
    "is transposed": (lambda model: model.down.weight.copy_(model.down.weight.T.reshape(8, 12).clone())),
}


@pytest.mark.parametrize("words", CHANGES)
def test_a_wrong_weight_is_described_by_the_checkpoint(bench: Bench, words: str) -> None:
    cause = bench.cause(CHANGES[words], "down")
    assert (cause.kind, cause.subject) == ("weight", "down.weight")
    assert cause.words == f"down.weight {words}"


def test_heads_are_seen_in_rows(bench: Bench) -> None:
    assert "permuted in groups of 4: [1, 0, 2]" in bench.cause(swap_groups, "up").words
    assert "interleaved" in bench.cause(interleave, "up").words


def test_another_parameters_numbers_are_recognised() -> None:
    class Two(Toy):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(12, 8, bias=False)

    right = Two()
    bench = Bench(right)
    cause = bench.cause(lambda model: model.down.weight.copy_(model.other.weight), "down")
    assert cause.words == "down.weight holds the weights of other.weight"


def test_all_that_differ_are_mended_at_once_where_one_is_not_enough(bench: Bench) -> None:
    def change(model: Toy) -> None:
        model.up.weight.mul_(1.5)
        model.up.bias.add_(1)

    cause = bench.cause(change, "up")
    assert cause.words == "up.weight and up.bias are not what the checkpoint holds"


def test_weights_that_were_stored_narrow_are_said_to_be(bench: Bench) -> None:
    cause = bench.cause(lambda model: model.down.weight.copy_(model.down.weight.bfloat16()), "down")
    assert "rounded to bfloat16" in cause.words


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.down.weight.copy_(model.down.weight.T.reshape(8, 12).clone()),
        interleave,
    ],
)
def test_without_a_checkpoint_rearrangements_are_tried(bench: Bench, change: object) -> None:
    (fault,) = bench.faults(bench.faulty(change), checkpoint=False)
    assert fault.cause is not None and fault.cause.kind in ("weight", "order")


def test_without_a_checkpoint_a_wrong_number_stays_unexplained(bench: Bench) -> None:
    (fault,) = bench.faults(
        bench.faulty(lambda model: model.down.weight.view(-1)[5].add_(0.5)), checkpoint=False
    )
    assert fault.cause is None and "weight" in fault.tried


def test_a_right_weight_used_otherwise_is_said_to_be_right() -> None:
    class Square(Toy):
        def __init__(self, turned: bool = False) -> None:
            super().__init__()
            self.down = nn.Linear(12, 8, bias=False)
            self.last = nn.Linear(8, 8, bias=False)
            if turned:
                self.last.forward = lambda x: x @ self.last.weight  # type: ignore[method-assign]
            with torch.no_grad():
                self.last.weight.copy_(torch.randn(8, 8, generator=torch.Generator().manual_seed(5)))
                self.down.weight.copy_(torch.randn(8, 12, generator=torch.Generator().manual_seed(6)))

        def combine(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return self.last(x + y)

    bench = Bench(Square())
    (fault,) = bench.faults(Square(turned=True))
    assert fault.name == "added" and fault.cause is not None
    assert fault.cause.words == "last.weight is right, and used as if it were transposed"
