from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from porting.findings import Cause
from porting.inputs import Inputs
from porting.ports.t5 import PORT
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.config import T5Config
from porting.ports.t5.model import T5Model
from tests.faulty import Bench, randomise
from tests.ports.t5.family import LEARNED

CONFIG = T5Config(
    vocab_size=31,
    d_model=10,
    d_kv=4,
    d_ff=14,
    num_layers=1,
    num_decoder_layers=1,
    num_heads=3,
    relative_attention_num_buckets=8,
    relative_attention_max_distance=16,
)
# Two packed examples in the last row; no padding in the first row's inputs for that of its targets to see.
INPUTS = Inputs.from_arrays(
    {
        "inputs": [[5, 6, 7, 1, 4, 9, 3, 2, 1], [8, 1, 3, 2, 1, 0, 0, 0, 0], [10, 9, 8, 1, 7, 1, 0, 0, 0]],
        "targets": [[9, 4, 11, 12, 1, 0], [3, 7, 1, 0, 0, 0], [2, 1, 2, 8, 1, 0]],
        "sequence_ids": [[1] * 9, [1] * 5 + [0] * 4, [1] * 4 + [2] * 2 + [0] * 3],
        "decoder_sequence_ids": [[1] * 5 + [0], [1] * 3 + [0] * 3, [1] * 2 + [2] * 3 + [0]],
    }
)


def bench_of(config: T5Config | Architecture, inputs: Inputs = INPUTS) -> Bench:
    """A model of random parameters; its own trace stands for the original's, hidden rows included."""
    model = T5Model(config).eval()
    randomise(model)
    return Bench(model, PORT.taps(config), PORT.run, inputs, PORT.candidates(), wide=False)


@pytest.fixture(scope="package")
def t5() -> Bench:
    return bench_of(CONFIG)


@pytest.fixture(scope="package")
def learned() -> Bench:
    """Absolute positions, learned, in one block."""
    stacks = {
        name: replace(getattr(LEARNED, name), num_blocks=1, max_length=20) for name in ("encoder", "decoder")
    }
    return bench_of(replace(LEARNED, **stacks))


def cause_at(bench: Bench, change: Callable[[Any], None], name: str) -> Cause:
    """Why a tap is wrong."""
    fault = bench.explained(change, name)
    assert fault.cause is not None, fault.tried
    return fault.cause
