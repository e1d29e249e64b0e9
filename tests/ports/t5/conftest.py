from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from porting.ports.t5.config import T5Config
from porting.ports.t5.model import T5Model

MakeModel = Callable[[T5Config], T5Model]


@pytest.fixture
def make_model() -> MakeModel:
    """A T5 in eval mode whose every parameter is random, norm scales and position biases included."""

    def make(config: T5Config, seed: int = 0) -> T5Model:
        generator = torch.Generator().manual_seed(seed)
        model = T5Model(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                noise = 0.4 * torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise + 1.0 if parameter.ndim == 1 else noise)
        return model

    return make
