"""Another activation function: gelu of another kind, relu, silu."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from porting.diagnose.hypothesis import Hypothesis
from porting.diagnose.site import Site
from porting.findings import Cause

# How many tensors are tried as what the original takes it of.
_NEAREST = 8
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu (tanh approximation, gelu_new)": lambda x: F.gelu(x, approximate="tanh"),
    "gelu (exact)": F.gelu,
    "gelu (quick, x * sigmoid(1.702 x))": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
    "the identity": lambda x: x,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "leaky relu (slope 0.2)": lambda x: F.leaky_relu(x, 0.2),
    "leaky relu (slope 0.01)": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "softplus": F.softplus,
    "squared relu": lambda x: F.relu(x).square(),
    "relu6": F.relu6,
    "mish": F.mish,
}


def another_activation(site: Site) -> Iterator[Hypothesis]:
    """Where one tensor goes in and one of its shape comes out, without parameters between."""
    if len(site.recorded.arguments) != 1 or site.recorded.parameters:
        return
    x = site.recorded.arguments[0].cpu().double()
    if x.numel() != site.port.numel():
        return
    x = x.reshape(site.port.shape)
    values = {name: function(x) for name, function in FUNCTIONS.items()}
    for wrong, right in site.told_apart(values):
        cause = Cause("activation", f"the port computes {wrong}, the original {right}")
        yield Hypothesis(cause, values[right], values[wrong])
    port = next((name for name, value in values.items() if site.is_port(value)), None)
    names = list(site.lab.by_name)
    before = set(names[: names.index(site.name)])  # what comes later may be the same tensor again
    others = ((name, tensor) for name, tensor in site.others() if name in before)
    for source, other in itertools.islice(others, _NEAREST if port else 0):
        mended = FUNCTIONS[port or ""](other)
        words = f"the port computes {port} of another tensor, the original of {source}"
        yield Hypothesis(Cause("source", words, source), mended, values[port or ""])
