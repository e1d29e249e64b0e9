"""How far rounding alone moves what a module computes: a noise floor for decisions that hang on a hair.

Two probes: the same module in float64, and the same module with what its embeddings give moved by one unit
in the last place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_NUDGES = 2
_INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)


def rounding_noise(module: nn.Module, run: Callable[[nn.Module], Tensor]) -> tuple[Tensor, Tensor]:
    """What a module computes, and the largest change over the last axis that rounding explains.

    Args:
        module: in whatever type it computes; it is the same afterwards, to the bit.
        run: calls the module and returns a tensor [..., n], such as logits.

    Returns:
        `run(module)` as float64 [..., n], and the noise, float64 [...]: what the step to float64 changes,
        plus what moving every embedded value to one of its neighbouring floating-point numbers changes.
    """
    with torch.no_grad():
        own = run(module).double()
        with in_float64(module):
            noise = (run(module).double() - own).abs().amax(-1)
        moved = torch.zeros_like(noise)
        for seed in range(_NUDGES):
            with _nudged_embeddings(module, seed):
                moved = torch.maximum(moved, (run(module).double() - own).abs().amax(-1))
    return own, noise + moved


@contextmanager
def in_float64(module: nn.Module) -> Iterator[None]:
    """The module computes in float64 while the block runs, where it asks for float32 too.

    In place, not in a copy: a module under development may refer to itself in ways that copying breaks.
    """
    tensors = [t for t in chain(module.parameters(), module.buffers()) if t.is_floating_point()]
    kept = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.double()
        with _Float64Mode():
            yield
    finally:
        for tensor, data in zip(tensors, kept, strict=True):
            tensor.data = data


class _Float64Mode(TorchFunctionMode):
    """What becomes float32 where that is asked, `x.float()` or `x.to(torch.float32)`, becomes float64.

    All but integers: relative positions whose logarithms were rounded otherwise would fall into other
    buckets, which is another model and not rounding.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        if args and isinstance(args[0], Tensor) and args[0].dtype not in _INTEGERS:
            if func is Tensor.float:
                return args[0].double()
            args = tuple(torch.float64 if arg is torch.float32 else arg for arg in args)
            kwargs = {k: torch.float64 if v is torch.float32 else v for k, v in kwargs.items()}
        return func(*args, **kwargs)


@contextmanager
def _nudged_embeddings(module: nn.Module, seed: int) -> Iterator[None]:
    """Every value that an embedding gives is moved up or down by one unit in the last place."""
    generator = torch.Generator().manual_seed(seed)

    def nudge(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        up = torch.rand(output.shape, generator=generator).to(output.device) < 0.5
        towards = torch.where(up, torch.inf, -torch.inf).to(output.dtype)
        return torch.nextafter(output, towards)

    with ExitStack() as hooks:
        for part in module.modules():
            if isinstance(part, nn.Embedding):
                hooks.callback(part.register_forward_hook(nudge).remove)
        yield
