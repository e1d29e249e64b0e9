"""Traces that mean something at some positions only: elsewhere nothing is compared, isolated or shown."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from porting.analysis.isolation import Originals, run_isolated
from porting.analysis.noise import floor_of
from porting.capture import capture
from porting.compare import Comparison, compare_traces
from porting.difference import difference_of, distance
from porting.errors import InputError
from porting.gradients.comparison import compare_gradients
from porting.inputs import Inputs
from porting.pictures import pictures_of
from porting.report.html import render_page
from porting.report.markdown import render_markdown
from porting.report.terminal import summary_lines
from porting.search.revealing import revealing_inputs
from porting.search.search import search
from porting.tap import Tap
from porting.trace import Trace, TracedTensor, TraceWriter, Where, read_trace
from tests.faulty import INPUTS, TAPS, Bench, Toy, run

REAL = INPUTS["inputs"] != 0  # [3, 6]: two positions are padding
HERE = (("inputs", "batch length"),)


def masked(trace: Trace, garbage: float = 7.0, path: Path | None = None, **metadata: object) -> Trace:
    """The same, meaningful at real positions only, and something else at the others."""
    writer, real = TraceWriter(path, trace.inputs), trace.inputs["inputs"] != 0
    file = writer.mask("inputs", real)
    for tensor, array in trace.items():
        values, where = np.array(array), ()
        if "length" in tensor.dims:
            values[~real] = garbage
            where = (Where(file, ("batch", "length")),)
        writer.add(tensor.name, values, tensor.dims, hidden_below=tensor.hidden_below, where=where)
    return writer.close({**trace.metadata, **metadata})


@pytest.fixture(scope="module")
def bench() -> Bench:
    """Whose loss is a mean over everything, which a masked original says nothing of."""
    made = Bench(Toy())
    made.taps = [tap for tap in TAPS if tap.name != "loss"]
    made.reference = masked(made.reference)
    made.reference = Trace(
        made.reference.path,
        tuple(tensor for tensor in made.reference.tensors if tensor.name != "loss"),
        made.reference.inputs,
        made.reference.metadata,
        made.reference,
    )
    return made


def compared(bench: Bench, model: nn.Module) -> Comparison:
    return compare_traces(bench.reference, capture(model, INPUTS, bench.taps, run))


def shifted(name: str, real: bool) -> Mapping[str, object]:
    """A change of a model: a tap's module is off by one, at real positions or at the others."""

    def change(model: nn.Module) -> None:
        inner = getattr(model, name)

        class Off(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                at = torch.from_numpy(REAL if real else ~REAL)[..., None]
                return self.inner(x) + 1.0 * at

        setattr(model, name, Off())

    return {"change": change}


def test_padded_positions_are_not_compared_and_real_ones_are(bench: Bench) -> None:
    right = compared(bench, bench.right)
    assert right.status == "match"
    assert right.tensors[0].left_out == 2
    harmless = bench.faulty(shifted("norm", real=False)["change"])  # type: ignore[arg-type]
    assert compared(bench, harmless).status == "match"
    wrong = compared(bench, bench.faulty(shifted("norm", real=True)["change"]))  # type: ignore[arg-type]
    first = wrong.first_divergence
    assert first is not None
    assert first.name == "norm"
    assert REAL[first.index[:2]]
    assert first.max_abs_diff == pytest.approx(1.0, rel=1e-5)


def test_what_was_left_out_is_said_in_every_report(bench: Bench) -> None:
    comparison = compared(bench, bench.right)
    [left_out] = comparison.left_out
    assert (left_out.mask, left_out.positions, left_out.left_out, left_out.tensors) == ("inputs", 18, 2, 7)
    content = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert content["left_out"][0]["why"] == "the original's values mean nothing there"
    said = "2 of 18 positions of inputs"
    assert said in "\n".join(summary_lines(comparison))
    assert said in render_markdown(comparison, "toy")
    assert said in render_page(content)


def test_nan_and_infinity_mean_nothing_at_padded_positions_either(bench: Bench) -> None:
    for garbage in (np.nan, np.inf):
        reference = masked(bench.reference, garbage)
        comparison = compare_traces(reference, capture(bench.right, INPUTS, bench.taps, run))
        assert comparison.status == "match", comparison.reasons
        analysis = bench.analyse(bench.right, reference=reference)
        assert not analysis.faults
        assert all(np.isfinite(figures.times_floor) for figures in analysis.figures.values())


def test_each_tensor_is_computed_from_the_originals_at_real_positions_and_from_its_own_elsewhere(
    bench: Bench,
) -> None:
    heard = {}

    def on_tensor(tap: Tap, value: np.ndarray, _original: np.ndarray) -> None:
        heard[tap.name] = value

    run_isolated(bench.right, INPUTS, bench.taps, run, Originals(bench.reference), on_tensor)
    own = capture(bench.right, INPUTS, bench.taps, run)
    for name, value in heard.items():
        np.testing.assert_allclose(value[~REAL], own[name][~REAL], rtol=1e-5, err_msg=name)


def test_faults_are_found_and_explained_at_real_positions_only(bench: Bench) -> None:
    def epsilon(model: nn.Module) -> None:
        model.norm.epsilon = 1e-2

    assert bench.cause(epsilon, at="norm").kind == "epsilon"
    assert bench.faults(bench.faulty(shifted("norm", real=False)["change"])) == ()  # type: ignore[arg-type]
    [fault] = bench.faults(bench.faulty(shifted("norm", real=True)["change"]))  # type: ignore[arg-type]
    assert fault.name == "norm"


@pytest.mark.parametrize("name", ["up", "down"])
def test_a_missing_bias_and_another_weight_are_explained_under_garbage(bench: Bench, name: str) -> None:
    def no_bias(model: nn.Module) -> None:
        model.up.bias.zero_()

    def transposed(model: nn.Module) -> None:
        model.down.weight.copy_(model.down.weight.T.reshape(model.down.weight.shape))

    change = {"up": no_bias, "down": transposed}[name]
    assert bench.cause(change, at=name, checkpoint=name == "down").kind in ("bias", "weight", "order")


def test_a_missing_residual_is_explained_under_garbage(bench: Bench) -> None:
    def no_residual(model: nn.Module) -> None:
        model.combine = lambda _x, y: y

    cause = bench.cause(no_residual, at="added")
    assert (cause.kind, cause.subject) == ("sum", "embed")


def test_pictures_show_real_positions(bench: Bench) -> None:
    model = bench.faulty(shifted("norm", real=True)["change"])  # type: ignore[arg-type]
    port = capture(model, INPUTS, bench.taps, run)
    comparison = compare_traces(bench.reference, port)
    pictures = pictures_of(comparison, bench.reference, port)
    assert pictures is not None
    assert pictures["tensor"] == "norm"
    assert pictures["elements"] == REAL.sum() * 8
    assert REAL[tuple(pictures["largest"]["index"][:2])]
    largest = [max(filter(None, line), default=0) for chart in pictures["maps"] for line in chart["values"]]
    assert max(largest) == pytest.approx(1.0, rel=1e-2)  # and not the garbage
    assert render_page(comparison.with_pictures(pictures).to_json())


def test_neighbours_that_are_left_out_have_no_values_in_a_window(bench: Bench) -> None:
    def last_real(model: nn.Module) -> None:
        inner, at = model.norm, torch.zeros(3, 6, 1)
        at[1, 4] = 1.0  # padding follows

        class Off(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.inner(x) + at

        model.norm = Off()

    port = capture(bench.faulty(last_real), INPUTS, bench.taps, run)
    comparison = compare_traces(bench.reference, port)
    pictures = pictures_of(comparison, bench.reference, port)
    assert pictures is not None
    assert pictures["largest"]["index"][:2] == [1, 4]
    strip = next(strip for strip in pictures["largest"]["along"] if strip["dim"] == "length")
    assert strip["left_out"][-1] is True
    assert (strip["reference"][-1], strip["port"][-1]) == (None, None)
    assert "not compared" in render_page(comparison.with_pictures(pictures).to_json())


def test_masks_over_several_axes_count_together(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path, INPUTS)
    file = writer.mask("inputs", REAL)
    both = (Where(file, ("batch", "length")), Where(file, ("batch", "memory_length")))
    scores = np.zeros((3, 2, 6, 6), np.float32)
    writer.add("scores", scores, ("batch", "heads", "length", "memory_length"), where=both)
    writer.add("turned", scores.T, ("memory_length", "length", "heads", "batch"), where=both)
    writer.close({})
    trace = read_trace(tmp_path)
    expected = REAL[:, None, :, None] & REAL[:, None, None, :]
    meaningful = trace.meaningful(trace.tensors[0])
    assert meaningful is not None
    np.testing.assert_array_equal(meaningful, expected)
    turned = trace.meaningful(trace.tensors[1])
    assert turned is not None
    np.testing.assert_array_equal(turned, expected.transpose(3, 2, 1, 0))
    found = difference_of(scores, scores + expected, None, meaningful)
    assert found.mean == 1.0
    assert distance(scores, scores + ~expected, None, meaningful).max() == 0


def test_gradients_are_compared_at_real_positions(bench: Bench) -> None:
    reference = masked(capture(bench.right, INPUTS, bench.taps, run), garbage=1e6)
    port = capture(bench.right, INPUTS, bench.taps, run)
    comparison = compare_gradients(reference, port)
    assert comparison.status == "match"
    assert max(comparison.sizes.values()) < 1e6  # what is left out makes nothing small


def test_taps_that_the_original_cannot_be_heard_at_are_listed_and_leave_it_complete(bench: Bench) -> None:
    kept = [tensor for tensor in bench.reference.tensors if tensor.name not in ("up", "act")]
    for unheard, status in ((["up", "act"], "match"), (["up"], "incomplete"), ([], "incomplete")):
        metadata = {**bench.reference.metadata, "unheard": unheard}
        reference = Trace(bench.reference.path, tuple(kept), bench.reference.inputs, metadata)
        comparison = compare_traces(reference, capture(bench.right, INPUTS, bench.taps, run))
        assert comparison.status == status
        assert list(comparison.unheard) == unheard
        assert [*comparison.unheard, *comparison.unmatched_port] == ["up", "act"]
        content = comparison.to_json()
        assert content["unheard"] == unheard
        if unheard:
            assert f"Not heard in the original: {', '.join(unheard)}" in "\n".join(summary_lines(comparison))
            assert "`up`" in render_markdown(comparison, "toy")
            assert "cannot be listened to" in render_page(content)
    with pytest.raises(InputError, match="no list of names"):
        metadata = {"unheard": "up"}
        compare_traces(Trace(reference.path, tuple(kept), reference.inputs, metadata), reference)


def edited(path: Path, where: object) -> Path:
    index = json.loads((path / "trace.json").read_text())
    index["tensors"][0]["where"] = where
    (path / "trace.json").write_text(json.dumps(index))
    return path


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("masks/inputs.npy", "is not the index of a trace"),
        ([["masks/inputs.npy"]], "names of its dims"),
        ([["masks/inputs.npy", "batch"]], "names of its dims"),
        ([["masks/inputs.npy", ["batch", "heads"]]], "names of its dims"),
        ([["masks/inputs.npy", ["batch", "batch"]]], "twice"),
        ([["masks/inputs.npy", ["batch"]]], "must be bool with 1"),
        ([["masks/other.npy", ["batch", "length"]]], "other.npy is not a NumPy array"),
        ([["../../etc/passwd", ["batch", "length"]]], "outside the trace"),
        ([["tensors/00000.npy", ["batch", "length", "d_model"]]], "must be bool"),
    ],
)
def test_masks_that_cannot_be_are_refused_when_a_trace_is_opened(
    bench: Bench, tmp_path: Path, where: object, said: str
) -> None:
    masked(bench.reference, path=tmp_path)
    with pytest.raises(InputError, match=said):
        read_trace(edited(tmp_path, where))


