"""Relative-position buckets are the original's to the last edge, for any number of buckets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from porting.ports.t5.relative_positions import relative_position_bucket
from porting.references.process import run_in_process

REPOSITORY = Path(__file__).parents[2]
REACH = 4000
CASES = [
    (count, both) for count in (4, 7, 8, 16, 20, 31, 32, 33, 64, 100, 128, 254) for both in (True, False)
]


def test_buckets_are_the_originals(tmp_path: Path) -> None:
    output = tmp_path / "buckets.npy"
    run_in_process(
        "tests.integration.mesh_buckets:run",
        {"reach": REACH, "cases": CASES, "output": str(output)},
        cwd=REPOSITORY,
    )
    for (count, bidirectional), expected in zip(CASES, np.load(output), strict=True):
        buckets = relative_position_bucket(
            torch.arange(-REACH, REACH + 1),
            bidirectional=bidirectional,
            num_buckets=count,
            max_distance=128,
        )
        assert np.array_equal(buckets.numpy(), expected), (count, bidirectional)
