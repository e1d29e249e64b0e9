from __future__ import annotations

import json
import math

from porting.findings import Cause, Fault, Findings, Remainder, TapFigures

CAUSE = Cause("weight", "b.weight is transposed", "b.weight")
FINDINGS = Findings(
    figures={
        "a": TapFigures(1e-7, 2e-7, 3e-7, 4e-7, 0.5),
        "b": TapFigures(local=math.inf, times_floor=math.inf),
        "unknown": TapFigures(),
    },
    faults=(Fault("b", "tf/b", math.inf, math.inf, CAUSE, ("c",), ("config", "weight")),),
    times=32.0,
    unit=2.0**-23,
    remainder=Remainder("d", 1e-6, 0.25),
    notes=("a note",),
)


def test_faults_and_what_shares_their_cause_are_wrong_by_themselves() -> None:
    assert [FINDINGS.origin(name) for name in ("a", "b", "c", "d")] == [None, "own", "own", None]
    assert not FINDINGS.within_noise
    assert Findings({}, (), 32.0, 1e-7).within_noise


def test_the_noisiest_tensor_is_one_whose_figure_is_known() -> None:
    assert FINDINGS.noisiest == "b"
    assert Findings({"x": TapFigures(), "y": TapFigures(times_floor=0.0)}, (), 1.0, 1.0).noisiest == "y"
    assert Findings({"x": TapFigures()}, (), 1.0, 1.0).noisiest == ""


def test_json_says_all_of_it_and_is_strict() -> None:
    content = json.loads(json.dumps(FINDINGS.to_json(), allow_nan=False))
    assert content["noise"] == {
        "verdict": "beyond",
        "times": 32.0,
        "rounding_unit": 2.0**-23,
        "largest": None,
        "largest_in": "b",
    }
    (fault,) = content["faults"]
    assert fault == {
        "name": "b",
        "reference_name": "tf/b",
        "local_max_abs_diff": None,
        "times_noise_floor": None,
        "also": ["c"],
        "cause": {
            "kind": "weight",
            "subject": "b.weight",
            "text": "b.weight is transposed",
            "verified": True,
        },
        "tried": ["config", "weight"],
    }
    assert content["remaining"] == {"name": "d", "max_abs_diff": 1e-6, "times_noise_floor": 0.25}
    assert content["notes"] == ["a note"]


def test_json_of_a_right_port_names_no_fault() -> None:
    content = Findings({}, (), 32.0, 1e-7).to_json()
    assert content["noise"]["verdict"] == "within" and content["noise"]["largest_in"] is None
    assert (content["faults"], content["remaining"]) == ([], None)


def test_an_unexplained_fault_has_no_cause_in_json() -> None:
    assert Fault("a", "tf/a", 1.0, 100.0, None, (), ("scale",)).to_json()["cause"] is None


def test_figures_that_are_not_known_are_null() -> None:
    assert set(TapFigures().to_json().values()) == {None}
    assert TapFigures(local=0.5).to_json()["local_max_abs_diff"] == 0.5
