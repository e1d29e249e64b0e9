"""Recorded runs: read name by name, of the weights that are compared, and refused what they do not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

import porting.port
from porting import compare_outputs, convert_checkpoint, run_reference
from porting.checkpoint import open_checkpoint
from porting.cli import compare_outputs_command
from porting.errors import InputError, PortingError
from porting.port import OriginalRun, Port
from porting.references.original_tap import OriginalTap
from porting.references.recorded import RecordedNames, find_recording, read_recording
from tests.references.small_port import PORT
from tests.references.small_torch import CLASSES, Model

IDS = np.array([[3, 1, 7, 0], [2, 10, 0, 0], [4, 5, 6, 8]], np.int32)
HERE = (("inputs", "batch length"),)
TAPS = [
    OriginalTap("net.table", "table/__call__:0", "batch length width", where=HERE),
    OriginalTap("net.block", "block/__call__:0", "batch length width", where=HERE),
    OriginalTap("net.block@1", "block/__call__:1", "batch length width", where=HERE),
    OriginalTap("net.out", "logits", "batch length classes", where=HERE),
]
RECORDED: Port = replace(
    PORT,
    recorded=lambda _config, _names: RecordedNames(
        TAPS,
        left_out={"__call__:0": "the same as logits"},
        unheard=["net.block@1:1", "loss"],
        masks=lambda inputs: {"inputs": inputs["inputs"] != 0},
        why_masked="padded positions",
        implementation="the recorded original",
    ),
    run_of=lambda _config, _names: OriginalRun(PORT.reference, uses_recording=True),
)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in a directory of its own, and its recorded run beside that directory."""
    monkeypatch.setattr(porting.port, "_load_ports", lambda: ({"small": RECORDED}, {}))
    torch.manual_seed(5)
    folder = tmp_path / "source" / "checkpoint_0"
    folder.mkdir(parents=True)
    model = Model().eval()
    save_file(model.state_dict(), folder / "model.safetensors")
    np.savez(folder.parent / "recorded.npz", **recorded(model))
    return folder


def recorded(model: Model) -> dict[str, np.ndarray]:
    """What the original computed; at padded positions something that no port does."""
    heard: dict[str, np.ndarray] = {}
    calls: dict[str, int] = {}

    def listen(name: str) -> Callable[..., None]:
        def hook(_module: object, _args: object, output: object) -> None:
            value = output[0] if isinstance(output, tuple) else output
            number = calls[name] = calls.get(name, -1) + 1
            heard[f"tensor:{name}/__call__:{number}"] = value.detach().numpy().copy()  # type: ignore[union-attr]

        return hook

    handles = [module.register_forward_hook(listen(n)) for n, module in model.named_children() if n != "out"]
    with torch.no_grad():
        logits = model(torch.from_numpy(IDS).long()).numpy().reshape(3, 4, CLASSES)
    for handle in handles:
        handle.remove()
    for array in (*heard.values(), logits):
        array[IDS == 0] = 1e6
    weights = {f"param:{name}": value.numpy() for name, value in model.state_dict().items()}
    return {"inputs": IDS, "targets": IDS, "logits": logits, "tensor:__call__:0": logits, **heard, **weights}


def again(source: Path, **changed: np.ndarray | None) -> Path:
    """The recording with other arrays; None takes one away."""
    path = source.parent / "recorded.npz"
    with np.load(path) as held:
        arrays = {**dict(held), **{name: value for name, value in changed.items() if value is not None}}
    np.savez(path, **{name: array for name, array in arrays.items() if changed.get(name, array) is not None})
    return path


def test_a_recorded_run_beside_a_checkpoint_stands_for_the_original(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "model")
    comparison = compare_outputs(source, tmp_path / "model")
    assert comparison.status == "match", comparison.first_divergence
    assert [row.name for row in comparison.tensors] == [tap.name for tap in TAPS]
    assert comparison.unheard == ("net.block@1:1", "loss")
    assert [(each.left_out, each.positions, each.why) for each in comparison.left_out] == [
        (3, 12, "padded positions")
    ]
    facts = comparison.provenance["reference"]
    assert facts["implementation"] == "the recorded original"
    assert facts["recorded"]["file"] == "recorded.npz"
    assert facts["recorded"]["not_compared"] == {"__call__:0": "the same as logits"}
    assert list(facts["checkpoint"]["sha256"]) == ["model.safetensors"]


