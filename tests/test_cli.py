from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from porting import __version__
from porting.cli import (
    compare_outputs_command,
    compare_reports_command,
    convert_checkpoint_command,
    suggest_rules_command,
)
from porting.compare import Comparison
from porting.findings import Fault, Findings
from tests.conftest import RunPython
from tests.traces import T, TraceMaker

COMMANDS = {
    "convert-checkpoint": convert_checkpoint_command,
    "compare-outputs": compare_outputs_command,
    "compare-reports": compare_reports_command,
    "suggest-rules": suggest_rules_command,
}
Invoke = Callable[..., Result]

HELP = """
import sys
from porting.cli import {function}
try:
    {function}.main(["--help"], prog_name="{name}")
finally:
    heavy = {{"tensorflow", "torch", "mesh_tensorflow", "transformers", "numpy"}} & set(sys.modules)
    print("imported:", sorted(heavy), file=sys.stderr)
"""


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run a command by its name, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> Result:
        return CliRunner().invoke(COMMANDS[name], list(arguments))

    return run


@pytest.fixture(params=COMMANDS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_has_examples_and_exit_codes(name: str, flag: str, invoke: Invoke) -> None:
    result = invoke(name, flag)
    assert result.exit_code == 0
    assert f"Examples:\n    {name} " in result.stdout
    assert "Exit codes: 0" in result.stdout
    for option in ("--format", "--debug", "--version", "human|json|quiet"):
        assert option in result.stdout


def test_help_imports_no_framework(name: str, run_python: RunPython) -> None:
    function = COMMANDS[name].callback.__name__
    result = run_python("-c", HELP.format(function=function, name=name))
    assert result.returncode == 0, result.stderr
    assert "Examples:" in result.stdout
    assert "imported: []" in result.stderr


def test_importing_the_package_imports_no_framework(run_python: RunPython) -> None:
    code = (
        "import sys, porting; dir(porting); print([m for m in ('tensorflow', 'torch') if m in sys.modules])"
    )
    result = run_python("-c", code)
    assert result.stdout.strip() == "[]", result.stderr


def test_version(name: str, invoke: Invoke) -> None:
    result = invoke(name, "--version")
    assert (result.exit_code, result.stdout) == (0, f"porting, version {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["a", "b", "--nonsense"], "--nonsense"),
        (["a"], "argument"),
        ([], "argument"),
        (["a", "b", "c"], "c"),
        (["a", "b", "--format", "xml"], "xml"),
    ],
)
def test_wrong_usage_exits_2(name: str, invoke: Invoke, arguments: list[str], named: str) -> None:
    result = invoke(name, *arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("command", "arguments", "named"),
    [
        ("convert-checkpoint", ["--dtype", "int8"], "int8"),
        ("convert-checkpoint", ["--max-shard-size", "many"], "5GB, 300MB or 2GiB, not 'many'"),
        ("convert-checkpoint", ["--max-shard-size", "0GB"], "'0GB'"),
        ("compare-outputs", ["--atol", "low"], "low"),
        ("compare-outputs", ["--atol", "-1"], "at least 0, not -1"),
        ("compare-outputs", ["--atol", "nan"], "at least 0, not nan"),
        ("compare-outputs", ["--atol", "inf"], "not inf"),
        ("compare-outputs", ["--seed", "x"], "x"),
        ("compare-outputs", ["--inputs", "a.npz", "--random", "2x3"], "not both"),
        ("compare-outputs", ["--inputs", "nowhere.npz"], "nowhere.npz"),
        ("compare-outputs", ["--reference-trace", "nowhere"], "nowhere is not a trace"),
    ],
)
def test_an_unusable_option_exits_2_and_is_shown(
    invoke: Invoke, command: str, arguments: list[str], named: str
) -> None:
    result = invoke(command, "source", "target", *arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert "Traceback" not in result.output


SOURCES = {
    "convert-checkpoint": ["nowhere/model.ckpt-1", "out"],
    "compare-outputs": ["nowhere/model.ckpt-1", "nowhere/model"],
    "compare-reports": ["nowhere/model.json", "nowhere/model.json"],
    "suggest-rules": ["nowhere/model.ckpt-1", "t5"],
}
# What each command calls to do its work.
CALLED = (
    "porting.convert.convert_checkpoint",
    "porting.workbench.compare_outputs",
    "porting.report.reports_beside.compare_reports",
    "porting.suggest.suggest.suggest_rules",
)


def test_a_missing_source_is_one_message_and_no_traceback(name: str, invoke: Invoke, tmp_path: Path) -> None:
    result = invoke(name, *SOURCES[name])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("Error") == 1
    assert "nowhere/model" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_debug_shows_the_traceback(name: str, invoke: Invoke) -> None:
    result = invoke(name, *SOURCES[name], "--debug")
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert "Error: " in result.stderr


def test_an_error_in_json_is_one_object(name: str, invoke: Invoke) -> None:
    result = invoke(name, *SOURCES[name], "--format", "json")
    assert result.exit_code == 2
    content = json.loads(result.stdout)
    assert (content["schema_version"], content["status"]) == (1, "error")
    assert set(content["error"]) == {"kind", "message", "problems", "remedy"}
    assert "nowhere/model" in content["error"]["message"]


def test_quiet_still_says_what_went_wrong(name: str, invoke: Invoke) -> None:
    result = invoke(name, *SOURCES[name], "--format", "quiet")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")


def test_a_bug_is_no_verdict(name: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("surprise")

    for function in CALLED:
        monkeypatch.setattr(function, fail)
    result = invoke(name, "source", "target")
    assert result.exit_code == 3
    assert "bug in porting: ZeroDivisionError: surprise" in result.stderr
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_interrupt_is_no_traceback(name: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for function in CALLED:
        monkeypatch.setattr(function, interrupt)
    result = invoke(name, "source", "target")
    assert result.exit_code == 130
    assert "Interrupted" in result.stderr


def test_a_plan_of_a_real_checkpoint_needs_no_weights(
    mtf_tiny_t5: Path, invoke: Invoke, tmp_path: Path
) -> None:
    result = invoke("convert-checkpoint", str(mtf_tiny_t5), "out", "--dry-run")
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    at = lines.index(["4", "decoder/block_{i:000,001}/layer_002/DenseReluDense/wi_{j:0,1}/kernel", "32x64"])
    parameter = "-> decoder.block.{i:0,1}.layer.2.DenseReluDense.wi_{j:0,1}.weight 64x32 transpose"
    assert lines[at + 1] == parameter.split()
    assert "Would write 52 tensors" in result.stdout
    assert "52 optimizer state, " in " ".join(result.stdout.split())
    assert "1 global step, 8 B" in " ".join(result.stdout.split())
    assert "To read: 52 variables, 4.4 MB. To write: 52 parameters, 4.4 MB." in result.stdout
    assert list(tmp_path.iterdir()) == []

    content = json.loads(
        invoke("convert-checkpoint", str(mtf_tiny_t5), "out", "--dry-run", "--format", "json").stdout
    )
    assert content["status"] == "planned"
    assert content["ignored"] == {"optimizer state": 52, "global step": 1}
    assert len(content["plan"]) == 52
    assert content["config"]["dtype"] == "bfloat16"
    assert content["bytes"] == 2 * 2179584


def test_missing_weights_are_named_and_nothing_is_written(
    mtf_tiny_t5: Path, invoke: Invoke, tmp_path: Path
) -> None:
    result = invoke("convert-checkpoint", str(mtf_tiny_t5), "out")
    assert result.exit_code == 2
    assert "model.ckpt-0.data-00001-of-00002" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_output_that_nobody_reads_is_no_error(tmp_path: Path) -> None:
    """`convert-checkpoint --help | head -1`, with a reader that is gone at once."""
    code = (
        "import sys, os\n"
        "from porting.cli.common import reporting_errors\n"
        "from porting.output import Output\n"
        "output = Output('human')\n"
        "with reporting_errors(output, False):\n"
        "    output.result({}, ['x' * 100] * 10000)\n"
    )
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, check=False, cwd=tmp_path
    )
    os.close(write)
    assert result.returncode == 141
    assert result.stderr == b""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--max-new-tokens", "5"], "max_new_tokens: expected a method"),
        (["--generate", "greedy", "--num-beams", "4"], "num_beams: expected none with greedy"),
        (["--generate", "beam", "--max-new-tokens", "0"], "max_new_tokens: expected at least 1"),
        (["--generate", "sample"], "'sample' is not one of 'greedy', 'beam'"),
    ],
)
def test_options_of_generation_are_checked_before_anything_is_read(
    options: list[str], expected: str, invoke: Invoke
) -> None:
    result = invoke("compare-outputs", "absent", "absent", *options)
    assert result.exit_code == 2
    assert expected in " ".join(result.output.split())


