from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from porting.analysis.explain import explain
from porting.capture import capture
from porting.findings import Findings
from porting.ports.t5 import PORT
from porting.ports.t5.config import T5Config
from porting.ports.t5.model import T5Model
from tests.faulty import Bench, randomise
from tests.ports.t5.candidates.conftest import CONFIG, bench_of


@pytest.fixture(scope="module")
def t5() -> Bench:
    return bench_of(CONFIG)


def findings(t5: Bench, config: T5Config, change: Callable[[Any], None] = lambda _m: None) -> Findings:
    """Of a model of that config with the right model's weights."""
    model = T5Model(config).eval()
    randomise(model)
    own = model.state_dict()
    fitting = {k: v for k, v in t5.right.state_dict().items() if own[k].shape == v.shape}
    model.load_state_dict(fitting, strict=False)
    change(model)
    reference = replace(
        t5.reference, metadata={**t5.reference.metadata, "config": PORT.config_to_json(CONFIG)}
    )
    free = capture(model, t5.inputs, PORT.taps(config), PORT.run)
    return explain(model, PORT, config, reference, free).findings


def test_a_field_of_the_config_that_makes_the_fault_is_named(t5: Bench) -> None:
    found = findings(t5, replace(CONFIG, layer_norm_epsilon=1e-2))
    causes = {fault.cause.words for fault in found.faults if fault.cause}
    assert causes == {"in the port's config layer_norm_epsilon is 0.01; the original has 1e-06"}
    assert len(found.faults) == 1


def test_a_field_that_makes_no_config_alone_is_passed_over(t5: Bench) -> None:
    """Eight buckets need a distance above four: taken alone from the original, they are refused."""
    other = {"relative_attention_num_buckets": 4, "relative_attention_max_distance": 3}
    found = findings(t5, replace(CONFIG, **other, layer_norm_epsilon=1e-2))
    named = {fault.name: fault.cause for fault in found.faults}
    norm = named["encoder.block.0.layer.0.layer_norm"]
    assert norm is not None and "config" in {fault.cause.kind for fault in found.faults if fault.cause}
    bias = "encoder.block.0.layer.0.SelfAttention.position_bias"
    assert bias in named and (named[bias] is None or named[bias].subject != "layer_norm_epsilon")


def test_a_right_port_is_within_noise(t5: Bench) -> None:
    found = findings(t5, CONFIG)
    assert found.within_noise and found.notes == () and found.remainder is None
