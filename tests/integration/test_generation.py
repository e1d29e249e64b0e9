"""The port's cached decoding, token by token, against Mesh's own decoders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from demo.task import LENGTH, examples
from porting import convert_checkpoint, load_model
from porting.ports.t5.decode import decode_with_original
from porting.ports.t5.model import T5Model
from tests.integration.conftest import SMALL, V1_0, V1_1, MakeCheckpoint

END = 1
DEMO = Path(__file__).parents[2] / "demo" / "checkpoint"
NEW_TOKENS = 12


@pytest.fixture(scope="module", params=["trained", "random 1.0", "random 1.1"])
def source(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint) -> Path:
    if request.param == "trained":
        return DEMO
    return make_checkpoint(files=V1_0 if request.param == "random 1.0" else V1_1, overrides=SMALL, seed=3)


@pytest.fixture(scope="module")
def model(source: Path, tmp_path_factory: pytest.TempPathFactory) -> T5Model:
    directory = tmp_path_factory.mktemp("generation") / "model"
    convert_checkpoint(source, directory)
    return load_model(directory)


@pytest.fixture(scope="module")
def inputs(source: Path) -> np.ndarray:
    """Rows of different length, so that some are padded."""
    if source == DEMO:
        return examples(6, np.random.default_rng(11), test=True)[0]
    ids = np.random.default_rng(11).integers(2, 100, size=(6, 20)).astype(np.int32)
    for row, length in enumerate((20, 3, 11, 1, 17, 8)):
        ids[row, length:] = 0
    return ids


def said(row: np.ndarray) -> list[int]:
    """Tokens up to the first end: the original's greedy decoder goes on behind it."""
    tokens = row.tolist()
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


@pytest.mark.parametrize("num_beams", [1, 2, 4])
def test_tokens_are_the_originals(source: Path, model: T5Model, inputs: np.ndarray, num_beams: int) -> None:
    original = decode_with_original(source, inputs, num_beams=num_beams, max_new_tokens=NEW_TOKENS)
    port = model.generate(torch.from_numpy(inputs).long(), max_new_tokens=NEW_TOKENS, num_beams=num_beams)
    assert (port[:, 0] == 0).all()
    padded = np.zeros_like(original)
    padded[:, : port.shape[1] - 1] = port[:, 1:].numpy()
    for row, (theirs, ours) in enumerate(zip(original, padded, strict=True)):
        assert said(theirs) == said(ours), f"row {row}"
        assert not any(ours[len(said(ours)) :]), "zeros after the end"


def test_the_length_penalty_is_the_originals(tmp_path: Path) -> None:
    """On inputs that no training has seen, where sequences of different length compete to be the best."""
    generator = np.random.default_rng(12)
    inputs = np.zeros((96, 14), np.int32)
    for row in inputs:
        length = int(generator.integers(3, 14))
        row[:length] = generator.integers(2, 128, length)
    convert_checkpoint(DEMO, tmp_path / "model")
    model = load_model(tmp_path / "model")

    def answers(length_penalty: float) -> list[list[int]]:
        ids = torch.from_numpy(inputs).long()
        tokens = model.generate(ids, max_new_tokens=18, num_beams=4, length_penalty=length_penalty)
        return [said(row.numpy()) for row in tokens[:, 1:]]

    original = decode_with_original(DEMO, inputs, num_beams=4, max_new_tokens=18)
    assert answers(0.6) == [said(row) for row in original]
    assert answers(0.0) != answers(0.6), "the penalty decides nothing here: choose other inputs"


def test_the_trained_checkpoint_solves_its_task(tmp_path: Path) -> None:
    convert_checkpoint(DEMO, tmp_path / "model")
    inputs, targets = examples(200, np.random.default_rng(5), test=True)
    port = load_model(tmp_path / "model").generate(torch.from_numpy(inputs).long(), max_new_tokens=LENGTH)
    answers = np.zeros_like(targets)
    answers[:, : port.shape[1] - 1] = port[:, 1:].numpy()
    assert (answers == targets).all(axis=1).mean() >= 0.99


def test_the_cache_changes_nothing(model: T5Model, inputs: np.ndarray) -> None:
    """Each token is what the full forward pass over all tokens so far would say."""
    ids = torch.from_numpy(inputs).long()
    tokens = model.generate(ids, max_new_tokens=NEW_TOKENS)
    with torch.no_grad():
        logits = model(
            input_ids=ids, decoder_input_ids=tokens, decoder_attention_mask=torch.ones_like(tokens)
        ).logits
    again = logits.argmax(-1)
    for row in range(len(ids)):
        expected = said(tokens[row, 1:].numpy())
        assert again[row, : len(expected)].tolist() == expected


def test_a_padded_row_is_decoded_as_it_is_alone(model: T5Model, inputs: np.ndarray) -> None:
    ids = torch.from_numpy(inputs).long()
    for num_beams in (1, 3):
        together = model.generate(ids, max_new_tokens=NEW_TOKENS, num_beams=num_beams)
        for row in range(len(ids)):
            length = int((ids[row] != 0).sum())
            alone = model.generate(
                ids[row : row + 1, :length], max_new_tokens=NEW_TOKENS, num_beams=num_beams
            )
            assert said(together[row, 1:].numpy()) == said(alone[0, 1:].numpy())