def test_a_mask_of_another_size_is_refused(bench: Bench, tmp_path: Path) -> None:
    masked(bench.reference, path=tmp_path)
    np.save(tmp_path / "masks" / "inputs.npy", np.ones((3, 5), bool))
    trace = read_trace(tmp_path)
    with pytest.raises(InputError, match=r"has \[3, 6\] positions \(batch length\)"):
        trace.meaningful(trace.tensors[0])


def test_a_writer_refuses_masks_of_axes_that_a_tensor_has_not(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path, INPUTS)
    where = [Where(writer.mask("inputs", REAL), ("batch", "length"))]
    with pytest.raises(ValueError, match="for \\('batch', 'length'\\)"):
        writer.add("bias", np.zeros((2, 6)), ("heads", "length"), where=where)


def test_masks_of_a_trace_written_before_do_not_stay(bench: Bench, tmp_path: Path) -> None:
    masked(bench.reference, path=tmp_path)
    TraceWriter(tmp_path, INPUTS).close({})
    assert not list((tmp_path / "masks").iterdir())
    assert TracedTensor("a", "a", (), "f").where == ()


def test_the_place_of_the_largest_difference_is_that_in_the_whole_tensor() -> None:
    expected = np.zeros((2, 3, 4), np.float32)
    value = expected.copy()
    value[0, 0] = 9.0  # means nothing
    value[1, 2, 1] = 0.5
    meaningful = np.array([[False, True, True], [True, False, True]])[..., None]
    found = difference_of(expected, value, None, meaningful)
    assert (found.index, found.largest, found.port) == ((1, 2, 1), 0.5, 0.5)
    assert found.mean == pytest.approx(0.5 / 16)
    nothing = difference_of(expected, value, None, np.zeros((1, 1, 1), bool))
    assert (nothing.largest, nothing.index) == (0.0, ())