def test_run_reference_gives_the_recorded_run(source: Path) -> None:
    trace = run_reference(source)
    np.testing.assert_array_equal(trace.inputs["inputs"], IDS)
    assert "recorded" in trace.metadata


def test_a_recorded_run_is_given_by_its_path_or_its_directory(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "model")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (source.parent / "recorded.npz").rename(moved / "recorded.npz")
    for given in (moved, moved / "recorded.npz", str(moved)):
        comparison = compare_outputs(given, tmp_path / "model", save_traces=tmp_path / "traces")
        assert comparison.status == "match"
        assert "checkpoint" not in comparison.provenance["reference"]
        of_checkpoint = compare_outputs(given, tmp_path / "model", checkpoint=source)
        assert "checkpoint" in of_checkpoint.provenance["reference"]
    kept = compare_outputs(tmp_path / "traces" / "reference", tmp_path / "model")
    assert kept.status == "match"
    assert kept.unheard == ("net.block@1:1", "loss")
    assert find_recording(tmp_path) is None


def test_a_fault_at_a_real_position_is_found(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "model")
    path = again(source)
    with np.load(path) as held:
        second = held["tensor:block/__call__:1"]
    second[1, 1, 2] += 0.5
    again(source, **{"tensor:block/__call__:1": second})
    comparison = compare_outputs(source, tmp_path / "model")
    assert comparison.status == "diverged"
    assert comparison.first_divergence is not None
    assert (comparison.first_divergence.name, comparison.first_divergence.index) == ("net.block@1", (1, 1, 2))


def test_a_name_that_the_port_does_not_know_is_an_error_that_lists_all(source: Path) -> None:
    again(source, **{"tensor:block/__call__:2": IDS * 1.0, "other": IDS * 1.0})
    with pytest.raises(InputError) as error:
        run_reference(source)
    assert [problem.key for problem in error.value.problems] == ["block/__call__:2", "other"]
    assert "the nearest known is block/__call__:" in str(error.value)


def test_a_recording_without_a_tap_is_incomplete(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "model")
    again(source, **{"tensor:block/__call__:1": None})
    comparison = compare_outputs(source, tmp_path / "model")
    assert comparison.status == "incomplete"
    assert comparison.unmatched_port == ("net.block@1",)
    again(source, **{name: None for name in again_names(source) if name.startswith("tensor:")}, logits=None)
    with pytest.raises(InputError, match="no tensor of the model"):
        run_reference(source)


def again_names(source: Path) -> list[str]:
    with np.load(source.parent / "recorded.npz") as held:
        return list(held.files)


def test_a_recording_of_other_weights_is_refused(source: Path) -> None:
    path = again(source)
    with np.load(path) as held:
        bias = held["param:block.dense.bias"]
    again(source, **{"param:block.dense.bias": bias + 1e-3, "param:odd": bias})
    with pytest.raises(InputError, match="recorded with other weights") as error:
        run_reference(source)
    assert {problem.key for problem in error.value.problems} == {"block.dense.bias", "odd"}
    again(source, **{"param:block.dense.bias": bias[:2], "param:odd": None})
    with pytest.raises(InputError, match=r"expected shape \[2\], found \[5\]"):
        run_reference(source)


def test_tensors_of_other_axes_are_named_together(source: Path) -> None:
    again(source, **{"tensor:table/__call__:0": np.zeros((3, 4)), "logits": np.zeros(3)})
    with pytest.raises(InputError, match="2 tensors of other axes"):
        run_reference(source)
    again(source, **{"tensor:table/__call__:0": np.zeros((3, 5, 5)), "logits": np.zeros((3, 4, 3))})
    with pytest.raises(InputError, match=r"has \[3, 5\] positions"):
        run_reference(source)


