"""`--generate`: what Mesh's own decoders say against the port, and faults that only generation shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from porting import Comparison, Inputs, compare_outputs, convert_checkpoint, load_model, run_reference
from porting.checkpoint import open_checkpoint
from porting.cli import compare_outputs_command
from porting.generation.decoding import GenerationSettings, decode_with_reference
from porting.ports.t5 import PORT, cache, generation
from porting.ports.t5.context import StackContext
from porting.source import resolve_config
from porting.trace import Trace
from tests.integration.conftest import SMALL, V1_0, V1_1, MakeCheckpoint

DEMO = Path(__file__).parents[2] / "demo" / "checkpoint"
SELF_ATTENTION = "decoder.block.0.layer.0.SelfAttention"
NEW_TOKENS = 12
# On inputs that no training has seen, sequences of different length compete to be the best.
BEAMS = GenerationSettings("beam", max_new_tokens=18, num_beams=4)

Fault = Callable[[nn.Module], None]


@dataclass(frozen=True)
class Ported:
    model_dir: Path
    trace: Trace

    def compare(self, *faults: Fault, method: str = "greedy") -> Comparison:
        model = load_model(self.model_dir)
        for fault in faults:
            fault(model)
        return compare_outputs(self.trace, model, generate=method)


def unseen_inputs(rows: int, longest: int, vocab_size: int) -> Inputs:
    generator = np.random.default_rng(12)
    ids = np.zeros((rows, longest), np.int32)
    for row in ids:
        length = int(generator.integers(3, longest + 1))
        row[:length] = generator.integers(2, vocab_size, length)
    return Inputs.from_arrays({"inputs": ids, "targets": ids[:, :5]})


@pytest.fixture(scope="module", params=["t5.1.0", "t5.1.1"])
def ported(
    request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, tmp_path_factory: pytest.TempPathFactory
) -> Ported:
    checkpoint = make_checkpoint(V1_0 if request.param == "t5.1.0" else V1_1, SMALL)
    folder = tmp_path_factory.mktemp("generation")
    convert_checkpoint(checkpoint, folder / "model")
    inputs = unseen_inputs(3, 9, 100)
    trace = run_reference(checkpoint, inputs, generate="greedy", max_new_tokens=NEW_TOKENS)
    return Ported(folder / "model", trace)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Ported:
    """The trained checkpoint, whose sequences end; decoded greedily."""
    folder = tmp_path_factory.mktemp("demo")
    convert_checkpoint(DEMO, folder / "model")
    inputs = unseen_inputs(48, 14, 128)
    trace = run_reference(DEMO, inputs, generate="greedy", max_new_tokens=18, save_to=folder / "trace")
    return Ported(folder / "model", trace)


@pytest.fixture(scope="module")
def beams(demo: Ported) -> Ported:
    """The same, decoded by Mesh's beam search."""
    checkpoint = open_checkpoint(DEMO)
    resolved = resolve_config(checkpoint, None)[1]
    request = {
        "checkpoint": str(checkpoint.path.resolve()),
        "original_config": resolved.original_text,
        "config": PORT.config_to_json(resolved.config),
    }
    assert PORT.decoding
    decoded = decode_with_reference(PORT.decoding, BEAMS, demo.trace.inputs, request)
    return replace(demo, trace=replace(demo.trace, metadata={**demo.trace.metadata, "generation": decoded}))


def test_a_right_port_says_what_the_original_says(ported: Ported) -> None:
    comparison = ported.compare()
    found = comparison.to_json()["generation"]
    assert comparison.status == found["status"] == "match"
    assert (found["method"], found["num_beams"], found["max_new_tokens"]) == ("greedy", 1, NEW_TOKENS)
    assert found["first_flip"] is None
    assert [row["reference"] for row in found["sequences"]] == [row["port"] for row in found["sequences"]]
    assert all(len(row["port"]) == NEW_TOKENS or row["port"][-1] == 1 for row in found["sequences"])
    assert found["incremental"]["status"] == "match"
    assert found["incremental"]["steps"] == NEW_TOKENS
    assert found["incremental"]["taps"] > 40
    assert found["incremental"]["largest"]["max_rel_diff"] < 1e-5


def test_a_right_port_finds_the_beams_of_the_original(beams: Ported) -> None:
    comparison = beams.compare(method="beam")
    assert comparison.generation and comparison.generation.settings == BEAMS
    assert comparison.generation.status == "match", comparison.generation.flips
    lengths = {len(row) for row in comparison.generation.reference}
    assert len(lengths) > 5


def forgets(model: nn.Module) -> None:
    """Positions are counted, and what they held is not kept."""

    class Forgetful(cache.AttentionCache):
        def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            before = 0 if self.keys is None else self.keys.shape[2]
            self.keys, self.values = (nn.functional.pad(t, (0, 0, before, 0)) for t in (keys, values))
            return self.keys, self.values

    _with_caches(model, Forgetful)


