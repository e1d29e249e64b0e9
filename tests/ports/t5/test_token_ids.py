from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from porting.errors import InputError
from porting.inputs import Inputs, random_inputs
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.config import Config
from porting.ports.t5.token_ids import check_ids, random_ids
from tests.ports.t5.family import ALIGNED, FAMILY, LANGUAGE_MODEL, LEARNED, PREFIX, UNSHARED
from tests.ports.t5.mesh_variables import SMALL

BATCH, LENGTH = 4, 60


def limited(architecture: Architecture, max_length: int) -> Architecture:
    """A single stack with learned positions."""
    name = architecture.output_stack
    stack = replace(architecture.stacks[name], positions="learned", max_length=max_length)
    return replace(architecture, **{name: stack})


@pytest.mark.parametrize("config", [SMALL, *FAMILY.values()], ids=["t5", *FAMILY])
@pytest.mark.parametrize("seed", range(5))
def test_a_model_can_read_what_is_made_for_it(config: Config, seed: int) -> None:
    check_ids(config, random_ids(config, BATCH, LENGTH, seed))
    check_ids(config, random_ids(config, 1, 1, seed))


def test_two_stacks_read_what_random_inputs_makes() -> None:
    made, plain = random_ids(SMALL, BATCH, LENGTH, 7), random_inputs(SMALL.vocab_size, BATCH, LENGTH, 7)
    np.testing.assert_array_equal(made["inputs"], plain["inputs"])
    np.testing.assert_array_equal(made["targets"], plain["targets"])
    assert made.origin == "random 4x60, seed 7"


def test_each_side_is_of_its_own_vocabulary() -> None:
    made = random_ids(UNSHARED, 20, 200, 3)
    assert (int(made["inputs"].max()), int(made["targets"].max())) == (36, 49)
    made = random_ids(ALIGNED, 20, 200, 3)
    assert (int(made["inputs"].max()), int(made["targets"].max())) == (36, 49)


def test_an_aligned_model_says_a_token_for_each_it_reads() -> None:
    made = random_ids(ALIGNED, BATCH, LENGTH, 3)
    assert made["inputs"].shape == made["targets"].shape == (BATCH, LENGTH)
    np.testing.assert_array_equal(made["targets"] == 0, made["inputs"] == 0)
    assert (made["inputs"] == 0).any()
    assert (made["targets"] != made["inputs"]).mean() > 0.5


@pytest.mark.parametrize("config", [LANGUAGE_MODEL, PREFIX], ids=["language model", "prefix"])
def test_a_language_model_reads_what_it_says_shifted_right(config: Architecture) -> None:
    made = random_ids(config, BATCH, LENGTH, 3)
    assert made["inputs"].shape == made["targets"].shape == (BATCH, LENGTH)
    np.testing.assert_array_equal(made["inputs"][:, 1:], made["targets"][:, :-1])
    assert (made["inputs"][:, 0] == 0).all()
    assert (made["targets"][:, 0] != 0).all()
    assert (made["targets"] == 0).any()


