from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest

from porting.errors import InputError
from porting.inputs import Inputs
from porting.port import port_named
from porting.ports.bert.config import Config
from porting.ports.bert.ids import check_ids, random_ids
from porting.ports.bert.revealing import fit_ids, revealing_ids

HEADS = Config(51, 24, 2, 3, 40, 36, 3)
ENCODER = Config(51, 24, 2, 3, 40, 36, 3, heads=False)
BOTH = pytest.mark.parametrize("config", [HEADS, ENCODER], ids=["heads", "encoder"])
SHORT = Config(4, 24, 1, 3, 40, 2, 1)


@BOTH
def test_random_and_revealing_inputs_can_be_read(config: Config) -> None:
    port = port_named("bert")
    for inputs in [random_ids(config, 3, 24, 0), random_ids(config, 1, 500, 1)]:
        port.check_inputs(config, inputs)
    for _, inputs in islice(revealing_ids(config), 60):
        port.check_inputs(config, inputs)
        assert fit_ids(config, inputs).arrays().keys() == inputs.arrays().keys() or config.heads
    for _, inputs in islice(revealing_ids(SHORT), 40):
        port.check_inputs(SHORT, inputs)


def test_random_inputs_have_padding_segments_and_unused_predictions() -> None:
    made = random_ids(HEADS, 3, 24, 0)
    assert made["input_mask"][0].all()
    holes = np.flatnonzero(made["input_mask"][2] == 0)
    assert 6 in holes
    assert (made["input_mask"].sum(1) < [25, 24, 24]).all()
    assert set(np.unique(made["segment_ids"])) == {0, 1, 2}
    assert list(made["masked_lm_weights"].sum(1)) == [4, 3, 2]
    assert made.arrays().keys() == random_ids(HEADS, 3, 24, 0).arrays().keys()
    np.testing.assert_array_equal(made["input_ids"], random_ids(HEADS, 3, 24, 0)["input_ids"])


def test_revealing_inputs_reach_every_edge() -> None:
    cases = list(islice(revealing_ids(HEADS), 12))
    found = dict(cases)
    lengths = {inputs["input_ids"].shape[1] for inputs in found.values()}
    assert {1, 36} <= lengths
    assert (found["a row of padding alone"]["input_mask"][0] == 0).all()
    assert found["all padding but one"]["input_mask"].sum() == 2
    assert found["no masked positions"]["masked_lm_weights"].sum() == 0
    edges = found["segments that change at the first and at the last position"]["segment_ids"]
    assert [int((row == 2).sum()) for row in edges] == [11, 1, 12]
    plain = found["without mask and segments"]
    assert plain.get("input_mask") is None
    assert plain.get("segment_ids") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input_ids": np.full((3, 24), 51)}, "input_ids: expected ids from 0 to 50"),
        ({"segment_ids": np.full((3, 24), 3)}, "segment_ids: expected ids from 0 to 2"),
        ({"input_mask": np.full((3, 24), 2)}, "input_mask: expected ids from 0 to 1"),
        ({"masked_lm_positions": np.full((3, 4), 24)}, "masked_lm_positions: expected ids from 0 to 23"),
        ({"next_sentence_labels": np.full(3, 2)}, "next_sentence_labels: expected ids from 0 to 1"),
        (
            {"next_sentence_labels": None},
            "next_sentence_labels: expected an array, for the pre-training heads",
        ),
        ({"masked_lm_ids": np.zeros((3, 5), np.int32)}, "masked_lm_ids: expected shape [3, 4]"),
    ],
)
def test_inputs_that_cannot_be_read_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        port_named("bert").check_inputs(HEADS, random_ids(HEADS, 3, 24, 0).having(**change))
    assert said in str(error.value)


def test_too_long_inputs_and_inputs_of_heads_that_are_not_there_are_refused() -> None:
    long = Inputs.from_arrays({"input_ids": np.ones((1, 37), np.int32)})
    with pytest.raises(InputError, match="at most 36 positions"):
        check_ids(ENCODER, long)
    with pytest.raises(InputError, match="this model has no pre-training heads"):
        check_ids(ENCODER, random_ids(HEADS, 1, 4, 0))


@BOTH
def test_whatever_is_left_of_an_input_is_made_readable(config: Config) -> None:
    made = random_ids(HEADS, 3, 24, 0)
    port = port_named("bert")
    left = [
        made,
        made.having(**dict.fromkeys(list(made.arrays())[1:])),
        made.having(input_ids=made["input_ids"][:, :2], input_mask=None, segment_ids=None),
        made.having(masked_lm_ids=None),
        Inputs.from_arrays({"input_ids": np.ones((2, 90), np.int32)}),
    ]
    for inputs in left:
        port.check_inputs(config, fit_ids(config, inputs))
    assert fit_ids(HEADS, made).arrays().keys() == made.arrays().keys()
