"""docs/traces.md: the lines that it gives write a trace that compare-outputs takes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import porting.ports.t5.port as t5
from porting.capture import capture
from porting.cli import compare_outputs_command
from porting.convert.target import json_bytes
from porting.gradients.capture import capture_gradients
from porting.inputs import Inputs, random_inputs
from porting.model_dir import load_model
from porting.trace import Trace
from tests.ports.t5.mesh_variables import SMALL

PAGE = Path(__file__).parents[1] / "docs" / "traces.md"


def page_function() -> Any:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, Any] = {}
    exec(blocks[0], names)
    return names["write_trace"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random = np.random.default_rng(4)
    state = {
        name: 0.3 * random.standard_normal(parameter.shape, np.float32)
        for name, parameter in t5.build(SMALL).named_parameters()
    }
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_bytes(json_bytes(t5.PORT.config_to_json(SMALL)))
    return folder


@pytest.fixture(scope="module")
def inputs() -> Inputs:
    return random_inputs(SMALL.vocab_size, 2, 9, 1)


def rows(trace: Trace) -> list[tuple[str, str, str, np.ndarray]]:
    return [
        (tensor.name, f"my/{tensor.name}", " ".join(tensor.dims), np.array(values))
        for tensor, values in trace.items()
    ]


@pytest.fixture
def recorded(model_dir: Path, inputs: Inputs) -> list[tuple[str, str, str, np.ndarray]]:
    """What some program that is not this workbench has recorded of a run."""
    model = load_model(model_dir)
    return rows(capture(model, inputs, t5.taps(model.config), t5.run))


def compare(trace: Path, model_dir: Path, *options: str) -> tuple[int, dict[str, Any]]:
    arguments = [
        "nowhere",
        str(model_dir),
        "--reference-trace",
        str(trace),
        "--no-analyse",
        "--format",
        "json",
    ]
    result = CliRunner().invoke(
        compare_outputs_command, [*arguments, "--report-dir", str(trace / "reports"), *options]
    )
    assert result.exit_code in (0, 1, 3), result.output
    return result.exit_code, json.loads(result.stdout)


def test_a_trace_written_by_the_lines_of_the_page_is_compared(
    model_dir: Path, inputs: Inputs, recorded: Any, tmp_path: Path
) -> None:
    write_trace = page_function()
    write_trace(tmp_path / "same", inputs.arrays(), recorded, port="t5", implementation="some program")
    code, found = compare(tmp_path / "same", model_dir)
    assert (code, found["status"]) == (0, "match")
    assert len(found["tensors"]) == len(recorded)
    assert found["provenance"]["reference"]["implementation"] == "some program"

    name, _, dims, values = recorded[20]
    recorded[20] = (name, "my/odd", " ".join(reversed(dims.split())), (values + 0.5).T)
    write_trace(tmp_path / "other", inputs.arrays(), recorded)
    code, found = compare(tmp_path / "other", model_dir)
    assert (code, found["status"]) == (1, "diverged")
    assert found["first_divergence"]["name"] == name
    assert found["first_divergence"]["reference_name"] == "my/odd"
    assert found["first_divergence"]["max_abs_diff"] == pytest.approx(0.5, abs=1e-5)

    del recorded[20]
    write_trace(tmp_path / "less", inputs.arrays(), recorded)
    code, found = compare(tmp_path / "less", model_dir)
    assert (code, found["status"], found["unmatched"]["port"]) == (3, "incomplete", [name])


def test_gradients_are_written_by_the_same_lines(
    model_dir: Path, inputs: Inputs, recorded: Any, tmp_path: Path
) -> None:
    write_trace = page_function()
    model = load_model(model_dir)
    gradients = capture_gradients(model, inputs, t5.taps(model.config), t5.run)
    parameters = [name for name, _ in model.named_parameters()]
    write_trace(tmp_path, inputs.arrays(), recorded)
    write_trace(
        tmp_path / "gradients",
        inputs.arrays(),
        rows(gradients)[::-1],
        parameters=parameters,
        without_gradient=list(gradients.metadata["without_gradient"]),
    )
    code, found = compare(tmp_path, model_dir, "--backward")
    assert (code, found["backward"]["status"]) == (0, "match")


def test_the_page_says_ten_lines() -> None:
    block = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    body = block.split("metadata):\n")[1]
    assert len(body.splitlines()) == 10