@pytest.mark.parametrize("seed", range(5))
def test_examples_of_a_prefix_model_end_their_inputs_and_themselves(seed: int) -> None:
    for row in random_ids(PREFIX, 6, 47, seed)["targets"]:
        real = int((row != 0).sum())
        ends = np.flatnonzero(row == 1).tolist()
        assert ends == sorted({real // 3, real - 1})


def test_a_plain_language_model_has_no_inputs_part() -> None:
    assert not (random_ids(LANGUAGE_MODEL, BATCH, LENGTH, 3)["targets"] == 1).any()


@pytest.mark.parametrize("config", [ALIGNED, LANGUAGE_MODEL, PREFIX])
def test_no_more_positions_than_a_single_stack_has(config: Architecture) -> None:
    assert random_ids(limited(config, 33), BATCH, LENGTH, 3)["inputs"].shape == (BATCH, 33)
    assert random_ids(limited(config, 77), BATCH, LENGTH, 3)["inputs"].shape == (BATCH, LENGTH)


def test_no_more_positions_than_either_stack_has() -> None:
    short = replace(LEARNED, decoder=replace(LEARNED.decoder, max_length=21))
    assert random_ids(short, BATCH, LENGTH, 3)["inputs"].shape == (BATCH, 21)
    unlimited = replace(LEARNED.encoder, positions=None), replace(LEARNED.decoder, positions=None)
    free = replace(LEARNED, encoder=unlimited[0], decoder=unlimited[1])
    assert random_ids(free, BATCH, LENGTH, 3)["inputs"].shape == (BATCH, LENGTH)


@pytest.mark.parametrize("config", [SMALL, ALIGNED, LANGUAGE_MODEL, PREFIX])
def test_the_same_seed_gives_the_same_ids(config: Config) -> None:
    one, same, other = (random_ids(config, BATCH, LENGTH, seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one["inputs"], same["inputs"])
    np.testing.assert_array_equal(one["targets"], same["targets"])
    assert not np.array_equal(one["targets"], other["targets"])


# --- what is refused ---


def refused(config: Config, inputs: list, targets: list, **more: list) -> dict[str, str]:
    """What is found wrong, by key."""
    ids = Inputs.from_arrays({"inputs": inputs, "targets": targets, **more}, origin="mine.npz")
    with pytest.raises(InputError, match=r"mine\.npz") as caught:
        check_ids(config, ids)
    return {problem.key: problem.found for problem in caught.value.problems}


def test_ids_beyond_either_vocabulary_are_refused() -> None:
    assert refused(UNSHARED, [[5, 37]], [[50, 3]]) == {"inputs": "37 at [0, 1]", "targets": "50 at [0, 0]"}
    check_ids(UNSHARED, Inputs.from_arrays({"inputs": [[5, 36]], "targets": [[49, 3]]}))


@pytest.mark.parametrize("config", [ALIGNED, LANGUAGE_MODEL, PREFIX])
def test_a_single_stack_reads_one_sequence(config: Architecture) -> None:
    assert refused(config, [[5, 6, 7]], [[8, 1]]) == {"inputs, targets": "inputs 1x3, targets 1x2"}
    packed = {"sequence_ids": [[1, 2]], "decoder_sequence_ids": [[1, 2]]}
    assert refused(config, [[5, 6]], [[8, 1]], **packed) == {"decoder_sequence_ids": "some"}
    check_ids(config, Inputs.from_arrays({"inputs": [[5, 6]], "targets": [[8, 1]], "sequence_ids": [[1, 2]]}))


def test_two_stacks_read_two_sequences() -> None:
    packed = {"sequence_ids": [[1, 2, 2]], "decoder_sequence_ids": [[1, 2]]}
    check_ids(SMALL, Inputs.from_arrays({"inputs": [[5, 6, 7]], "targets": [[8, 1]], **packed}))


def test_more_positions_than_a_stack_has_are_refused_by_its_side() -> None:
    config = replace(
        LEARNED,
        encoder=replace(LEARNED.encoder, max_length=4),
        decoder=replace(LEARNED.decoder, max_length=3),
    )
    assert refused(config, [[5] * 5], [[6] * 4]) == {"inputs": "5", "targets": "4"}
    assert refused(config, [[5] * 4], [[6] * 4]) == {"targets": "4"}
    check_ids(config, Inputs.from_arrays({"inputs": [[5] * 4], "targets": [[6] * 3]}))


@pytest.mark.parametrize("config", [SMALL, ALIGNED, LANGUAGE_MODEL])
def test_a_stack_without_positions_of_its_own_reads_any_length(config: Config) -> None:
    check_ids(config, Inputs.from_arrays({"inputs": [[5] * 700], "targets": [[6] * 700]}))


@pytest.mark.parametrize("config", [ALIGNED, LANGUAGE_MODEL])
def test_more_positions_than_a_single_stack_has_are_refused(config: Architecture) -> None:
    assert refused(limited(config, 3), [[5] * 4], [[6] * 4]) == {"inputs": "4"}
    check_ids(limited(config, 3), Inputs.from_arrays({"inputs": [[5] * 3], "targets": [[6] * 3]}))


def test_all_that_is_wrong_with_the_lengths_is_listed_at_once() -> None:
    found = refused(limited(ALIGNED, 2), [[5] * 3], [[6] * 4], decoder_sequence_ids=[[1] * 4])
    assert set(found) == {"inputs, targets", "decoder_sequence_ids", "inputs"}
