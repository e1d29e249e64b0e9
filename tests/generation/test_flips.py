"""Judging flips, on a module that says what a table tells it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from porting import compare_outputs
from porting.errors import InputError
from porting.generation.comparison import Flip, GenerationComparison
from porting.generation.decoding import Decoding, GenerationSettings, Sequences
from porting.generation.flips import check_generates, compare_generation, compare_kept_generation
from porting.inputs import Inputs
from porting.ports.t5 import PORT

END = 1
INPUTS = Inputs.from_arrays({"inputs": [[5, 1], [6, 1]], "targets": [[7, 1], [8, 1]]})
GREEDY = GenerationSettings("greedy", 4, 1)
BEAM = GenerationSettings("beam", 4, 2)


class Table(nn.Module):
    """Logits of step s are row s of an embedding, whatever is fed."""

    def __init__(self, logits: Tensor, says: Sequences) -> None:
        super().__init__()
        self.table, self.says = nn.Embedding.from_pretrained(logits), says

    def generate(self, _ids: Tensor, **_: Any) -> Sequences:
        return self.says


def decoding(**changed: Any) -> Decoding:
    return replace(
        Decoding(
            reference="",
            check=lambda *_: None,
            generate=lambda module, inputs, _settings: module.generate(torch.tensor(inputs["inputs"])),
            forced=lambda module, _inputs, said: module.table(torch.arange(max(map(len, said)))).expand(
                len(said), -1, -1
            ),
            taps=lambda _config: [],
            length_penalty=lambda length: float(length),
            end_id=END,
            incomparable=lambda _config: "",
        ),
        **changed,
    )


@dataclass
class Case:
    """Logits that are 5 for the tokens that the original says in row 0, `more` at some, 0 elsewhere."""

    reference: Sequences
    settings: GenerationSettings = GREEDY

    def __call__(
        self, port: Sequences, *, more: dict[tuple[int, int], float] | None = None, **changed: Any
    ) -> GenerationComparison:
        logits = torch.zeros(6, 10)
        for step, token in enumerate(self.reference[0]):
            logits[step, token] = 5.0
        for place, value in (more or {}).items():
            logits[place] = value
        return compare_generation(
            replace(PORT, decoding=decoding(**changed)),
            Table(logits, port),
            None,
            INPUTS,
            self.settings,
            self.reference,
        )


@pytest.fixture
def greedy() -> Case:
    return Case(((5, 6, 7, END), (5, 6, 7, END)))


def test_the_same_tokens_match(greedy: Case) -> None:
    found = greedy(greedy.reference)
    assert found.status == "match" and found.first_flip is None and not found.flips
    assert found.to_json()["sequences"][1] == {"row": 1, "reference": [5, 6, 7, 1], "port": [5, 6, 7, 1]}


def test_a_flip_has_the_margin_of_its_logits(greedy: Case) -> None:
    found = greedy(((5, 6, 7, END), (5, 8, 9, END)), more={(1, 8): 4.5})
    assert found.flips == (found.first_flip,)
    flip = found.first_flip
    assert flip and (flip.row, flip.step, flip.reference_token, flip.port_token) == (1, 1, 6, 8)
    assert flip.margin == pytest.approx(-0.5) and 0 < flip.noise_floor < 1e-5
    assert not flip.below_noise and found.status == "diverged"
    assert "its cache" in flip.note


def test_a_flip_that_the_logits_want_too_is_no_fault_of_decoding(greedy: Case) -> None:
    flip = greedy(((5, 6, 7, END), (5, 8, 9, END)), more={(1, 8): 5.5}).first_flip
    assert flip and flip.margin == pytest.approx(0.5) and "its tensors" in flip.note


@pytest.mark.parametrize("ulps", [0, 1, -1])
def test_what_rounding_decides_is_a_tie(greedy: Case, ulps: int) -> None:
    near = float(np.float32(5.0) + np.float32(ulps * 5e-7))
    found = greedy(((5, 8, 9, END), (5, 6, 7, END)), more={(1, 8): near})
    assert found.first_flip and found.first_flip.below_noise and "tie" in found.first_flip.note
    assert found.status == "match"


def test_behind_a_tie_the_original_is_followed(greedy: Case) -> None:
    found = greedy(((5, 8, 9, END), (5, 6, 7, END)), more={(1, 8): 5.0, (2, 4): 6.0})
    assert [(flip.step, flip.port_token, flip.below_noise) for flip in found.flips] == [
        (1, 8, True),
        (2, 4, False),
    ]
    assert found.first_flip and found.first_flip.step == 2 and found.status == "diverged"


def test_a_real_flip_goes_before_an_earlier_tie(greedy: Case) -> None:
    found = greedy(((8, 6, 7, END), (5, 6, 9, END)), more={(0, 8): 5.0})
    assert [flip.below_noise for flip in found.flips] == [True, False]
    assert found.first_flip and (found.first_flip.row, found.first_flip.step) == (1, 2)


@pytest.mark.parametrize("says", [(5, 6, 7, END, 4), (5, 6)])
def test_an_end_on_one_side_only_is_no_tie(greedy: Case, says: tuple[int, ...]) -> None:
    flip = greedy((greedy.reference[0], says)).first_flip
    assert flip and None in (flip.reference_token, flip.port_token)
    assert flip.margin is None and not flip.below_noise and "ended" in flip.note


@pytest.fixture
def beam() -> Case:
    return Case(((5, 6, END), (5, 6, END)), BEAM)


def log_probs(step: dict[int, float]) -> Tensor:
    logits = torch.zeros(10)
    for token, value in step.items():
        logits[token] = value
    return logits.log_softmax(-1)


def test_beams_are_judged_by_whole_sequences_and_their_length(beam: Case) -> None:
    found = beam(((5, 6, END), (5, END)), more={(1, END): 4.9})
    flip = found.first_flip
    assert flip and (flip.row, flip.step, flip.port_token) == (1, 1, END)
    first, last = log_probs({5: 5.0})[5], log_probs({END: 5.0})[END]
    both = log_probs({6: 5.0, END: 4.9})
    assert flip.reference_score == pytest.approx(float(first + both[6] + last) / 3, abs=1e-6)
    assert flip.port_score == pytest.approx(float(first + both[END]) / 2, abs=1e-6)
    assert flip.margin == pytest.approx(flip.port_score - flip.reference_score)
    assert found.status == "diverged"


def test_beams_of_equal_score_are_a_tie(beam: Case) -> None:
    found = beam(((5, 6, END), (5, 7, END)), more={(1, 7): 5.0})
    assert found.first_flip and found.first_flip.below_noise and found.status == "match"


def test_a_beam_that_never_ends_is_no_tie(beam: Case) -> None:
    flip = beam(((5, 6, END), (5, 6, 1 + END))).first_flip
    assert flip and flip.margin is None and not flip.below_noise and "none that ends" in flip.note


def test_what_cannot_be_compared_is_said_and_not_judged(greedy: Case) -> None:
    found = greedy(((5, 6, 7, END), (5, 8, 9, END)), incomparable=lambda _config: "of experts")
    assert found.incremental.status == "not compared" and found.incremental.note == "of experts"
    assert found.first_flip and found.first_flip.margin is None and "of experts" in found.first_flip.note
    assert found.status == "diverged"


def test_a_module_without_generate_is_refused() -> None:
    with pytest.raises(InputError, match="Linear has no generate") as caught:
        check_generates(nn.Linear(1, 1))
    assert "num_beams" in caught.value.remedy


@pytest.mark.parametrize("error", [TypeError("unexpected keyword"), RuntimeError("shapes")])
def test_a_generate_that_fails_is_unusable_input(greedy: Case, error: Exception) -> None:
    def fail(*_: Any) -> Sequences:
        raise error

    with pytest.raises(InputError, match=f"port's generate failed.*{error}"):
        greedy(greedy.reference, generate=fail)
    with pytest.raises(InputError, match=f"port failed when fed.*{error}"):
        greedy(greedy.reference, forced=fail)


def test_a_generate_of_another_batch_is_refused(greedy: Case) -> None:
    with pytest.raises(InputError, match="1 sequences from 2 inputs"):
        greedy(greedy.reference[:1])


def test_a_port_that_does_not_generate_is_refused(greedy: Case) -> None:
    port = replace(PORT, decoding=None)
    kept = {"generation": {**GREEDY.to_json(), "sequences": greedy.reference}}
    with pytest.raises(InputError, match="does not say how it generates"):
        compare_kept_generation(port, nn.Linear(1, 1), None, INPUTS, kept, ("greedy", None, None))


def test_json_says_everything(greedy: Case) -> None:
    found = greedy(((5, 6, 7, END), (5, 8, 9, END))).to_json()
    assert set(found) == {
        "status",
        "method",
        "num_beams",
        "max_new_tokens",
        "sequences",
        "first_flip",
        "flips",
        "incremental",
    }
    keys = {"row", "step", "reference_token", "port_token", "margin", "noise_floor", "below_noise"}
    assert keys <= set(found["first_flip"])
    keys = {"status", "first_divergence", "steps", "taps", "largest"}
    assert keys <= set(found["incremental"])


def test_a_flip_without_scores_is_never_below_noise() -> None:
    assert not Flip(0, 0, 5, 6, noise_floor=1.0).below_noise
    assert not Flip(0, 0, 5, 6, reference_score=1.0, port_score=1.0).below_noise
    assert Flip(0, 0, 5, 6, 1.0, 1.5, noise_floor=0.5).below_noise


def test_a_module_without_generate_is_refused_before_the_original_runs() -> None:
    with pytest.raises(InputError, match="Linear has no generate"):
        compare_outputs("no/such/checkpoint", nn.Linear(1, 1), generate="beam")