class Pickled:
    """Would run code if it were read."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (pytest.fail, ("the pickle was read",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read"),
        (b"PK\x03\x04 and no zip", "cannot be read"),
        (b"\x93NUMPY\x01\x00", "cannot be read"),
        (b"no archive at all", "cannot be read"),
    ],
)
def test_files_that_are_no_recording(source: Path, content: bytes, said: str) -> None:
    path = source.parent / "recorded.npz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        read_recording(path, RECORDED, {})


def test_hostile_archives_are_refused(source: Path, tmp_path: Path) -> None:
    path = source.parent / "recorded.npz"
    whole = path.read_bytes()
    again(source, logits=np.array([Pickled()], object))
    with pytest.raises(InputError, match="logits cannot be read"):
        read_recording(path, RECORDED, {})
    path.write_bytes(whole)
    again(source, logits=np.array(["text"]))
    with pytest.raises(InputError, match="no array of numbers"):
        read_recording(path, RECORDED, {})
    for end in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError):
            read_recording(path, RECORDED, {})
    with path.open("wb") as file:
        np.save(file, IDS)
    with pytest.raises(InputError, match="a single array"):
        read_recording(path, RECORDED, {})
    with pytest.raises(InputError, match="No such file"):
        read_recording(tmp_path / "none.npz", RECORDED, {})


def test_a_port_that_knows_no_recordings_says_so(source: Path) -> None:
    with pytest.raises(InputError, match="does not say what the names"):
        read_recording(source.parent / "recorded.npz", PORT, {}, checkpoint=open_checkpoint(source))


@pytest.mark.parametrize(
    ("option", "value"),
    [("inputs", {"inputs": IDS, "targets": IDS}), ("backward", True), ("seed", 3), ("search", 2)],
)
def test_a_recorded_run_is_not_asked_for_what_it_does_not_hold(
    source: Path, tmp_path: Path, option: str, value: object
) -> None:
    convert_checkpoint(source, tmp_path / "model")
    recording = source.parent / "recorded.npz"
    with pytest.raises(InputError) as error:
        compare_outputs(recording, tmp_path / "model", **{option: value})  # type: ignore[arg-type]
    assert "as SOURCE, without --reference-trace" in error.value.remedy


def test_the_original_runs_where_more_is_asked_for_than_was_recorded(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "model")
    comparison = compare_outputs(source, tmp_path / "model", analyse=False, backward=True)
    assert comparison.status == "match"
    assert "recorded" not in comparison.provenance["reference"]
    assert comparison.provenance["inputs"]["shapes"]["inputs"] != [3, 4]


def test_a_search_runs_the_original_from_the_beginning(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert_checkpoint(source, tmp_path / "model")
    asked: dict[str, object] = {}

    def run(*_: object, **options: object) -> None:
        asked.update(options)
        raise InputError("asked")

    monkeypatch.setattr("porting.workbench.run_reference", run)
    with pytest.raises(InputError, match="asked"):
        compare_outputs(source, tmp_path / "model", search=1)
    assert asked["live"] is True


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(compare_outputs_command, list(arguments))


def test_the_command_says_that_the_original_did_not_run(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    convert_checkpoint(source, tmp_path / "model")
    beside = invoke(str(source), "model", "--report-dir", "r")
    assert beside.exit_code == 0, beside.output
    assert "its recorded run beside the checkpoint (recorded.npz) stands for it" in beside.stderr
    assert "Not compared: 3 of 12 positions of inputs (padded positions)" in beside.stdout
    recording = str(source.parent / "recorded.npz")
    given = invoke(str(source), "model", "--reference-trace", recording, "--report-dir", "r")
    assert given.exit_code == 0, given.output
    assert "did not run" not in given.stderr
    refused = invoke(str(source), "model", "--reference-trace", recording, "--random", "2x4")
    assert refused.exit_code == 2
    assert "cannot be asked for --inputs or --random" in refused.stderr


def test_the_options_are_there() -> None:
    options = {name for parameter in compare_outputs_command.params for name in parameter.opts}
    assert {"--reference-trace", "--reference-python"} <= options
    assert issubclass(InputError, PortingError)
