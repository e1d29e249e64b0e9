"""The plugin with a real original: it runs once, over processes and over runs, and a wrong port shows why."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from porting import convert_checkpoint
from tests.integration.conftest import V1_1, MakeCheckpoint

pytest_plugins = ["pytester"]

TESTS = """
    import porting.workbench
    from pathlib import Path
    from porting.testing import assert_port_matches

    CHECKPOINT, FOLDER = {checkpoint!r}, Path({folder!r})
    IDS = {{"inputs": [[5, 6, 1], [8, 1, 0]], "targets": [[7, 1], [1, 0]]}}

    def counted(run=porting.workbench.run_reference):
        def counting(*arguments, **options):
            with (FOLDER / "runs").open("a") as log:
                log.write("run\\n")
            return run(*arguments, **options)
        return counting

    porting.workbench.run_reference = counted()

    def test_the_fixture(reference_trace):
        assert_port_matches(reference_trace(CHECKPOINT, IDS), FOLDER / "right", strict=True)

    def test_a_checkpoint_as_it_is():
        assert_port_matches(CHECKPOINT, FOLDER / "right", IDS, analyse=False)

    def test_a_wrong_port():
        assert_port_matches(CHECKPOINT, FOLDER / "wrong", IDS)
"""


def test_the_original_runs_once_and_a_wrong_port_shows_why(
    make_checkpoint: MakeCheckpoint, pytester: pytest.Pytester, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(files=V1_1)
    for name in ("right", "wrong"):
        convert_checkpoint(checkpoint, tmp_path / name)
    state = load_file(tmp_path / "wrong" / "model.safetensors")
    state["encoder.block.1.layer.0.SelfAttention.q.weight"] *= 2
    save_file(state, tmp_path / "wrong" / "model.safetensors", metadata={"format": "pt"})
    pytester.makepyfile(TESTS.format(checkpoint=str(checkpoint), folder=str(tmp_path)))
    screen = [
        "E *DIVERGED: * of * tensors differ by more than 0.001; 1 is wrong by itself.",
        "E *First divergence: encoder.block.1.layer.0.SelfAttention.q (original: *)",
        "E *Cause: * (verified)",
    ]
    result = pytester.runpytest_subprocess("-n", "2")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(screen)
    pytester.runpytest_subprocess("-k", "as_it_is").assert_outcomes(passed=1, deselected=2)
    assert (tmp_path / "runs").read_text() == "run\n"
