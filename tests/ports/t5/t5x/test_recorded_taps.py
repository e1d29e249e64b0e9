"""T5X's recorded names and the port's taps: each by numbers, on runs that T5X itself made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from porting.compare import Comparison
from porting.port import port_named
from porting.ports.t5.config import config_from_json
from porting.ports.t5.t5x.recorded_taps import real_positions, recorded_names
from porting.ports.t5.taps import taps
from porting.references.original_tap import OriginalTap
from porting.references.recorded import read_recording
from porting.workbench import compare_outputs
from tests.recordings import CONFIG, LONG, SCANNED, T5, names_in, needs_recordings, t5_model

ATOL = 1e-4
LAYERS = ("encoder/layers_0/__call__:0",)  # a recording that has layers
LOCAL = config_from_json(
    {**CONFIG.to_json(), "model_type": "longt5", "encoder_attention_type": "local", "local_radius": 5}
)
GLOBAL = config_from_json(
    {
        **CONFIG.to_json(),
        "model_type": "longt5",
        "encoder_attention_type": "transient-global",
        "local_radius": 5,
        "global_block_size": 4,
    }
)


def compared(recording: Path) -> Comparison:
    return compare_outputs(recording, t5_model(recording), atol=ATOL)


@needs_recordings
def test_every_recorded_tensor_of_a_t5_is_what_the_port_computes() -> None:
    comparison = compared(T5)
    assert comparison.status == "match", comparison.first_divergence
    assert not comparison.faults
    assert len(comparison.tensors) == 77
    # Nothing agrees because nothing was looked at: most positions are real, and each tensor has numbers.
    assert all(row.left_out < 60 for row in comparison.tensors)
    assert comparison.worst is not None
    assert 0 < comparison.worst.max_abs_diff < 2e-5


@needs_recordings
@pytest.mark.parametrize("recording", [T5, SCANNED, *LONG], ids=lambda path: path.parent.name)
def test_every_recorded_name_is_a_tap_or_left_out_for_a_reason(recording: Path) -> None:
    config = {"local": LOCAL, "tglobal": GLOBAL}.get(recording.parent.name, CONFIG)
    names = names_in(recording)
    known = recorded_names(config, names)
    tapped = [tap.original for tap in known.taps]
    assert not {*names} - {*tapped} - {*known.left_out}
    assert not {*tapped} - {*names}
    assert len({*tapped}) == len(tapped)


@needs_recordings
def test_what_is_left_out_as_a_copy_is_one() -> None:
    """A recorded tensor is left out only where another that is compared has the same numbers."""
    known = recorded_names(CONFIG, names_in(T5))
    with np.load(T5) as held:
        arrays = {name.removeprefix("tensor:"): held[name] for name in held.files}
    compared_arrays = [arrays[tap.original] for tap in known.taps]
    real = real_positions(read_recording(T5, port_named("t5"), CONFIG).inputs)
    for name in names_in(T5):
        if name in known.left_out and name not in {tap.original for tap in known.taps}:
            mask = real["inputs" if name.startswith("encoder") else "targets"]
            same = [
                other
                for other in compared_arrays
                if other.shape == arrays[name].shape and np.array_equal(other[mask], arrays[name][mask])
            ]
            assert same, name


@needs_recordings
def test_padded_positions_differ_as_the_masks_say() -> None:
    """T5X computes something else than the port where there is padding: without masks nothing would match."""
    comparison = compared(T5)
    assert [(each.mask, each.left_out, each.why) for each in comparison.left_out] == [
        ("inputs", 50, "padded positions"),
        ("targets", 8, "padded positions"),
    ]
    trace = read_recording(T5, port_named("t5"), CONFIG)
    model = t5_model(T5)
    with torch.no_grad():
        logits = model(
            *(torch.from_numpy(trace.inputs[name]).long() for name in ("inputs", "targets"))
        ).logits
    apart = np.abs(logits.numpy() - trace["logits"]).max(axis=-1)
    assert apart[trace.inputs["targets"] != 0].max() < ATOL < apart[trace.inputs["targets"] == 0].max()


@needs_recordings
def test_scanned_models_record_no_layers() -> None:
    trace = read_recording(SCANNED, port_named("t5"), CONFIG)
    assert trace.names()[-1] == "logits"
    assert len(trace.names()) == 7
    unheard = trace.metadata["unheard"]
    assert "encoder.block.0.layer.0" in unheard
    assert {*trace.names(), *unheard} == {tap.name for tap in taps(CONFIG)}


@pytest.mark.parametrize("config", [CONFIG, LOCAL, GLOBAL], ids=["t5", "local", "tglobal"])
def test_every_tap_is_recorded_or_declared_unheard(config: object) -> None:
    known = recorded_names(config, LAYERS)  # type: ignore[arg-type]
    heard = [tap.name for tap in known.taps]
    assert sorted([*heard, *known.unheard]) == sorted(tap.name for tap in taps(config))  # type: ignore[arg-type]
    kinds = {name.rpartition(".")[2] for name in known.unheard}
    expected = {"mask_padding", "scores", "weights", "attended", "act", "0", "1", "loss"}
    more = {"summaries", "side_scores", "side_weights"} if config is GLOBAL else set()
    assert kinds == expected | more


def test_dims_are_those_of_the_ports_taps() -> None:
    ports = {tap.name: tap for tap in taps(CONFIG)}
    for tap in recorded_names(CONFIG, LAYERS).taps:
        dims = OriginalTap(tap.name, "", tap.dims).dims.replace("1 ", "").split()
        assert sorted(dims) == sorted(ports[tap.name].dimension_names), tap.name
        assert all({*names.split()} <= {*dims} for _, names in tap.where), tap.name