def overwrites(model: nn.Module) -> None:
    """The fourth position is written over the third."""

    class Overwriting(cache.AttentionCache):
        def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
            keys, values = super().append(keys, values)
            if keys.shape[2] == 4:
                self.keys, self.values = keys[:, :, [0, 1, 3, 3]], values[:, :, [0, 1, 3, 3]]
            return keys, values

    _with_caches(model, Overwriting)


def _with_caches(model: nn.Module, kind: type[cache.AttentionCache]) -> None:
    original = model.decoder._context

    def context(*args: Any) -> StackContext:
        right = original(*args)
        if right.caches is not None:
            right.cache = lambda layer: right.caches.setdefault(layer, kind())
        return right

    model.decoder._context = context


def off_by_one(model: nn.Module) -> None:
    """While decoding step by step, positions count from 1."""
    original = model.decoder._context

    def context(*args: Any) -> StackContext:
        right = original(*args)
        if right.caches is not None:
            right.relative_position = right.relative_position - 1
        return right

    model.decoder._context = context


CACHE_FAULTS: dict[Fault, tuple[str, int]] = {
    forgets: (f"{SELF_ATTENTION}.scores", 1),
    overwrites: (f"{SELF_ATTENTION}.scores", 4),
    off_by_one: (f"{SELF_ATTENTION}.position_bias", 0),
}


