from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from porting.trace import Trace
from porting.workbench import _config_of, _stored_unit
from tests.traces import T, TraceMaker


@pytest.mark.parametrize(
    ("stored", "original", "unit"),
    [
        (["bfloat16"], ["float32"], 2.0**-7),
        (["float16"], ["float32", "int64"], 2.0**-10),
        (["bfloat16", "float32"], ["float32"], 2.0**-7),
        (["float32"], ["float32"], None),
        (["float32"], ["bfloat16"], None),
        (["bfloat16"], ["bfloat16", "float32"], None),
        (["bfloat16"], [], None),
        ([], ["float32"], None),
        (["bfloat16"], ["int64"], None),
    ],
)
def test_weights_stored_narrower_than_the_checkpoint_allow_more(
    traces: TraceMaker, stored: list[str], original: list[str], unit: float | None
) -> None:
    trace: Trace = replace(traces([T("a", 1.0)]), metadata={"checkpoint": {"dtypes": original}})
    assert _stored_unit({"dtypes": stored}, trace) == unit


def test_a_live_module_has_no_stored_weights(traces: TraceMaker) -> None:
    facts: dict[str, Any] = {"class": "T5Model"}
    trace = replace(traces([T("a", 1.0)]), metadata={"checkpoint": {"dtypes": ["float32"]}})
    assert _stored_unit(facts, trace) is None
    assert _stored_unit({"dtypes": ["bfloat16"]}, traces([T("a", 1.0)])) is None


@dataclass(frozen=True)
class PlainConfig:
    """As a port's: its JSON is the port's business."""

    epsilon: float


def test_the_models_own_config_counts_though_it_cannot_say_itself_in_json(traces: TraceMaker) -> None:
    trace = replace(traces([T("a", 1.0)]), metadata={"config": {"epsilon": 1e-12}})
    port: Any = SimpleNamespace(config_from_json=lambda content: PlainConfig(**content))
    with_config, without = SimpleNamespace(config=PlainConfig(1e-5)), SimpleNamespace()
    assert _config_of(port, with_config, trace) == PlainConfig(1e-5)
    assert _config_of(port, without, trace) == PlainConfig(1e-12)
