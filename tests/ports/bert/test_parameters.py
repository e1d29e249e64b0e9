"""Parameters read off the config are those of the module that is built from it."""

from __future__ import annotations

import pytest
import torch

from porting.ports.bert.config import Config
from porting.ports.bert.model import build_model
from porting.ports.bert.parameters import parameter_shapes


@pytest.mark.parametrize("heads", [True, False])
def test_names_order_and_shapes_are_the_modules(heads: bool) -> None:
    config = Config(31, 12, 2, 3, 20, 17, 2, heads=heads)
    with torch.device("meta"):
        model = build_model(config)
    wanted = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    assert list(parameter_shapes(config).items()) == wanted