@pytest.mark.parametrize("fault", CACHE_FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_the_cache_is_named_with_its_step(ported: Ported, fault: Fault) -> None:
    """Every tensor of the full run agrees: nothing but generation shows it."""
    comparison = ported.compare(fault)
    assert comparison.first_divergence is None
    assert comparison.exit_code == 1
    assert comparison.generation
    first = comparison.generation.incremental.first_divergence
    assert first and (first.name, first.step) == CACHE_FAULTS[fault]


def test_a_fault_of_the_cache_is_told_from_a_fault_of_the_tensors(ported: Ported) -> None:
    flips = [ported.compare(fault).generation.first_flip for fault in (forgets, off_by_one)]
    flips = [flip for flip in flips if flip is not None]
    assert flips, "no token flips: choose other inputs"
    for flip in flips:
        assert flip.margin < 0 and not flip.below_noise
        assert "cache" in flip.note


def test_a_wrong_tensor_is_no_fault_of_the_cache(ported: Ported) -> None:
    def wrong(model: nn.Module) -> None:
        with torch.no_grad():
            model.decoder.block[0].layer[1].EncDecAttention.v.weight.mul_(-3.0)

    comparison = ported.compare(wrong)
    assert comparison.generation and comparison.first_divergence
    assert comparison.generation.incremental.status == "match"
    flip = comparison.generation.first_flip
    assert flip and flip.margin and flip.margin > 0 and "its tensors" in flip.note


def test_going_on_behind_the_end_is_found(demo: Ported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "EOS_ID", -1)
    flip = demo.compare().generation.first_flip
    assert flip and flip.reference_token is None and flip.port_token is not None
    assert "ends are handled" in flip.note and not flip.below_noise


def test_ending_too_early_is_found(demo: Ported, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port takes a token that is often said for the end."""
    tokens = [token for row in demo.trace.metadata["generation"]["sequences"] for token in row[:-1]]
    monkeypatch.setattr(generation, "EOS_ID", max(set(tokens), key=tokens.count))
    comparison = demo.compare()
    assert comparison.exit_code == 1
    assert comparison.generation.first_flip.port_token == 0


def generating(**changed: Any) -> Fault:
    """A model that generates with other settings than it is asked to."""

    def fault(model: nn.Module) -> None:
        right = model.generate
        model.generate = lambda ids, **settings: right(ids, **{**settings, **changed})

    return fault


def wrong_penalty(model: nn.Module) -> None:
    """length**alpha instead of ((5 + length) / 6)**alpha, as transformers has it."""
    del model
    generation._penalty = lambda length, alpha: float(length**alpha)


@pytest.fixture
def _penalty_restored() -> Iterator[None]:
    right = generation._penalty
    yield
    generation._penalty = right


BEAM_FAULTS = {
    "no length penalty": generating(length_penalty=0.0),
    "another length penalty": wrong_penalty,
    "fewer beams": generating(num_beams=2),
    "beams not followed by the cache": generating(),
}


@pytest.mark.usefixtures("_penalty_restored")
@pytest.mark.parametrize("name", BEAM_FAULTS)
def test_a_fault_of_the_beam_search_is_found(
    beams: Ported, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "beams not followed by the cache":
        monkeypatch.setattr(cache.DecoderCache, "select", lambda *_: None)
    comparison = beams.compare(BEAM_FAULTS[name], method="beam")
    assert comparison.generation and comparison.generation.status == "diverged"
    assert comparison.exit_code == 1
    flips = [flip for flip in comparison.generation.flips if flip.margin is not None]
    assert flips and any(abs(flip.margin) > 100 * flip.noise_floor for flip in flips)


@pytest.mark.parametrize("gap", ["rounding", "real"])
def test_a_tie_is_a_tie(ported: Ported, gap: str) -> None:
    """One word's row of the output becomes nearly another's: which one is said hangs on a hair."""
    sequences = ported.trace.metadata["generation"]["sequences"]
    said = sequences[0][3]
    twin = next(token for token in range(2, 100) if all(token not in row for row in sequences))

    def with_twin(model: nn.Module) -> None:
        project = model.project

        def projected(hidden: Tensor) -> Tensor:
            logits = project(hidden).clone()
            more = logits[..., said].abs() * (2.0**-22 if gap == "rounding" else 1e-2)
            logits[..., twin] = logits[..., said] + more
            return logits

        model.project = projected

    comparison = ported.compare(with_twin)
    found = comparison.generation
    flip = found.first_flip
    assert flip and (flip.reference_token, flip.port_token) == (said, twin)
    assert flip.below_noise is (gap == "rounding")
    assert found.status == ("match" if gap == "rounding" else "diverged")
    assert 0 < flip.noise_floor < 1e-3


def test_a_fault_behind_a_tie_is_still_found(ported: Ported) -> None:
    sequences = ported.trace.metadata["generation"]["sequences"]
    number, row = next((i, row) for i, row in enumerate(sequences) if len(set(row)) > 1)
    said, later = row[0], row[-1]
    assert 90 not in row

    def faulty(model: nn.Module) -> None:
        project = model.project

        def projected(hidden: Tensor) -> Tensor:
            logits = project(hidden).clone()
            logits[..., 90] = logits[..., said] + logits[..., said].abs() * 2.0**-22
            logits[..., later] -= 50.0
            return logits

        model.project = projected

    flips = [flip for flip in ported.compare(faulty).generation.flips if flip.row == number]
    assert flips[0].below_noise and not flips[-1].below_noise
    assert flips[-1].reference_token == later and "behind a tie" in flips[-1].note


@pytest.mark.slow
def test_a_language_model_goes_on_as_the_original_does(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    sizes = ("d_model = 24", "d_ff = 40", "d_kv = 12", "num_heads = 3", "num_layers = 2")
    checkpoint = make_checkpoint(("defaults.gin", "models/lm_v1.gin"), sizes, kind="lm")
    convert_checkpoint(checkpoint, tmp_path / "model")
    begins = unseen_inputs(4, 7, 100)["inputs"]
    inputs = {"inputs": np.pad(begins, ((0, 0), (1, 0)))[:, :-1], "targets": begins}
    trace = run_reference(checkpoint, inputs, generate="greedy", max_new_tokens=6)
    comparison = compare_outputs(trace, tmp_path / "model", generate="greedy")
    assert comparison.status == "match"
    assert comparison.generation.incremental.status == "not compared"
    assert "keeps no cache" in comparison.generation.incremental.note

    model = load_model(tmp_path / "model")
    right = model.generate
    model.generate = lambda ids, **settings: right(ids.clamp(max=50), **settings)
    wrong = compare_outputs(trace, model, generate="greedy").generation
    assert wrong.status == "diverged" and wrong.first_flip.margin < 0


def test_the_command_keeps_what_was_generated_and_compares_again(demo: Ported, tmp_path: Path) -> None:
    common = [str(DEMO), str(demo.model_dir), "--report-dir", str(tmp_path)]
    common += ["--reference-trace", str(demo.trace.path)]
    again = CliRunner().invoke(compare_outputs_command, [*common, "--generate", "greedy", "--format", "json"])
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert found["generation"]["status"] == "match" and found["generation"]["max_new_tokens"] == 18
    page = (tmp_path / "model.md").read_text()
    assert "## What both generate" in page and "| 0 |" in page
    without = CliRunner().invoke(compare_outputs_command, [*common, "--format", "json"])
    assert json.loads(without.stdout)["generation"] is None
    for options, expected in (
        (["--generate", "beam"], "generated otherwise"),
        (["--generate", "greedy", "--max-new-tokens", "5"], "max_new_tokens: expected 18"),
        (["--num-beams", "3"], "num_beams: expected a method"),
    ):
        refused = CliRunner().invoke(compare_outputs_command, [*common, *options])
        assert refused.exit_code == 2
        assert expected in " ".join(refused.output.split())
