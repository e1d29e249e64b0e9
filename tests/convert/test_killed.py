"""A conversion that is killed, at every point where it does something to the disk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.convert.test_stream import bundle
from tests.ports.t5.mesh_variables import SMALL, mesh_shapes

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("old", [False, True], ids=["fresh", "replacing"])
def test_a_kill_at_any_point_leaves_nothing_or_all_or_what_is_marked(tmp_path: Path, old: bool) -> None:
    generator = np.random.default_rng(0)
    bundle(
        tmp_path / "source",
        {n: generator.standard_normal(s).astype(np.float32) for n, s in mesh_shapes(SMALL).items()},
    )
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "tests.convert.killing", str(tmp_path / "source" / "m"), str(work)]
    command += [str(int(old)), "pytorch", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = json.loads(done.stdout)
    assert len(lines) > 100
    kinds = {line["what"].split()[-1] for line in lines}
    assert {"mkdir", "pwrite", "fsync", "unlink", "porting.json", "exchange" if old else "rename"} <= kinds
    for line in lines:
        # There is nothing, all of the old, or all of the new; beside it what is called unfinished.
        assert line["found"] in ("old", "new") if old else ("nothing", "new"), line
        assert line["strangers"] == [], line
        # The next run gives all of it, says how it began, and nothing is left beside it.
        assert (line["after"], line["left"]) == ("new", ["model"]), line
        assert (line["begun"] == "fresh") == (not line["unfinished"]), line
    begun = Counter(line["begun"] for line in lines)
    assert set(begun) == {"fresh", "continued", "restarted"}
    kept = [line["kept"] for line in lines if line["begun"] == "continued"]
    assert 0 < max(kept) == lines[0]["tensors"], "the last ones had everything in place"
    assert any(0 < count < lines[0]["tensors"] for count in kept)