def test_garbage_along_the_last_axis_raises_no_floor() -> None:
    """An attention's row has padded positions beside real ones: its floor is that of the real ones."""
    value = np.full((2, 6), 1.0, np.float32)
    meaningful = np.array([[True, True, True, True, False, False]])
    garbage = np.where(meaningful, value, 1e6).astype(np.float32)
    change = np.where(meaningful, 1e-6, 1e3).astype(np.float32)
    floor = floor_of([change], garbage, 2.0**-23, None, meaningful)
    np.testing.assert_allclose(floor[:, :4], 1e-6, rtol=1e-3)
    assert floor.max() < 2e-6


@pytest.mark.parametrize("real", [True, False])
def test_a_search_shrinks_what_fails_at_real_positions_and_finds_nothing_at_others(
    bench: Bench, real: bool
) -> None:
    def compare(ids: Inputs) -> Comparison:
        """The port's norm is off where this case says so."""
        at = (ids["inputs"] != 0) == real
        mask, inner = torch.from_numpy(at)[..., None], bench.right.norm

        class Off(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return inner(x) + 1.0 * mask

        faulty = copy.copy(bench.right)
        faulty._modules = {**bench.right._modules, "norm": Off()}
        reference = masked(capture(bench.right, ids, bench.taps, run))
        return compare_traces(reference, capture(faulty, ids, bench.taps, run))

    found = search(compare, revealing_inputs(11, lengths=(1, 2, 6)), 4)
    if not real:
        assert (found.status, found.shrunk) == ("match", None)
        return
    assert found.status == "diverged"
    assert found.shrunk is not None
    smallest = found.shrunk.failure.inputs["inputs"]
    assert (smallest.shape, smallest.tolist()) == ((1, 1), [[1]])  # one real position
