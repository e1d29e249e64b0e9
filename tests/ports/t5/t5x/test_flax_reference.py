"""FlaxT5 of transformers 4 beside T5X's recorded run and beside the port, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import venv
from pathlib import Path

import numpy as np
import pytest

from porting import compare_outputs, convert_checkpoint
from porting.compare import compare_traces
from porting.errors import ReferenceRunError
from porting.port import port_named
from porting.ports.t5.t5x.flax_taps import flax_parameters, flax_taps
from porting.ports.t5.taps import taps
from porting.references.process import REFERENCE_PYTHON, ReferenceProcess
from porting.references.recorded import read_recording
from porting.trace import TraceWriter, read_trace
from tests.recordings import CONFIG, T5, needs_recordings

REPOSITORY = Path(__file__).parents[4]
REQUIREMENTS = REPOSITORY / "requirements-flax-t5.txt"
ATOL = 1e-4


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of an environment with FlaxT5: PORTING_REFERENCE_PYTHON, or one that is made now."""
    if given := os.environ.get(REFERENCE_PYTHON):
        return given
    folder = tmp_path_factory.mktemp("flax-t5")
    venv.create(folder, with_pip=True)
    made = folder / "bin" / "python"
    subprocess.run([made, "-m", "pip", "install", "-q", "-r", REQUIREMENTS], check=True)
    return str(made)


@pytest.mark.slow
@needs_recordings
def test_flax_t5_computes_what_t5x_recorded(python: str, tmp_path: Path) -> None:
    recorded = read_recording(T5, port_named("t5"), CONFIG)
    TraceWriter(tmp_path / "inputs", recorded.inputs).close({})
    request = {"checkpoint": str(T5), "config": CONFIG.to_json(), "metadata": {"port": "t5"}}
    with ReferenceProcess("tests.ports.t5.t5x.flax_of_recording:run", REPOSITORY, python) as process:
        process.call({**request, "inputs": str(tmp_path / "inputs"), "trace": str(tmp_path / "live")})
    comparison = compare_traces(recorded, read_trace(tmp_path / "live"), ATOL)
    assert comparison.first_divergence is None
    assert comparison.worst is not None
    assert comparison.worst.max_abs_diff < 1e-5
    # Later layers get their relative positions with the mask in them.
    assert {name.rpartition(".")[2] for name in comparison.unmatched_reference} == {"position_bias"}
    assert len(comparison.tensors) == 74


@pytest.mark.slow
@needs_recordings
def test_the_port_matches_flax_t5_on_other_inputs_gradients_too(python: str, tmp_path: Path) -> None:
    source = T5.parent / "checkpoint_0"
    convert_checkpoint(source, tmp_path / "model")
    inputs = {"inputs": [[5, 9, 33, 1, 0], [7, 1, 0, 0, 0]], "targets": [[8, 4, 1], [3, 0, 0]]}
    comparison = compare_outputs(
        source, tmp_path / "model", inputs, atol=ATOL, backward=True, reference_python=python
    )
    assert comparison.status == "match", comparison.first_divergence
    assert not comparison.faults
    facts = comparison.provenance["reference"]
    assert facts["implementation"] == "FlaxT5 of transformers"
    assert facts["versions"]["transformers"].startswith("4.57")
    assert {"mask_padding", "scores", "act"} < {name.rpartition(".")[2] for name in comparison.unheard}
    assert comparison.backward is not None
    assert len(comparison.backward.parameters) == len(flax_parameters(CONFIG, arrays_of(T5)))


def arrays_of(recording: Path) -> dict[str, np.ndarray]:
    with np.load(recording) as held:
        return {name.removeprefix("param:"): held[name] for name in held.files if name.startswith("param:")}


@needs_recordings
def test_every_variable_has_its_place_in_flax_t5() -> None:
    arrays = arrays_of(T5)
    mapped = flax_parameters(CONFIG, arrays)
    assert len(mapped) == len(arrays)
    assert sorted(array.size for array in mapped.values()) == sorted(array.size for array in arrays.values())
    with pytest.raises(KeyError):
        flax_parameters(CONFIG, {name: a for name, a in arrays.items() if "wo" not in name})


def test_flax_t5s_taps_are_the_ports() -> None:
    ports = {tap.name: tap for tap in taps(CONFIG)}
    tapped = flax_taps(CONFIG)
    assert len({tap.name for tap in tapped}) == len(tapped)
    for tap in tapped:
        names = tap.dims.replace("1 ", "").replace("(", "").replace(")", "").split()
        assert sorted(names) == sorted(ports[tap.name].dimension_names), tap.name
        assert all({*dims.split()} <= {*names} for _, dims in tap.where), tap.name
    missing = {name.rpartition(".")[2] for name in ports.keys() - {tap.name for tap in tapped}}
    assert missing == {"mask_padding", "scores", "act", "position_bias", "loss"}


def test_a_python_that_is_not_there_is_said() -> None:
    with (
        ReferenceProcess("json:loads", python="/nowhere/bin/python") as process,
        pytest.raises(ReferenceRunError, match="/nowhere/bin/python cannot be started") as error,
    ):
        process.call({})
    assert REFERENCE_PYTHON in error.value.remedy


def test_the_environment_says_which_python_runs_the_original(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(REFERENCE_PYTHON, str(tmp_path / "python"))
    with (
        ReferenceProcess("json:loads") as process,
        pytest.raises(ReferenceRunError, match="cannot be started"),
    ):
        process.call({})
