"""BERT beside Google's own code: checkpoints that it wrote, every tensor that it computes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from porting import compare_outputs, convert_checkpoint, load_model
from porting.capture import capture
from porting.compare import Comparison
from porting.convert.dtypes import DTYPES
from porting.errors import ConfigError, InputError, ReferenceRunError
from porting.inputs import Inputs
from porting.original import Original
from porting.port import port_named
from porting.ports.bert.ids import random_ids
from porting.ports.bert.port import NAMES, run
from porting.ports.bert.revealing import revealing_ids
from porting.references.process import ReferenceProcess
from porting.trace import Trace
from tests.ports.bert.make_checkpoint import CONFIG

ROOT = Path(__file__).parents[2]
ORIGINAL = ("tensorflow", "tf_keras", "bert")

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """A checkpoint that the original wrote; equal requests are met once."""
    made: dict[str, Path] = {}
    with ReferenceProcess("tests.ports.bert.make_checkpoint:run", ROOT) as process:

        def checkpoint(**options: Any) -> Path:
            key = json.dumps(options)
            if key not in made:
                folder = tmp_path_factory.mktemp("bert")
                process.call({"output": str(folder), **options})
                made[key] = folder
            return made[key]

        yield checkpoint


@pytest.fixture(scope="module")
def process() -> Iterator[ReferenceProcess]:
    """The original's process, for all checkpoints in turn."""
    with ReferenceProcess(port_named("bert").reference) as process:
        yield process


@pytest.fixture(scope="module")
def pretraining(make: Make) -> Path:
    return make()


