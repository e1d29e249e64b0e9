"""What a candidate proposes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from porting.findings import Cause

Value = torch.Tensor | Callable[[], torch.Tensor | None]


@dataclass(frozen=True)
class Hypothesis:
    """A cause and the values that prove it. Tensors have the tap's dims, each axis on its own.

    Attributes:
        cause: what is proposed.
        mended: what the tap would be without the fault; must agree with the original's.
        faulty: what it is with the fault, where that is computed apart from the port; must agree with the
            port's. None where `mended` is the port itself with one change.
    """

    cause: Cause
    mended: Value
    faulty: Value | None = None
