"""What docs/suggestions.md shows is what the command says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from porting.cli import suggest_rules_command
from tests.conftest import REPOSITORY

PAGE = (REPOSITORY / "docs" / "suggestions.md").read_text()


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


def test_the_example_is_of_a_real_run(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if int(transformers.__version__.split(".")[0]) < 5:
        pytest.skip("transformers 4 does not tie what is not to be tied")
    factory = tmp_path / "hf_t5.py"
    factory.write_text(block("python"))
    demo = REPOSITORY / "demo" / "checkpoint"
    result = CliRunner().invoke(suggest_rules_command, [str(demo), f"{factory}:build"])
    assert result.exit_code == 0, result.stderr
    for line in block("text").splitlines():
        assert line in result.stdout.splitlines()
    assert "11 rules for 65 variables" in result.stderr