@pytest.fixture(scope="module")
def model_dir(pretraining: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("converted") / "model"
    convert_checkpoint(pretraining, path)
    return path


@pytest.fixture(scope="module")
def trace(pretraining: Path, process: ReferenceProcess) -> Trace:
    """Of the pre-training model, with its gradients."""
    return traced(pretraining, process, backward=True)


def traced(checkpoint: Path, process: ReferenceProcess, config: Path | None = None, **options: Any) -> Trace:
    with Original(checkpoint, config, process) as original:
        return original.run(random_ids(original.config, 3, 24, 0), **options)


def assert_explained(comparison: Comparison, atol: float = 1e-4) -> None:
    """Every tap on both sides, within the tolerance, and nothing that rounding does not explain."""
    assert comparison.status == "match", comparison.first_divergence
    assert not comparison.faults, comparison.faults
    assert not comparison.unmatched_reference
    assert not comparison.unmatched_port
    assert max(row.max_abs_diff for row in comparison.tensors) < atol


def altered(model_dir: Path, folder: Path, **settings: Any) -> Path:
    """The same weights under another config.json."""
    shutil.copytree(model_dir, folder / "altered")
    config = folder / "altered" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    return folder / "altered"


def test_every_tensor_and_every_gradient_of_pre_training(trace: Trace, model_dir: Path) -> None:
    comparison = compare_outputs(trace, model_dir, backward=True)
    assert_explained(comparison)
    taps = [tap.name for tap in port_named("bert").taps(load_model(model_dir).config)]
    assert len(taps) == 48
    assert {row.name for row in comparison.tensors} == set(taps)
    backward = comparison.backward
    assert backward is not None
    assert backward.status == "match", backward
    assert len(backward.tensors) == 48 + 46
    assert trace.metadata["versions"].keys() >= {"tensorflow", "bert-tensorflow", "tf-keras"}


def test_hidden_scores_are_moved_by_as_much_as_in_the_original(trace: Trace, model_dir: Path) -> None:
    """A comparison takes them for masks, whatever they are."""
    model = load_model(model_dir)
    name = "bert.encoder.layer.0.attention.self.scores"
    taps = [tap for tap in port_named("bert").taps(model.config) if tap.name == name]
    own = capture(model, trace.inputs, taps, run)
    assert trace[name].min() < -9900
    np.testing.assert_allclose(own[name], trace[name], atol=2e-3)


def test_inputs_that_are_chosen_to_hurt(
    pretraining: Path, model_dir: Path, process: ReferenceProcess
) -> None:
    with Original(pretraining, process=process) as original:
        for label, inputs in islice(revealing_ids(original.config), 14):
            found = compare_outputs(original.run(inputs), model_dir, analyse="row of padding" in label)
            assert found.status == "match", (label, found.first_divergence)
            assert not found.faults, (label, found.faults)


def test_the_encoder_alone(make: Make, process: ReferenceProcess, tmp_path: Path) -> None:
    checkpoint = make(heads=False, seed=5)
    convert_checkpoint(checkpoint, tmp_path / "model")
    trace = traced(checkpoint, process)
    assert_explained(compare_outputs(trace, tmp_path / "model", checkpoint=checkpoint))
    with pytest.raises(ReferenceRunError, match="built without a loss"):
        traced(checkpoint, process, backward=True)
    with pytest.raises(InputError, match="no pre-training heads"), Original(checkpoint, process=process) as o:
        o.run(Inputs.from_arrays({"input_ids": [[1]], "next_sentence_labels": [0]}))

    from transformers import BertModel

    theirs, report = BertModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        output = theirs(**transformers_arguments(trace.inputs))
    seen = trace.inputs["input_mask"].astype(bool)
    hidden = trace["encoder.layer.1.output.LayerNorm"]
    np.testing.assert_allclose(output.last_hidden_state.numpy()[seen], hidden[seen], atol=2e-5)
    np.testing.assert_allclose(output.pooler_output.numpy(), trace["pooler.activation"], atol=2e-5)


def transformers_arguments(inputs: Inputs) -> dict[str, torch.Tensor]:
    names = ("input_ids", "input_mask", "segment_ids")
    return {NAMES.get(name, name): torch.from_numpy(inputs[name]).long() for name in names}


def test_transformers_loads_the_directory_and_computes_the_same(trace: Trace, model_dir: Path) -> None:
    from transformers import BertForPreTraining

    theirs, report = BertForPreTraining.from_pretrained(model_dir, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert theirs.config.hidden_act == "gelu_new"
    assert theirs.config.layer_norm_eps == 1e-12
    with torch.no_grad():
        output = theirs(**transformers_arguments(trace.inputs))
    # Rows of their own where they may see something; all rows may here.
    positions = trace.inputs["masked_lm_positions"]
    logits = np.take_along_axis(output.prediction_logits.numpy(), positions[..., None], axis=1)
    np.testing.assert_allclose(logits, trace["cls.predictions.logits"], atol=5e-5)
    np.testing.assert_allclose(
        output.seq_relationship_logits.numpy(), trace["cls.seq_relationship"], atol=5e-5
    )


def test_transformers_differs_where_a_row_may_see_nothing(
    pretraining: Path, model_dir: Path, process: ReferenceProcess
) -> None:
    from transformers import BertForPreTraining

    with Original(pretraining, process=process) as original:
        inputs = random_ids(original.config, 2, 12, 4)
        inputs = inputs.having(input_mask=inputs["input_mask"] * np.array([[1], [0]], np.int32))
        trace = original.run(inputs)
    assert_explained(compare_outputs(trace, model_dir, checkpoint=pretraining), atol=2e-2)
    theirs = BertForPreTraining.from_pretrained(model_dir, attn_implementation="eager")
    with torch.no_grad():
        relation = theirs(**transformers_arguments(inputs)).seq_relationship_logits.numpy()
    apart = np.abs(relation - trace["cls.seq_relationship"]).max(-1)
    assert apart[0] < 5e-5
    assert apart[1] > 1e-2


def test_transformers_gelu_is_within_the_tolerance_and_still_found_out(
    make: Make, process: ReferenceProcess, tmp_path: Path
) -> None:
    checkpoint = make(scale=0.1, training=False)
    convert_checkpoint(checkpoint, tmp_path / "model")
    wrong = altered(tmp_path / "model", tmp_path, hidden_act="gelu")
    found = compare_outputs(traced(checkpoint, process), wrong, checkpoint=checkpoint)
    assert found.status == "match"
    act = {row.name: row.max_abs_diff for row in found.tensors}["bert.encoder.layer.0.intermediate.act"]
    assert 2e-4 < act < 3e-4
    (fault,) = found.faults
    assert fault.name == "bert.encoder.layer.0.intermediate.act"
    assert fault.also == ("bert.encoder.layer.1.intermediate.act", "cls.predictions.transform.act")
    assert fault.cause is not None
    assert fault.cause.words == "in the port's config hidden_act is gelu; the original has gelu_new"


def test_other_faults_are_found_where_they_are(trace: Trace, pretraining: Path, model_dir: Path) -> None:
    """A transposed square kernel, and a norm whose scale and bias are exchanged."""
    model = load_model(model_dir)
    layer = model.bert.encoder.layer[1]
    query = layer.attention.self.query
    query.weight.data = query.weight.data.T.contiguous()
    norm = model.cls.predictions.transform.LayerNorm
    norm.weight.data, norm.bias.data = norm.bias.data, norm.weight.data
    found = compare_outputs(trace, model, checkpoint=pretraining)
    assert found.status == "diverged"
    assert found.first_divergence is not None
    assert found.first_divergence.name == "bert.encoder.layer.1.attention.self.query"
    assert [fault.name for fault in found.faults] == [
        "bert.encoder.layer.1.attention.self.query",
        "cls.predictions.transform.LayerNorm",
    ]
    assert found.faults[0].cause is not None
    assert "transposed" in found.faults[0].cause.words


def test_a_larger_epsilon_is_one_fault_of_every_norm(
    trace: Trace, pretraining: Path, model_dir: Path
) -> None:
    model = load_model(model_dir)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-5
    found = compare_outputs(trace, model, checkpoint=pretraining)
    assert found.status == "match"
    (fault,) = found.faults
    assert {fault.name, *fault.also} >= {"bert.embeddings.LayerNorm", "cls.predictions.transform.LayerNorm"}
    assert fault.cause is not None
    assert fault.cause.words == "epsilon is 1e-05 in the port, 1e-12 in the original"


@pytest.mark.parametrize("act", ["relu", "linear"])
def test_other_activations(make: Make, process: ReferenceProcess, tmp_path: Path, act: str) -> None:
    checkpoint = make(config={"hidden_act": act, "num_hidden_layers": 1, "num_attention_heads": 4})
    convert_checkpoint(checkpoint, tmp_path / "model")
    trace = traced(checkpoint, process)
    assert_explained(compare_outputs(trace, tmp_path / "model", checkpoint=checkpoint))


def test_without_a_config_heads_are_assumed_or_asked_for(
    make: Make, process: ReferenceProcess, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 1}
    checkpoint = make(config=sizes, training=False, with_config=False)
    done = convert_checkpoint(checkpoint, tmp_path / "model")
    assert any("num_attention_heads 2" in text for text in done.resolved.assumed)
    trace = traced(checkpoint, process)
    assert_explained(compare_outputs(trace, tmp_path / "model", checkpoint=checkpoint))
    narrow = make(config={"num_hidden_layers": 1}, training=False, with_config=False)
    with pytest.raises(ConfigError, match="number of attention heads cannot be read off shapes"):
        convert_checkpoint(narrow, tmp_path / "narrow")
    answers = tmp_path / "answers.json"
    answers.write_text('{"num_attention_heads": 3}')
    assert convert_checkpoint(narrow, tmp_path / "narrow", config=answers).config["num_attention_heads"] == 3


def test_weights_of_other_dtypes(
    make: Make, process: ReferenceProcess, trace: Trace, pretraining: Path, tmp_path: Path
) -> None:
    stored = make(dtype="bfloat16", training=False, config={"num_hidden_layers": 1})
    done = convert_checkpoint(stored, tmp_path / "stored")
    assert done.config["dtype"] == "bfloat16"
    assert_explained(compare_outputs(traced(stored, process), tmp_path / "stored", checkpoint=stored))
    convert_checkpoint(pretraining, tmp_path / "narrowed", dtype="bfloat16")
    assert "bfloat16" in DTYPES
    found = compare_outputs(trace, tmp_path / "narrowed", checkpoint=pretraining)
    assert found.status == "diverged"
    assert not found.faults, found.faults  # rounding the weights explains all of it


def test_the_checkpoint_is_what_google_publishes(pretraining: Path, model_dir: Path) -> None:
    assert json.loads((pretraining / "bert_config.json").read_text()) == CONFIG
    done = convert_checkpoint(pretraining, model_dir.parent / "again", dry_run=True)
    assert done.plan.ignored_counts() == {"optimizer state": 92, "global step": 1}
    assert done.port == "bert"
