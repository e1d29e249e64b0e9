from __future__ import annotations

import pytest
import torch

from tests.faulty import Bench, Toy


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Toy())


def test_a_module_that_reads_another_tensor_is_said_to(bench: Bench) -> None:
    class Unnormed(Toy):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.embed(ids)
            self.norm(x)
            return self.added(self.combine(x, self.down(self.act(self.up(x)))))

    (fault,) = bench.faults(Unnormed())
    assert fault.name == "up" and fault.cause is not None
    assert (fault.cause.kind, fault.cause.subject) == ("source", "norm")
    assert fault.cause.words == "the port reads embed, the original norm"


def test_what_nothing_gives_when_read_is_not_a_source(bench: Bench) -> None:
    def change(model: Toy) -> None:
        right = model.down.forward
        model.down.forward = lambda x: right(x) ** 3  # type: ignore[method-assign]

    (fault,) = bench.faults(bench.faulty(change))
    assert fault.name == "down" and fault.cause is None
