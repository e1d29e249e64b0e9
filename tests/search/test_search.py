"""The search and the shrinking, on faults that are made up: no framework runs."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import porting.search.search
from porting import Inputs, compare_outputs
from porting.compare import Comparison, TensorComparison
from porting.errors import InputError, OutputError, ReferenceRunError
from porting.inputs import TEXT_TO_TEXT, InputField
from porting.report.search import search_lines, search_section
from porting.report.text import verdict
from porting.search.beside import _candidates
from porting.search.reproduce import write_test
from porting.search.revealing import revealing_inputs
from porting.search.search import Failure, PortRaised, SearchResult, search
from porting.search.shrink import shrink, size
from tests.traces import T, TraceMaker

FIELDS = {field.name: field for field in TEXT_TO_TEXT}
Fault = Callable[[Inputs], bool]


def ids(inputs: object, targets: object, **more: object) -> Inputs:
    return Inputs.from_arrays({"inputs": inputs, "targets": targets, **more})


def row(status: str) -> TensorComparison:
    return TensorComparison("logits", "logits", (1,), ("length",), 0.5, 0.5, 0.5, (0,), 1.0, 1.5, status)


def comparison(status: str) -> Comparison:
    return Comparison(status, 1e-3, (row("diverged" if status == "diverged" else "match"),))


def comparing(fault: Fault, status: str = "diverged") -> Callable[[Inputs], Comparison]:
    return lambda inputs: comparison(status if fault(inputs) else "match")


def big() -> Inputs:
    random = np.random.default_rng(0)
    return ids(random.integers(2, 99, (3, 160)), random.integers(2, 99, (3, 144)))


def has_last_id(inputs: Inputs) -> bool:
    return bool((inputs["targets"] == 99).any())


def is_long(inputs: Inputs) -> bool:
    return inputs["inputs"].shape[1] > 128


def falls_twice(inputs: Inputs) -> bool:
    triples = (zip(row, row[1:], row[2:], strict=False) for row in inputs["inputs"])
    return any(a > b > c > 50 for triple in triples for a, b, c in triple)


def two_segments(inputs: Inputs) -> bool:
    segments = inputs.get("decoder_sequence_ids")
    return segments is not None and bool((np.ptp(segments, axis=1) > 0).any())


def has_last_id_in_the_middle() -> Inputs:
    inputs = big()
    inputs["targets"][2, 77] = 99
    return inputs


def packed() -> Inputs:
    segments = np.array([[1] * 4 + [2] * 8] * 2)
    return ids(segments + 7, segments + 9, sequence_ids=segments, decoder_sequence_ids=segments)


SMALLEST: list[tuple[Callable[[], Inputs], Fault, dict[str, object]]] = [
    (has_last_id_in_the_middle, has_last_id, {"inputs": [[0]], "targets": [[99]]}),
    (big, is_long, {"inputs": [[0] * 129], "targets": [[0]]}),
    (big, falls_twice, {"inputs": [[53, 52, 51]], "targets": [[0]]}),
    (big, lambda inputs: inputs.batch > 1, {"inputs": [[0], [0]], "targets": [[0], [0]]}),
    (
        packed,
        two_segments,
        {"inputs": [[0]], "targets": [[0, 0]], "sequence_ids": [[0]], "decoder_sequence_ids": [[1, 0]]},
    ),
]


@pytest.mark.parametrize(("start", "fault", "expected"), SMALLEST)
def test_a_failing_input_shrinks_to_the_smallest(
    start: Callable[[], Inputs], fault: Fault, expected: dict[str, object]
) -> None:
    assert fault(start())
    smallest = shrink(start(), fault)
    assert {name: array.tolist() for name, array in smallest.arrays().items()} == expected


def test_what_was_shrunk_was_seen_to_fail_even_if_the_answer_changes_its_mind() -> None:
    seen: list[Inputs] = []

    def fails(inputs: Inputs) -> bool:
        if len(seen) < 12 and is_long(inputs):
            seen.append(inputs)
            return True
        return False

    smallest = shrink(big(), fails)
    assert any(inputs is smallest for inputs in seen)
    assert size(smallest, FIELDS) == min(size(inputs, FIELDS) for inputs in seen)


def test_axes_of_one_name_are_cut_together_whatever_the_fields() -> None:
    fields = (
        InputField("words"),
        InputField("kinds", required=False),
        InputField("masked", ("batch", "masked")),
        InputField("label", ("batch",)),
    )

    def fails(inputs: Inputs) -> bool:
        inputs.check_fields(fields)
        return bool((inputs["words"][:, 1:] > 30).any() and (inputs["label"] == 1).any())

    random = np.random.default_rng(0)
    start = Inputs(
        {
            "words": random.integers(2, 99, (3, 50)),
            "kinds": np.ones((3, 50), int),
            "masked": random.integers(2, 50, (3, 7)),
            "label": np.array([0, 1, 1]),
        }
    )
    smallest = shrink(start, fails, fields=fields)
    assert {name: array.tolist() for name, array in smallest.arrays().items()} == {
        "words": [[0, 31]],
        "masked": [[0]],
        "label": [1],
    }


def test_what_is_left_is_fitted_to_the_model() -> None:
    """A model that reads one sequence: both sides are always of one length."""
    tried: list[Inputs] = []

    def fit(inputs: Inputs) -> Inputs:
        length = min(inputs["inputs"].shape[1], inputs["targets"].shape[1])
        return ids(inputs["inputs"][:, :length], inputs["targets"][:, :length])

    def fails(inputs: Inputs) -> bool:
        tried.append(inputs)
        return inputs["inputs"].shape[1] > 4

    smallest = shrink(fit(big()), fails, fit)
    assert smallest["inputs"].tolist() == smallest["targets"].tolist() == [[0] * 5]
    assert all(inputs["inputs"].shape == inputs["targets"].shape for inputs in tried)


def candidates(*inputs: Inputs) -> Iterator[tuple[str, Inputs]]:
    yield from ((f"input {number}", given) for number, given in enumerate(inputs))


def test_the_search_tries_so_many_and_shrinks_what_fails() -> None:
    runs: list[bytes] = []

    def compare(inputs: Inputs) -> Comparison:
        runs.append(repr(inputs.arrays()).encode() + inputs["inputs"].tobytes() + inputs["targets"].tobytes())
        return comparing(has_last_id)(inputs)

    told: list[str] = []
    other = ids([[5]], [[99, 1]])
    given = candidates(big(), has_last_id_in_the_middle(), other, big())
    result = search(compare, given, 3, on_progress=told.append)
    assert (result.tried, result.ended, result.status) == (3, "all tried", "diverged")
    assert [failure.label for failure in result.failing] == ["input 1", "input 2"]
    assert result.shrunk and result.shrunk.failure.inputs["targets"].tolist() == [[99]]
    assert result.shrunk.failure.first_divergence is not None
    assert result.shrunk.failure.first_divergence.name == "logits"
    assert len(set(runs)) == len(runs), "an input was run again"
    assert result.shrunk.runs == len(runs) - 3
    assert told[0] == "searching: 0 of 3 inputs tried, 0 failing"
    assert any("shrinking: 1 runs, now inputs 1x1, targets 1x2" in text for text in told)


def test_nothing_fails() -> None:
    result = search(comparing(lambda _: False), candidates(big()), 5)
    content = result.to_json()
    assert (content["tried"], content["failing"], content["shrunk"]) == (1, [], None)
    assert content["ended"] == "all tried"
    assert comparison("match").with_search(result).exit_code == 0


def test_what_counts_as_failing_is_the_callers_choice() -> None:
    result = search(comparing(is_long), candidates(big()), 1, failing=lambda _: False)
    assert result.failing == ()
    result = search(comparing(lambda _: False), candidates(big()), 1, failing=lambda _: True)
    assert len(result.failing) == 1
    assert comparison("match").with_search(result).status == "match"


def test_the_budget_ends_trying_and_shrinking(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(porting.search.search, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def compare(inputs: Inputs) -> Comparison:
        now[0] += 1.0
        return comparing(is_long)(inputs)

    endless = ((f"{n}", ids([[2] * (n + 2)], [[3]])) for n in range(10**6))
    result = search(compare, endless, 10**6, budget=10.0)
    assert (result.tried, result.ended, result.shrunk) == (10, "budget", None)

    now[0] = 0.0
    result = search(compare, candidates(*[big()] * 1, ids([[2]], [[3]])), 2, budget=14.0)
    assert result.ended == "budget"
    assert result.shrunk and is_long(result.shrunk.failure.inputs)
    assert result.shrunk.runs <= 13
    assert "--search-budget 14 seconds" in "\n".join(search_lines(result))


def test_the_number_of_runs_is_limited_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(porting.search.search, "MOST_RUNS", 7)
    result = search(comparing(is_long), candidates(big()), 1)
    assert result.shrunk and result.shrunk.runs == 7
    assert result.ended == "budget"


def test_an_input_that_the_port_cannot_compute_fails() -> None:
    def compare(inputs: Inputs) -> Comparison:
        if is_long(inputs):
            raise PortRaised("the port raised IndexError: index out of range")
        return comparison("match")

    result = search(compare, candidates(big()), 1)
    assert result.shrunk and result.shrunk.failure.inputs["inputs"].shape == (1, 129)
    assert result.to_json()["failing"][0]["error"].endswith("index out of range")
    assert result.status == "diverged"


def test_an_input_that_the_original_cannot_run_is_listed() -> None:
    def compare(_inputs: Inputs) -> Comparison:
        raise ReferenceRunError("out of memory")

    result = search(compare, candidates(big()), 1)
    assert result.to_json()["refused"] == [{"label": "input 0", "message": "out of memory"}]
    assert result.failing == ()
    assert "no answer to 1" in next(search_lines(result))


def test_first_inputs_that_fail_are_shrunk_too() -> None:
    known = Failure("the first inputs", big(), comparison("diverged"))
    result = search(comparing(is_long), candidates(ids([[2]], [[3]])), 1, known=known)
    assert result.failing == ()
    assert result.shrunk and result.shrunk.failure.inputs["inputs"].shape == (1, 129)


def test_where_the_original_itself_gives_nan_nothing_is_said_of_the_port() -> None:
    nan, wrong = row("invalid"), row("diverged")

    def compare(inputs: Inputs) -> Comparison:
        rows = (row("match"), nan) if inputs.batch == 1 else (wrong, nan)
        return Comparison("invalid", 1e-3, rows, reasons=("NaN",))

    result = search(compare, candidates(ids([[2]], [[3]])), 1)
    assert (result.failing, result.shrunk, result.status) == ((), None, "match")
    assert result.refused == (("input 0", "the original itself gives NaN, in logits"),)
    both = search(compare, candidates(ids([[2], [3]], [[3], [4]])), 1)
    assert [failure.status for failure in both.failing] == ["invalid"]


@pytest.mark.parametrize("status", ["diverged", "incomplete", "invalid"])
def test_the_verdict_is_the_searchs_where_the_first_inputs_match(status: str) -> None:
    result = search(comparing(is_long, status), candidates(big()), 1)
    after = comparison("match").with_search(result)
    assert after.status == status
    assert after.exit_code == (1 if status == "diverged" else 3)
    assert verdict(after).startswith(f"{status.upper()}: 1 of 1 inputs that the search tried")
    assert comparison("invalid").with_search(result).status == "invalid"


def failing_result(inputs: Inputs, tmp_path: Path) -> tuple[SearchResult, Path]:
    result = search(comparing(lambda _: True), candidates(inputs), 1)
    assert result.shrunk
    path = write_test(
        result.shrunk.failure, tmp_path, "t5.1.1 small", source="a/b", model_dir="it's", atol=1e-4
    )
    return result.with_test_file(str(path)), path


def test_the_written_test_says_what_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, path = failing_result(packed(), tmp_path)
    assert path.name == "t5_1_1_small_reproduce_test.py"
    monkeypatch.delenv("PORTING_SOURCE", raising=False)
    monkeypatch.setenv("PORTING_MODEL_DIR", "elsewhere")
    module = runpy.run_path(str(path))
    assert (module["SOURCE"], module["MODEL_DIR"]) == ("a/b", "elsewhere")
    assert result.shrunk and module["INPUTS"] == result.to_json()["shrunk"]["inputs"]
    assert list(tmp_path.iterdir()) == [path]
    calls: list[tuple[object, ...]] = []

    def compared(*arguments: object, **options: object) -> Comparison:
        calls.append((*arguments, options))
        return comparison("diverged")

    test = module["test_the_port_computes_what_the_original_does"]
    test.__globals__["compare_outputs"] = compared
    with pytest.raises(AssertionError, match="logits"):
        test()
    assert calls == [("a/b", "elsewhere", module["INPUTS"], {"atol": 1e-4, "config": None})]


def test_a_test_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="--report-dir"):
        failing_result(big(), tmp_path / "file")


def test_text_that_the_port_raised_cannot_break_the_test(tmp_path: Path) -> None:
    failure = Failure("x", big(), None, 'the port raised E: """\\ {no}\nmore')
    path = write_test(failure, tmp_path, "m", source="s", model_dir="d")
    assert runpy.run_path(str(path))["SOURCE"] == "s"


