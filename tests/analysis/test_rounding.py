from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from porting.analysis.rounding import rounding_noise

IDS = torch.tensor([[3, 1, 4], [1, 5, 2]])


class Toy(nn.Module):
    """Logits [b, l, 9]; goes through float32 on its way, as T5's norm does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.output = nn.Embedding(6, 64), nn.Linear(64, 9)
        self.register_buffer("shift", torch.randn(64))
        self.seen: list[torch.dtype] = []

    def forward(self, ids: Tensor) -> Tensor:
        hidden = (self.embedding(ids).float() + self.shift.float()).to(torch.float32)
        self.seen.append(hidden.dtype)
        assert (ids.float() / 3).dtype == torch.float32  # what is made of ids is not rounded otherwise
        return self.output(hidden.tanh().to(self.output.weight.dtype))


@pytest.fixture
def toy() -> Toy:
    return Toy()


def test_the_noise_is_that_of_the_type(toy: Toy) -> None:
    own, noise = rounding_noise(toy, lambda module: module(IDS))
    assert own.dtype == noise.dtype == torch.float64
    assert own.shape == (2, 3, 9) and noise.shape == (2, 3)
    torch.testing.assert_close(own, toy(IDS).detach().double(), rtol=0, atol=0)
    assert float(noise.min()) > 1e-9 and float(noise.max()) < 1e-5
    _, coarse = rounding_noise(toy.bfloat16(), lambda module: module(IDS))
    assert float(coarse.max()) > 1e-3


def test_float64_is_kept_where_the_module_asks_for_float32(toy: Toy) -> None:
    rounding_noise(toy, lambda module: module(IDS))
    assert toy.seen.count(torch.float64) == 1


def test_the_module_is_the_same_afterwards(toy: Toy) -> None:
    toy.output.weight = nn.Parameter(toy.output.weight.detach())
    toy.alias = toy.embedding.weight  # tied parameters stay tied
    before = {name: tensor.clone() for name, tensor in toy.state_dict().items()}

    def fail(module: nn.Module) -> Tensor:
        if next(module.parameters()).dtype == torch.float64:
            raise RuntimeError("in float64")
        return module(IDS)

    rounding_noise(toy, lambda module: module(IDS))
    with pytest.raises(RuntimeError, match="in float64"):
        rounding_noise(toy, fail)
    for name, tensor in toy.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, before[name])
    assert toy.alias is toy.embedding.weight
    assert not any(module._forward_hooks for module in toy.modules())
    assert toy(IDS).requires_grad


def test_moved_embeddings_count_too() -> None:
    """Whatever float64 changes, a value that hangs on the last place of an embedding is noise."""

    def magnified(module: nn.Module) -> Tensor:
        embedded = module.embedding(IDS)
        return (embedded - embedded.detach().double().round(decimals=6).to(embedded.dtype)) * 1e4

    exact = nn.ModuleDict({"embedding": nn.Embedding.from_pretrained(torch.ones(6, 4))})
    own, noise = rounding_noise(exact, magnified)
    assert float(own.abs().max()) == 0 and float(noise.min()) > 1e-4


def test_what_float64_changes_counts_without_embeddings() -> None:
    torch.manual_seed(0)
    _, noise = rounding_noise(
        nn.Linear(64, 9), lambda module: module(torch.ones(2, 64, dtype=module.weight.dtype))
    )
    assert float(noise.min()) > 1e-9
