from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from porting.errors import InputError, ReferenceRunError
from porting.generation import decoding
from porting.generation.decoding import GenerationSettings, decode_with_reference, kept_decoding
from porting.inputs import Inputs
from porting.ports.t5 import PORT


def test_defaults_are_filled_in() -> None:
    assert GenerationSettings.asked(None) is None
    assert GenerationSettings.asked("greedy") == GenerationSettings("greedy", 32, 1)
    assert GenerationSettings.asked("beam") == GenerationSettings("beam", 32, 4)
    assert GenerationSettings.asked("beam", 7, 2) == GenerationSettings("beam", 7, 2)
    assert GenerationSettings.asked("greedy", 7, 1) == GenerationSettings("greedy", 7, 1)


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        ((None, 5, 2), ["max_new_tokens", "num_beams"]),
        (("sample", 0, None), ["generate", "max_new_tokens"]),
        (("greedy", None, 2), ["num_beams"]),
        (("beam", -1, 1), ["max_new_tokens", "num_beams"]),
    ],
)
def test_options_that_do_not_fit_are_all_listed(asked: tuple, keys: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        GenerationSettings.asked(*asked)
    assert [problem.key for problem in caught.value.problems] == keys


KEPT = {"generation": {"method": "beam", "max_new_tokens": 7, "num_beams": 2, "sequences": [[5, 1], [6]]}}


def test_what_a_trace_keeps_is_taken_where_nothing_else_is_asked() -> None:
    expected = GenerationSettings("beam", 7, 2), ((5, 1), (6,))
    assert kept_decoding(KEPT, "beam", None, None) == expected
    assert kept_decoding(json.loads(json.dumps(KEPT)), "beam", 7, 2) == expected


def test_a_trace_made_without_generation_is_refused() -> None:
    with pytest.raises(InputError, match="does not hold what the original generates") as caught:
        kept_decoding({}, "greedy", None, None)
    assert "--generate" in caught.value.remedy and "--save-traces" in caught.value.remedy


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        (("greedy", None, None), "generate"),
        (("beam", 8, 2), "max_new_tokens"),
        (("beam", None, 3), "num_beams"),
    ],
)
def test_a_trace_generated_otherwise_is_refused(asked: tuple, key: str) -> None:
    with pytest.raises(InputError, match="generated otherwise") as caught:
        kept_decoding(KEPT, *asked)
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize("wrong", [{}, {"sequences": 5}, {"num_beams": "many"}, {"sequences": [["a"]]}])
def test_a_trace_that_someone_damaged_is_refused(wrong: dict) -> None:
    content = {**KEPT["generation"], **wrong} if wrong else wrong
    with pytest.raises(InputError, match="cannot be read"):
        kept_decoding({"generation": content}, "beam", None, None)


def test_the_original_must_answer_every_row(small_inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_row(target: str, request: dict, python: str | None) -> None:
        assert python is None
        assert (
            target == "a:b"
            and request["original_config"] == "text"
            and request["generation"]["num_beams"] == 1
        )
        assert (Path(request["inputs"]) / "trace.json").exists()
        Path(request["output"]).write_text("[[5, 1]]")

    assert PORT.decoding
    port = replace(PORT.decoding, reference="a:b")
    monkeypatch.setattr(decoding, "run_in_process", one_row)
    settings = GenerationSettings("greedy")
    with pytest.raises(ReferenceRunError, match="1 sequences from 2 inputs"):
        decode_with_reference(port, settings, small_inputs, {"original_config": "text"})
    one = Inputs.from_arrays({"inputs": [[5]], "targets": [[6]]})
    kept = decode_with_reference(port, settings, one, {"original_config": "text"})
    assert kept_decoding({"generation": kept}, "greedy", None, None) == (settings, ((5, 1),))
