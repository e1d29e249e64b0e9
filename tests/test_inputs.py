from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from porting.errors import InputError
from porting.inputs import TEXT_TO_TEXT, InputField, Inputs, parse_random, random_inputs, read_inputs

GOOD = {"inputs": [[5, 6, 1], [7, 1, 0]], "targets": [[8, 1], [9, 1]]}


def problems(arrays: dict) -> dict[str, str]:
    """What is found wrong, by field."""
    with pytest.raises(InputError) as caught:
        Inputs.from_arrays(arrays).check_fields(TEXT_TO_TEXT)
    return {problem.key: problem.found for problem in caught.value.problems}


def test_npz_and_json_give_the_same(tmp_path: Path) -> None:
    np.savez(tmp_path / "ids.npz", **{name: np.array(ids) for name, ids in GOOD.items()})
    (tmp_path / "ids.json").write_text(json.dumps(GOOD))
    for path in (tmp_path / "ids.npz", str(tmp_path / "ids.json")):
        inputs = read_inputs(path)
        assert {name: array.tolist() for name, array in inputs.arrays().items()} == GOOD
        assert inputs["inputs"].dtype == inputs["targets"].dtype == np.int32
        assert inputs.origin == str(path)


def test_packed_inputs_are_taken(tmp_path: Path) -> None:
    packed = {**GOOD, "sequence_ids": [[1, 2, 2], [1, 1, 0]], "decoder_sequence_ids": [[1, 2], [1, 1]]}
    (tmp_path / "ids.json").write_text(json.dumps(packed))
    assert read_inputs(tmp_path / "ids.json")["decoder_sequence_ids"].tolist() == [[1, 2], [1, 1]]


def test_null_is_the_same_as_leaving_sequence_ids_away() -> None:
    assert Inputs.from_arrays({**GOOD, "sequence_ids": None}).get("sequence_ids") is None


@pytest.mark.parametrize("name", ["inputs", "targets"])
@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([[1, 2], [3]], "inhomogeneous"),
        ([[1.0, 2.0], [3.0, 4.0]], "float64 [2, 2]"),
        ([[True], [False]], "bool [2, 1]"),
        ([["5"], ["6"]], "<U1 [2, 1]"),
        ([5, 6], "[2]"),
        ([[[5]], [[6]]], "[2, 1, 1]"),
        ([[], []], "float64 [2, 0]"),
        (5, "int64 []"),
        ([[2**40], [3]], str(2**40)),
        ([[2**70], [3]], "object [2, 1]"),
    ],
    ids=str,
)
def test_what_is_no_int_matrix_is_refused_by_field(name: str, value: object, found: str) -> None:
    reported = problems({**GOOD, name: value})
    assert list(reported) == [name]
    assert found in reported[name]


@pytest.mark.parametrize("value", [None, {}, "text"])
def test_json_values_of_another_kind_are_refused(value: object) -> None:
    with pytest.raises(InputError, match="targets"):
        Inputs.from_arrays({**GOOD, "targets": value}).check_fields(TEXT_TO_TEXT)


@pytest.mark.parametrize("missing", ["inputs", "targets"])
def test_a_missing_field_is_named(missing: str) -> None:
    left = {name: ids for name, ids in GOOD.items() if name != missing}
    assert problems(left) == {missing: "none"}


def test_an_unknown_field_is_named() -> None:
    assert problems({**GOOD, "input_ids": [[1]]}) == {"input_ids": "another name"}


def test_both_sides_are_of_one_batch() -> None:
    assert problems({**GOOD, "targets": [[8, 1]]}) == {"targets": "[1, 2]"}


@pytest.mark.parametrize(("name", "like"), [("sequence_ids", "inputs"), ("decoder_sequence_ids", "targets")])
def test_sequence_ids_have_the_shape_of_what_they_describe(name: str, like: str) -> None:
    other = GOOD["targets" if like == "inputs" else "inputs"]
    assert list(problems({**GOOD, name: other})) == [name]
    Inputs.from_arrays({**GOOD, name: GOOD[like]}).check_fields(TEXT_TO_TEXT)


def test_a_port_has_fields_of_its_own() -> None:
    fields = (
        InputField("input_ids"),
        InputField("positions", ("batch", "predictions"), required=False),
        InputField("labels", ("batch",)),
    )
    inputs = Inputs.from_arrays({"input_ids": [[5, 6], [7, 8]], "labels": [0, 1]})
    inputs.check_fields(fields)
    assert inputs.batch == 2 and inputs.shapes() == "input_ids 2x2, labels 2"
    with pytest.raises(InputError) as caught:
        inputs.having(labels=np.array([1]), positions=np.array([1, 2])).check_fields(fields)
    assert [str(problem) for problem in caught.value.problems] == [
        "positions: expected an int array [batch, predictions], found [2]",
        "labels: expected shape [2], found [1]",
    ]


def test_everything_wrong_is_reported_at_once() -> None:
    assert set(problems({"inputs": [1.0], "targets": [[1.5]], "sequence_ids": [["a"]]})) == {
        "inputs",
        "targets",
        "sequence_ids",
    }


def test_ids_beyond_the_vocabulary_are_named_with_their_place() -> None:
    inputs = Inputs.from_arrays({"inputs": [[5, 6], [7, 32]], "targets": [[3, -1], [-100, 2]]})
    with pytest.raises(InputError, match="outside of the model's range") as caught:
        inputs.check_range({"inputs": 32, "targets": 32})
    assert [str(problem) for problem in caught.value.problems] == [
        "inputs: expected ids from 0 to 31, found 32 at [1, 1]",
        "targets: expected ids from 0 to 31, found -1 at [0, 1] and 1 more",
    ]


