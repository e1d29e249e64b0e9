"""A port from nothing to done: each step's test fails with what to do, then passes.

The original is TensorFlow 1 code, and runs: without TensorFlow these tests are skipped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

import pytest

from porting.scaffold.steps import ALL_STEPS, STEPS
from tests.scaffold.filling import Filling, Outcome

# What each step's failure says before it is done, beside "Step n of 13" and what its list says to do next.
PROMISED: Mapping[str, tuple[str, ...]] = {
    "checkpoint": ("Build a small model with the original's own code", "Where: tests/make_checkpoint.py:"),
    "config": ("name the original's config file there, and read", "Where: porting_tiny/config.py:"),
    "variables": ("Return a list such as Rule(", "Where: porting_tiny/rules.py:"),
    "shapes": ("Make the modules", "Where: porting_tiny/model.py:"),
    "embeddings": (
        "port.toml does not say which tensors the embeddings ends with",
        "Where: porting_tiny/port.toml",
        "embeddings = [...]",
    ),
    "first_layer": ("the embeddings first, and leave an UnfinishedError", "Where: porting_tiny/model.py:"),
    "every_layer": ("Then the first layer", "Where: porting_tiny/model.py:"),
    "logits": ("Compute what the original computes", "Where: porting_tiny/model.py:"),
    "loss": ("INCOMPLETE: 15 tensors agree", "Only in the original: loss", "what it is divided by"),
    "gradients": ("the original was built without a loss", "BuiltGraph(taps, loss=loss.name)"),
    "generation": ("The port does not say how it generates", "decoding=DECODING"),
    "tokenizer": ("The port has no tokenizer", "tokenizer=TOKENIZER"),
    "model_card": ("FILL IN: the architecture in a sentence", "Where: MODEL_CARD.md:5"),
}


@pytest.fixture(scope="module")
def filling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filling]:
    if not find_spec("tensorflow") or not hasattr(os, "fork"):
        pytest.skip("the original is TensorFlow code, and runs of pytest are forked")
    filling = Filling(tmp_path_factory.mktemp("walk"))
    yield filling
    filling.close()


@pytest.fixture(scope="module")
def walk(filling: Filling) -> list[dict[str, Outcome]]:
    """The outcome of every step's test, before anything was filled in and after each step."""
    outcomes = [filling.outcomes()]
    for step in range(1, len(STEPS) + 1):
        filling.fill(step)
        outcomes.append(filling.outcomes())
    return outcomes


@pytest.mark.parametrize("step", STEPS)
def test_each_step_fails_with_what_to_do_and_then_passes(walk: list[dict[str, Outcome]], step: str) -> None:
    number = STEPS.index(step) + 1
    before, after = walk[number - 1][step], walk[number][step]
    assert before.result == "failed", before
    title = ALL_STEPS[number - 1].title
    assert f"Step {number} of 13, {step}: {title}? Not yet." in before.message
    for promised in PROMISED[step]:
        assert promised in before.message, before.message
    assert after == Outcome("passed", "")


@pytest.mark.parametrize("done", range(len(STEPS) + 1))
def test_one_step_fails_those_before_pass_and_those_behind_wait(
    walk: list[dict[str, Outcome]], done: int
) -> None:
    results = [walk[done][step].result for step in STEPS]
    expected = ["passed"] * done + ["failed"] * (done < len(STEPS)) + ["skipped"] * (len(STEPS) - done - 1)
    assert results == expected, next((o for o in walk[done].values() if o.result == "failed"), None)
    for step in STEPS[done + 1 :]:
        assert f"waits for step {done + 1}, {STEPS[done]}" in walk[done][step].message


STATUS = "from porting.cli import new_port_command as run; run(['--status', 'tiny', '--format', 'json'])"


def test_the_status_says_the_same(walk: list[dict[str, Outcome]], filling: Filling) -> None:
    del walk  # all is filled in, and every trace kept
    result = filling.run("-c", STATUS)
    assert result.returncode == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["status"] == "complete"
    assert {step["status"] for step in content["steps"]} == {"done"}


def test_a_finished_port_that_breaks_fails_where_it_goes_wrong(
    walk: list[dict[str, Outcome]], filling: Filling
) -> None:
    del walk
    model = filling.target("package/model.py")
    right = model.read_text()
    model.write_text(right.replace("EPSILON = 1e-3", "EPSILON = 1e-2"))
    outcomes = filling.outcomes()
    model.write_text(right)
    assert outcomes["embeddings"].result == "passed"
    message = outcomes["first_layer"].message
    assert "Step 6 of 13, first_layer: the first layer agrees? Not yet." in message
    assert "First divergence: h.0.ln_1 (original: model/h0/ln_1/normed:0)" in message
    assert "2 are wrong by themselves" in message
    assert "Cause: epsilon is 0.01 in the port, 0.001 in the original" in message
    assert {outcomes[step].result for step in STEPS[6:]} == {"skipped"}
