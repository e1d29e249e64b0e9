"""Two reports -> what got better and worse: the demonstration's, and copies of it that were changed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from porting.cli import compare_reports_command
from porting.errors import InputError
from porting.report.changes import changes

DEMO = Path(__file__).parents[1] / "reports" / "demo-t5.json"
Report = dict[str, Any]
FFN = "encoder.block.1.layer.1.DenseReluDense.wo"
LATE = "decoder.block.2.layer.0.SelfAttention.q"


@pytest.fixture
def demo() -> Report:
    return json.loads(DEMO.read_text())


def row(report: Report, name: str) -> Report:
    return next(row for row in report["tensors"] if row["name"] == name)


def diverged(report: Report, *names: str, by: float = 0.5) -> Report:
    """The report of a port that is wrong in these tensors."""
    report = copy.deepcopy(report)
    report["status"] = "diverged"
    for name in names:
        row(report, name).update(status="diverged", max_abs_diff=by)
    report["first_divergence"] = next(row for row in report["tensors"] if row["status"] == "diverged")
    cause = {"kind": "weight", "subject": "", "text": f"{names[0]}.weight is transposed", "verified": True}
    report["faults"] = [{"name": names[0], "reference_name": "x", "cause": cause}]
    report["noise"]["verdict"] = "beyond"
    return report


def found(old: Report, new: Report, direction: str, **options: Any) -> list[tuple[str, str, str, str]]:
    return [(c.kind, c.name, c.old, c.new) for c in changes(old, new, **options).of(direction)]


def test_a_report_beside_itself_is_the_same(demo: Report) -> None:
    same = changes(demo, copy.deepcopy(demo))
    assert (same.status, same.changes, same.unlike, same.notes) == ("same", (), (), ())


def test_a_port_that_broke_is_worse_and_mended_better(demo: Report) -> None:
    broken = diverged(demo, FFN)
    worse = found(demo, broken, "worse")
    assert ("verdict", "", "match", "diverged") in worse
    assert ("rounding", "", "within", "beyond") in worse
    assert ("first divergence", "", "none", FFN) in worse
    assert any(kind == "status" and name == FFN and "diverged (0.5)" in new for kind, name, _, new in worse)
    assert ("fault", FFN, "", f"{FFN}.weight is transposed") in worse
    assert found(demo, broken, "better") == []
    # The way back is the same list, the other way round.
    better = found(broken, demo, "better")
    assert sorted((kind, name, new, old) for kind, name, old, new in better) == sorted(worse)
    assert found(broken, demo, "worse") == []


def test_a_first_divergence_that_comes_later_is_better(demo: Report) -> None:
    early, late = diverged(demo, FFN, LATE), diverged(demo, LATE)
    assert ("first divergence", "", FFN, LATE) in found(early, late, "better")
    assert ("first divergence", "", LATE, FFN) in found(late, early, "worse")


@pytest.mark.parametrize(("times", "said"), [(1.9, False), (2.1, True), (3.9, True)])
def test_differences_count_beyond_the_factor(demo: Report, times: float, said: bool) -> None:
    new = copy.deepcopy(demo)
    row(demo, FFN).update(max_abs_diff=1e-4, noise_floor=1e-6)
    row(new, FFN).update(max_abs_diff=1e-4 * times, noise_floor=1e-6)
    assert [change.name for change in changes(demo, new).of("worse")] == ([FFN] if said else [])
    assert [change.name for change in changes(new, demo).of("better")] == ([FFN] if said else [])
    assert changes(demo, new, factor=4).status == "same"
    if said:
        assert changes(demo, new).of("worse")[0].factor == pytest.approx(times)


def test_differences_below_the_noise_floor_are_noise(demo: Report) -> None:
    new = copy.deepcopy(demo)
    row(demo, FFN).update(max_abs_diff=1e-9, noise_floor=2e-6)
    row(new, FFN).update(max_abs_diff=1.9e-6, noise_floor=1e-9)
    assert changes(demo, new).status == changes(new, demo).status == "same"
    row(new, FFN).update(max_abs_diff=2.1e-6)
    assert changes(demo, new).status == "worse"


def test_a_difference_out_of_nothing_or_without_end(demo: Report) -> None:
    new = copy.deepcopy(demo)
    row(demo, FFN).update(max_abs_diff=0.0, noise_floor=0.0)
    row(new, FFN).update(max_abs_diff=1e-5, noise_floor=0.0)
    (change,) = changes(demo, new).of("worse")
    assert (change.old, change.new, change.factor) == ("0", "1e-05", None)
    row(new, FFN).update(max_abs_diff=None)  # JSON cannot say what it is
    (change,) = changes(demo, new).of("worse")
    assert (change.new, change.to_json()["factor"]) == ("not finite", None)


def test_what_is_compared_no_longer_is_worse(demo: Report) -> None:
    new = copy.deepcopy(demo)
    new["tensors"] = [entry for entry in new["tensors"] if entry["name"] != FFN]
    new["unmatched"]["reference"] = [FFN]
    assert found(demo, new, "worse") == [
        ("unmatched", FFN, "", "only in the original"),
        ("tensor", FFN, "match", "not compared"),
    ]
    assert {kind for kind, *_ in found(new, demo, "better")} == {"unmatched", "tensor"}


def test_another_cause_of_the_same_fault_is_neither(demo: Report) -> None:
    old, new = diverged(demo, FFN), diverged(demo, FFN)
    new["faults"][0]["cause"] = None
    both = changes(old, new)
    assert both.status == "same"
    assert [(c.kind, c.new) for c in both.of("changed")] == [("cause", "unexplained")]


BACKWARD: Report = {
    "status": "match",
    "tolerance": 1e-3,
    "floors": {"tap": 1e-6, "parameter": 1e-6},
    "first_divergence": None,
    "tensors": [
        {"name": "loss", "status": "match", "max_rel_diff": 1e-7, "size": 1.0, "kind": "tap"},
        {"name": "tiny", "status": "match", "max_rel_diff": 1e-7, "size": 1e-9, "kind": "parameter"},
        {"name": "wo.weight", "status": "match", "max_rel_diff": 1e-5, "size": 2.0, "kind": "parameter"},
    ],
    "unmatched": {"reference": [], "port": []},
}


def test_gradients_where_both_have_them(demo: Report) -> None:
    old = {**demo, "backward": copy.deepcopy(BACKWARD)}
    new = copy.deepcopy(old)
    new["backward"]["tensors"][1]["max_rel_diff"] = 1e-2  # a gradient of 1e-9: its rounding
    assert changes(old, new).status == "same"
    new["backward"]["tensors"][2]["max_rel_diff"] = 1e-4
    (change,) = changes(old, new).of("worse")
    assert (change.section, change.kind, change.name) == ("gradients", "difference", "wo.weight")
    new["backward"]["tensors"][2]["status"] = new["backward"]["status"] = "diverged"
    new["backward"]["first_divergence"] = new["backward"]["tensors"][2]
    assert [c.kind for c in changes(old, new).of("worse")] == ["verdict", "first divergence", "status"]


def test_a_section_that_is_gone_is_worse_and_a_new_one_is_as_good_as_it_is(demo: Report) -> None:
    with_it = {**demo, "backward": BACKWARD}
    demo["backward"] = None
    assert found(with_it, demo, "worse") == [("report", "", "match", "not compared")]
    assert found(demo, with_it, "better") == [("report", "", "not compared", "match")]
    failing = {**demo, "backward": {**BACKWARD, "status": "diverged"}}
    assert found(demo, failing, "worse") == [("report", "", "not compared", "diverged")]


def test_generation_and_search(demo: Report) -> None:
    flip = {"below_noise": False}
    old = {**demo, "generation": {"status": "match", "flips": [{"below_noise": True}]}}
    new = {**demo, "generation": {"status": "diverged", "flips": [flip, flip]}}
    assert found(old, new, "worse") == [
        ("verdict", "", "match", "diverged"),
        ("difference", "", "0 rows part", "2 rows part"),
    ]
    old, new = ({**demo, "search": {"tried": 5, "failing": [{}] * n}} for n in (3, 1))
    assert found(old, new, "better") == [("difference", "", "3 of 5 inputs fail", "1 of 5 inputs fail")]
    assert changes(old, {**demo, "search": None}).status == "same"


def of_other_inputs(report: Report) -> Report:
    other = copy.deepcopy(report)
    other["provenance"]["inputs"]["sha256"]["inputs"] = "0" * 64
    return other


def test_reports_of_different_things_are_refused_unless_asked_for(demo: Report) -> None:
    other = of_other_inputs(demo)
    other["provenance"]["reference"]["checkpoint"]["sha256"] = {"model.ckpt-9.index": "f" * 64}
    other["atol"] = 1e-5
    with pytest.raises(InputError, match="different things") as caught:
        changes(demo, other)
    assert [p.key for p in caught.value.problems] == ["checkpoint", "inputs", "tolerance"]
    assert "000000000000..." in str(caught.value)
    assert "every difference is another" in str(caught.value)
    assert "--unlike" in caught.value.remedy
    allowed = changes(demo, other, unlike=True)
    assert len(allowed.unlike) == 3


def test_what_is_not_known_or_decides_nothing_is_noted(demo: Report) -> None:
    other = copy.deepcopy(demo)
    other["provenance"]["port"]["model"]["sha256"]["model.safetensors"] = "0" * 64
    other["provenance"]["reference"]["versions"]["tensorflow"] = "2.20.0"
    del other["provenance"]["inputs"]
    assert changes(demo, other).notes == (
        "A report does not say which inputs it is of: whether they are the same is not known.",
        "Versions of the original: tensorflow 2.21.0 -> tensorflow 2.20.0",
        "The model directory is another: model.safetensors",
    )


@pytest.mark.parametrize("content", [{}, [], {"schema_version": 1, "status": "planned"}, {"status": "match"}])
def test_what_is_no_report_is_refused(demo: Report, content: Any) -> None:
    with pytest.raises(InputError, match="is not a report"):
        changes(demo, content)


# The command.

Write = Callable[[str, Any], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, content: Any) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return written


def run(*arguments: str) -> Result:
    return CliRunner().invoke(compare_reports_command, list(arguments))


def test_exit_codes_and_formats(demo: Report, write: Write) -> None:
    good, bad = write("a/r.json", demo), write("b/r.json", diverged(demo, FFN, LATE))
    assert run(good, good).exit_code == 0
    assert run(good, good).stdout == "SAME: nothing got better or worse.\n"
    assert run(good, bad).exit_code == 1
    assert run(bad, good).exit_code == 0
    assert run(bad, good).stdout.startswith("BETTER: ")
    assert run(good, bad, "--format", "quiet").output == ""
    content = json.loads(run(good, bad, "--format", "json").stdout)
    assert (content["schema_version"], content["status"]) == (1, "worse")
    (report,) = content["reports"]
    assert report["name"] == "r.json"
    assert {*report} == {"name", "status", "unlike", "notes", "better", "worse", "changed"}
    assert report["worse"][0] == {
        "kind": "verdict", "section": None, "name": None, "old": "match", "new": "diverged", "factor": None,
    }  # fmt: skip


def test_directories_are_compared_by_name_and_a_report_gone_is_worse(demo: Report, write: Write) -> None:
    for name in ("one.json", "two.json"):
        write(f"a/{name}", demo)
    write("b/one.json", demo)
    write("b/three.json", diverged(demo, FFN))
    old, new = (str(Path(write(f"{side}/index.json", {"reports": []})).parent) for side in "ab")
    result = run(old, new)
    assert result.exit_code == 1
    assert "Gone: two.json" in result.stdout
    assert "New: three.json" in result.stdout
    assert run(new, old).exit_code == 1  # three.json is gone
    content = json.loads(run(old, new, "--format", "json").stdout)
    assert ([r["name"] for r in content["reports"]], content["gone"]) == (["one.json"], ["two.json"])


def test_unusable_input_says_what_it_is(demo: Report, write: Write, tmp_path: Path) -> None:
    good = write("r.json", demo)
    (tmp_path / "empty").mkdir()
    for arguments, said in (
        ((good, str(tmp_path / "absent.json")), "cannot be read"),
        ((good, write("t/t.json", "{")), "is not JSON"),
        ((good, str(tmp_path)), "two reports, or two directories"),
        ((str(tmp_path / "empty"), str(tmp_path)), "no report of compare-outputs in"),
        ((good, write("u.json", of_other_inputs(demo))), "inputs: expected"),
        ((good, good, "--factor", "0.5"), "at least 1"),
    ):
        result = run(*arguments)
        assert (result.exit_code, said in result.stderr) == (2, True), result.stderr


def test_reports_of_different_things_in_directories_are_all_named(demo: Report, write: Write) -> None:
    for name in ("one.json", "two.json"):
        old, new = write(f"a/{name}", demo), write(f"b/{name}", of_other_inputs(demo))
    result = run(str(Path(old).parent), str(Path(new).parent))
    assert result.exit_code == 2
    assert "one.json: inputs" in result.stderr
    assert "two.json: inputs" in result.stderr


def test_it_fits_80_columns(demo: Report, write: Write) -> None:
    names = [entry["name"] for entry in demo["tensors"]]
    worst = diverged(demo, *names)
    long = "encoder." + "very_long_name_of_a_module." * 5 + "end"
    for report in (demo, worst):
        row(report, names[0])["name"] = long
    row(worst, long)["status"] = "diverged"
    worst["provenance"]["reference"]["versions"] |= {f"package-{i}": "1" for i in range(30)}
    worst["atol"] = 1e-9
    result = run(write("a.json", demo), write("b.json", worst), "--unlike")
    assert result.exit_code == 1
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "UNLIKE tolerance: 0.001 -> 1e-09" in result.stdout
    assert " more: see --format json" in result.stdout
    assert "..." in result.stdout


def test_help_imports_no_framework() -> None:
    result = run("--help")
    assert "Examples:" in result.stdout
    assert "Exit codes: 0 nothing got worse" in result.stdout