def test_reports_name_the_smallest_input_and_its_test(tmp_path: Path) -> None:
    result, path = failing_result(big(), tmp_path)
    lines = "\n".join(search_lines(result))
    assert "Search: 1 of 1 more inputs fail." in lines
    assert "Smallest that fails: inputs 1x1, targets 1x1: logits, difference 0.5" in lines
    assert f"Reproduce it: pytest {path}" in lines
    section = "\n".join(search_section(result))
    assert "- inputs: `[[0]]`" in section
    assert "| input 0 | inputs 3x160, targets 3x144 | logits, difference 0.5 |" in section


def test_a_search_needs_a_checkpoint(traces: TraceMaker) -> None:
    trace = traces([T("logits", [[1.0]])])
    for reference in (trace, trace.path):
        with pytest.raises(InputError, match="without --reference-trace"):
            compare_outputs(reference, "no model", search=3)


def test_generic_inputs_hold_what_hurts() -> None:
    made = dict(islice(revealing_inputs(50, target_vocab_size=70), 60))
    assert len(made) == 60
    for label, given in made.items():
        Inputs.from_arrays(given.arrays(), label).check_range({"inputs": 50, "targets": 70})
    shapes = {given["inputs"].shape for given in made.values()}
    assert {(1, 1), (1, 128), (1, 129), (1, 160)} <= shapes
    last = made["first and last vocabulary ids"]
    assert {1, 2, 48, 49} <= set(last["inputs"].ravel()) and {1, 69} <= set(last["targets"].ravel())
    packed_ids = made["packed segments"]
    assert set(packed_ids["sequence_ids"].ravel()) == {1, 2, 3}
    inside = made["padding inside"]["inputs"]
    assert ((inside == 0).any(1) & (inside[:, 0] > 0) & (inside[:, -1] > 0)).all()
    alone = made["all padding but one"]["inputs"]
    assert ((alone > 0).sum(1) == 1).all()
    assert len(set(made["one id repeated"]["inputs"][0])) == 1
    assert made["long inputs, one target"]["targets"].shape == (1, 1)


@pytest.mark.parametrize("vocab_size", [2, 3, 6])
def test_generic_inputs_fit_the_smallest_vocabularies(vocab_size: int) -> None:
    for label, given in islice(revealing_inputs(vocab_size, lengths=(1, 2)), 60):
        Inputs.from_arrays(given.arrays(), label).check_range({"inputs": vocab_size, "targets": vocab_size})


def test_a_port_that_chose_nothing_is_searched_with_its_random_inputs_in_all_sizes() -> None:
    port = SimpleNamespace(
        revealing_inputs=None,
        input_fields=(InputField("pixels"),),
        random_inputs=lambda _config, batch, length, seed: Inputs.from_arrays(
            {"pixels": np.full((batch, length), seed)}, origin=f"{batch}x{length}, seed {seed}"
        ),
        fit_inputs=lambda _config, inputs: inputs.having(pixels=inputs["pixels"][:, :100]),
    )
    found = list(islice(_candidates(port, SimpleNamespace(vocab_size=32)), 5))  # type: ignore[arg-type]
    assert found[0][0] == "1x1, seed 0"
    assert [inputs["pixels"].shape for _, inputs in found] == [(1, 1), (2, 2), (3, 16), (1, 64), (2, 100)]