class Asked(dict):
    """What `compare_outputs` was called with; it gives back what was prepared."""

    comparison: Comparison


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, traces: TraceMaker) -> Asked:
    asked = Asked()
    asked.comparison = traces.compare([T("a", 1.0)], [T("a", 1.0)])

    def compare(*_: object, **options: object) -> Comparison:
        asked.update(options)
        return asked.comparison

    monkeypatch.setattr("porting.workbench.compare_outputs", compare)
    return asked


def test_options_of_the_analysis_are_handed_on(invoke: Invoke, asked: Asked) -> None:
    assert invoke("compare-outputs", "source", "model").exit_code == 0
    assert (asked["analyse"], asked["noise_times"], asked["checkpoint"]) == (True, None, None)
    assert invoke("compare-outputs", "a", "b", "--no-analyse", "--noise-times", "12.5").exit_code == 0
    assert (asked["analyse"], asked["noise_times"]) == (False, 12.5)
    result = invoke("compare-outputs", "a", "b", "--noise-times", "many")
    assert result.exit_code == 2 and "many" in result.stderr


def test_strict_fails_where_rounding_does_not_explain_a_match(invoke: Invoke, asked: Asked) -> None:
    assert invoke("compare-outputs", "a", "b", "--strict").exit_code == 0
    found = Findings({}, (Fault("a", "tf/a", 1e-6, 99.0),), 32.0, 1e-7)
    asked.comparison = asked.comparison.with_findings(found)
    assert invoke("compare-outputs", "a", "b").exit_code == 0
    result = invoke("compare-outputs", "a", "b", "--strict")
    assert result.exit_code == 1
    assert "Fault 1 of 1: a: unexplained" in result.stdout
    asked.comparison = asked.comparison.with_findings(found, ("it changes when it is heard",))
    assert invoke("compare-outputs", "a", "b", "--strict").exit_code == 3


def test_a_source_that_cannot_be_read_beside_a_trace_is_a_hint(
    invoke: Invoke, asked: Asked, traces: TraceMaker
) -> None:
    trace = str(traces([T("a", 1.0)]).path)
    result = invoke("compare-outputs", "nowhere/model.ckpt-1", "b", "--reference-trace", trace)
    assert result.exit_code == 0
    assert "Weights are not checked against the checkpoint: " in result.stderr
    assert "nowhere" in result.stderr and "Weights are not" not in result.stdout
    assert asked["checkpoint"] is None
    result = invoke("compare-outputs", "nowhere", "b", "--reference-trace", trace, "--no-analyse")
    assert result.exit_code == 0 and "Weights are not checked" not in result.stderr