def test_the_last_id_of_the_vocabulary_is_within_it() -> None:
    Inputs.from_arrays({"inputs": [[0, 31]], "targets": [[31]]}).check_range({"inputs": 32, "targets": 32})


class Bomb:
    """Unpickling this leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return Path.touch, (self.mark,)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    mark, path = tmp_path / "exploded", tmp_path / "ids.npz"
    np.savez(path, inputs=np.array([[Bomb(mark)]], object), targets=np.array([[1]]))
    with pytest.raises(InputError, match=r"ids\.npz"):
        read_inputs(path)
    np.array([[Bomb(mark)]], object).dump(path)  # a bare pickle
    with pytest.raises(InputError, match=r"ids\.npz"):
        read_inputs(path)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["ids.npz", "ids.json", "ids.txt"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"{", b"\xff\xfe", b"[[1, 2]]", b"null"])
def test_an_unreadable_file_is_refused_by_its_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_inputs(tmp_path / name)


def test_a_damaged_archive_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "ids.npz"
    np.savez_compressed(path, inputs=np.arange(2000).reshape(2, 1000), targets=np.ones((2, 3), int))
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"ids\.npz"):
        read_inputs(path)


def test_a_file_or_folder_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.npz", tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match=path.name):
            read_inputs(path)


def test_a_single_array_is_refused_with_a_hint(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", np.array([[1]]))
    with pytest.raises(InputError, match=r"single array; give an \.npz"):
        read_inputs(tmp_path / "ids.npy")


@pytest.mark.parametrize(
    ("text", "shape"), [("3x160", (3, 160)), ("1X1", (1, 1)), (" 2x10 ", (2, 10)), ("10x1000", (10, 1000))]
)
def test_batch_and_length_are_parsed(text: str, shape: tuple[int, int]) -> None:
    assert parse_random(text) == shape


@pytest.mark.parametrize(
    "text", ["", "3", "3x", "x3", "0x5", "5x0", "-1x5", "3x5x7", "3.5x2", "a", "3 x 5", "٣x٤"]
)
def test_what_is_not_batch_and_length_is_shown(text: str) -> None:
    with pytest.raises(InputError, match="BATCHxLENGTH"):
        parse_random(text)


def test_random_ids_are_those_of_their_seed() -> None:
    one, same, other = (random_inputs(100, 3, 160, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one["inputs"], same["inputs"])
    np.testing.assert_array_equal(one["targets"], same["targets"])
    assert not np.array_equal(one["inputs"], other["inputs"])
    assert one.origin == "random 3x160, seed 7"


@pytest.mark.parametrize("seed", range(20))
def test_random_ids_reach_what_short_full_sentences_never_do(seed: int) -> None:
    inputs = random_inputs(100, 4, 160, seed)
    assert inputs["inputs"].shape == (4, 160)  # beyond the last relative-position bucket, at 128
    assert inputs["targets"].shape == (4, 144)  # of another length
    for ids in (inputs["inputs"], inputs["targets"]):
        assert (ids[0] > 1).all()
        assert (ids[1:] == 0).any()
        real = ids != 0
        assert (real[:, 0]).all()
        assert (real[:, 1:] <= real[:, :-1]).all(), "padding stands at the end only"
    # Padding in the decoder beside an encoder that has none: it finds nothing that it may see.
    assert (inputs["inputs"][1] != 0).all()
    assert (inputs["targets"][1] == 0).any()
    inputs.check_range({"inputs": 100, "targets": 100})


@pytest.mark.parametrize("vocab_size", [1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (1, 2)])
def test_the_smallest_requests_are_served(vocab_size: int, shape: tuple[int, int]) -> None:
    inputs = random_inputs(vocab_size, *shape, 0)
    inputs.check_range({"inputs": vocab_size, "targets": vocab_size})
    assert inputs["inputs"].shape == shape
    assert inputs["targets"].shape == shape


# --- a vocabulary of its own for the targets ---


def test_random_targets_are_of_the_target_vocabulary() -> None:
    inputs = random_inputs(1000, 5, 160, 3, target_vocab_size=11)
    assert int(inputs["targets"].max()) == 10
    assert int(inputs["inputs"].max()) > 900
    inputs.check_range({"inputs": 1000, "targets": 11})
    np.testing.assert_array_equal(inputs["inputs"], random_inputs(1000, 5, 160, 3)["inputs"])


def test_targets_may_have_the_larger_vocabulary() -> None:
    inputs = random_inputs(11, 5, 160, 3, target_vocab_size=1000)
    assert int(inputs["inputs"].max()) == 10
    assert int(inputs["targets"].max()) > 900
    inputs.check_range({"inputs": 11, "targets": 1000})


def test_ids_are_checked_against_the_vocabulary_of_their_side() -> None:
    inputs = Inputs.from_arrays({"inputs": [[5, 31]], "targets": [[3, 12]]})
    inputs.check_range({"inputs": 32, "targets": 13})
    with pytest.raises(InputError, match="outside of the model's range") as caught:
        inputs.check_range({"inputs": 32, "targets": 12})
    assert [str(problem) for problem in caught.value.problems] == [
        "targets: expected ids from 0 to 11, found 12 at [0, 1]"
    ]
    with pytest.raises(InputError, match="outside of the model's range") as caught:
        inputs.check_range({"inputs": 31, "targets": 13})
    assert [problem.key for problem in caught.value.problems] == ["inputs"]
