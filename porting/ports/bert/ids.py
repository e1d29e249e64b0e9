"""What BERT reads: made at random, checked, or cut and completed until a model can read it."""

from __future__ import annotations

import numpy as np

from porting.errors import InputError, Problem
from porting.inputs import InputField, Inputs

from .config import Config

_PREDICTIONS = ("batch", "predictions")
# The features of run_pretraining.py's input_fn_builder; Google's weights are floats, 1.0 or 0.0. Mask and
# segments may be left away, for the original has defaults; the last four belong to the heads.
INPUT_FIELDS = (
    InputField("input_ids"),
    InputField("input_mask", required=False),
    InputField("segment_ids", required=False),
    InputField("masked_lm_positions", _PREDICTIONS, required=False),
    InputField("masked_lm_ids", _PREDICTIONS, required=False),
    InputField("masked_lm_weights", _PREDICTIONS, required=False),
    InputField("next_sentence_labels", ("batch",), required=False),
)
OF_THE_HEADS = ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights", "next_sentence_labels")
# create_pretraining_data.py masks this share of the words.
MASKED_SHARE = 0.15


def random_ids(config: Config, batch: int, length: int, seed: int) -> Inputs:
    """Random ids: the first row full, the others padded at their end, the third with a hole in it as well.

    Segments change somewhere in each row; the words to guess are fewer in each row than in the one before,
    and the rest of their places has weight 0, as in pre-training.
    """
    random = np.random.default_rng(seed)
    length = min(length, config.max_position_embeddings)
    ids = random.integers(min(1, config.vocab_size - 1), config.vocab_size, (batch, length))
    mask = np.ones((batch, length), np.int64)
    for row in range(1, batch):
        mask[row, int(random.integers(1, max(2, length))) :] = 0
    if batch > 2 and length > 2:
        mask[2, length // 4] = 0
    ends = np.sort(random.integers(0, length + 1, (batch, config.type_vocab_size - 1)), axis=1)
    segments = (np.arange(length)[None, :, None] >= ends[:, None]).sum(-1) * mask
    arrays: dict[str, np.ndarray] = {"input_ids": ids * mask, "input_mask": mask, "segment_ids": segments}
    if config.heads:
        arrays |= _random_heads(config, mask, random)
    return Inputs.from_arrays(arrays, origin=f"random {batch}x{length}, seed {seed}")


def _random_heads(config: Config, mask: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
    batch, length = mask.shape
    count = max(1, round(MASKED_SHARE * length))
    positions = np.zeros((batch, count), np.int64)
    weights = np.zeros((batch, count), np.int64)
    for row in range(batch):
        seen = np.flatnonzero(mask[row])
        guessed = min(len(seen), max(1, count - row))
        positions[row, :guessed] = np.sort(random.choice(seen, guessed, replace=False))
        weights[row, :guessed] = 1
    return {
        "masked_lm_positions": positions,
        "masked_lm_ids": random.integers(0, config.vocab_size, (batch, count)) * weights,
        "masked_lm_weights": weights,
        "next_sentence_labels": np.asarray(random.integers(0, 2, batch)),
    }


def check_ids(config: Config, inputs: Inputs) -> None:
    """Raise InputError unless the model can read these ids. Names and shapes have been checked already."""
    length = inputs["input_ids"].shape[1]
    there = [name for name in OF_THE_HEADS if inputs.get(name) is not None]
    problems = []
    if length > config.max_position_embeddings:
        problems.append(
            Problem("input_ids", f"at most {config.max_position_embeddings} positions", f"{length}")
        )
    if config.heads:
        problems += [
            Problem(name, "an array, for the pre-training heads", "none")
            for name in OF_THE_HEADS
            if name not in there
        ]
    else:
        problems += [Problem(name, "none: this model has no pre-training heads", "some") for name in there]
    if problems:
        raise InputError(f"This model cannot read these inputs ({inputs.origin}).", problems=problems)
    sizes = {
        "input_ids": config.vocab_size,
        "input_mask": 2,
        "segment_ids": config.type_vocab_size,
        "masked_lm_positions": length,
        "masked_lm_ids": config.vocab_size,
        "masked_lm_weights": 2,
        "next_sentence_labels": 2,
    }
    inputs.check_range({name: size for name, size in sizes.items() if inputs.get(name) is not None})
