"""LongT5 from T5X: what its original computed, its variables, its config, and the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from porting import compare_outputs, load_model
from porting.checkpoint import open_checkpoint
from porting.convert import convert_checkpoint
from porting.errors import ConfigError
from porting.mapping import Shape
from porting.ports.t5.config import T5Config
from porting.ports.t5.long_config import LongT5Config
from porting.ports.t5.naming import infer_config, read_config, recognises, rules
from porting.ports.t5.parameters import parameter_shapes
from porting.ports.t5.spelling import spelling
from porting.ports.t5.t5x.original_format import T5X, T5X_SCANNED
from porting.source import make_plan
from tests.recordings import DATA

LONG = DATA / "longt5"
needs_long_t5 = pytest.mark.skipif(not LONG.is_dir(), reason="shared/data/longt5 is not there")
ANSWERS = {
    "local": {"encoder_attention_type": "local", "local_radius": 5},
    "tglobal": {"local_radius": 5, "global_block_size": 4},
}
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "d_model": 20,
    "d_kv": 8,
    "d_ff": 36,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "local_radius": 5,
}
CONFIGS = {
    "local": LongT5Config(**SIZES),
    "tglobal": LongT5Config(**SIZES, encoder_attention_type="transient-global", global_block_size=4),
}


def written(folder: Path, content: Any) -> Path:
    path = folder / "answers.json"
    path.write_text(json.dumps(content), "utf-8")
    return path


@needs_long_t5
@pytest.mark.parametrize("kind", CONFIGS)
def test_every_recorded_tensor_with_a_counterpart_agrees(kind: str, tmp_path: Path) -> None:
    config = written(tmp_path, ANSWERS[kind])
    convert_checkpoint(LONG / kind / "checkpoint_0", tmp_path / "model", config=config)
    compared = compare_outputs(
        LONG / kind / "checkpoint_0", tmp_path / "model", atol=1e-4, config=config, analyse=False
    )
    assert compared.status == "match", compared.first_divergence
    names = {row.name for row in compared.tensors}
    attention = "LocalSelfAttention" if kind == "local" else "TransientGlobalSelfAttention"
    taps = ["q", "k", "v", "o", "position_bias"]
    if kind == "tglobal":
        taps += ["side_k", "side_v", "side_position_bias", "global_input_layer_norm"]
    wanted = {f"encoder.block.{i}.layer.0.{attention}.{tap}" for i in range(3) for tap in taps}
    assert wanted <= names
    assert {"encoder", "decoder", "logits", "encoder.block.2.layer.1.DenseReluDense.wo"} <= names


@needs_long_t5
@pytest.mark.parametrize("kind", CONFIGS)
def test_logits_are_the_originals_in_our_model_and_in_transformers(kind: str, tmp_path: Path) -> None:
    """Read without anything of the comparison's machinery."""
    import transformers

    config = written(tmp_path, ANSWERS[kind])
    convert_checkpoint(LONG / kind / "checkpoint_0", tmp_path / "model", config=config)
    with np.load(LONG / kind / "recorded.npz") as held:
        ids, labels = (torch.from_numpy(held[name]).long() for name in ("inputs", "targets"))
        expected = torch.from_numpy(held["logits"])
    real = labels != 0
    with torch.no_grad():
        ours = load_model(tmp_path / "model")(input_ids=ids, labels=labels).logits
    assert float((ours - expected).abs()[real].max()) < 1e-4
    theirs, loaded = transformers.LongT5ForConditionalGeneration.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(loaded[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    shifted = torch.nn.functional.pad(labels[:, :-1], (1, 0))
    with torch.no_grad():
        found = theirs.train(False)(
            input_ids=ids, attention_mask=(ids != 0).long(), decoder_input_ids=shifted
        ).logits
    assert float((found - ours).abs()[real].max()) < 1e-4


@needs_long_t5
@pytest.mark.parametrize("kind", CONFIGS)
def test_what_t5x_stored_comes_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    source = LONG / kind / "checkpoint_0"
    convert_checkpoint(source, tmp_path / "model", config=written(tmp_path, ANSWERS[kind]))
    convert_checkpoint(tmp_path / "model", tmp_path / "back", to="t5x")
    before, after = open_checkpoint(source).tensors, open_checkpoint(tmp_path / "back").tensors
    weights = [name for name in before if name.startswith("target/")]
    assert sorted(weights) == sorted(name for name in after if name.startswith("target/"))
    for name in weights:
        assert np.array_equal(before[name].load(), after[name].load()), name
    # The gin beside it says what no variable shows.
    convert_checkpoint(tmp_path / "back", tmp_path / "again")
    assert (tmp_path / "again/config.json").read_bytes() == (tmp_path / "model/config.json").read_bytes()


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_variable_has_a_place_and_every_parameter_a_variable(kind: str) -> None:
    config = CONFIGS[kind]
    variables = T5X.variables(config)
    assert recognises(variables)
    plan = make_plan(rules(config, list(variables)), variables, parameter_shapes(config))
    assert len(plan.entries) == len(parameter_shapes(config))
    own = {name for name in variables if "side_" in name or "T5LayerNorm_0" in name}
    norms = {f"target/encoder/layers_{i}/attention/T5LayerNorm_0/scale" for i in range(3)}
    side = {"target/encoder/side_relpos_bias/rel_embedding", *norms}
    assert own == (side if kind == "tglobal" else set())


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_gin_that_is_written_says_the_same_model(kind: str, tmp_path: Path) -> None:
    config = CONFIGS[kind]
    variables = T5X.variables(config)
    (name, text), *_ = T5X.files(config, list(variables)).items()
    (tmp_path / name).write_text(text, "utf-8")
    resolved = read_config(tmp_path / name, variables)
    assert spelling(resolved.config.architecture) == config
    assert not resolved.assumed


def shapes(kind: str) -> dict[str, Shape]:
    return dict(T5X.variables(CONFIGS[kind]))


def test_summaries_show_in_the_variables_and_sizes_are_assumed_in_words() -> None:
    resolved = infer_config(shapes("tglobal"))
    short = spelling(resolved.config.architecture)
    assert isinstance(short, LongT5Config)
    assert (short.encoder_attention_type, short.local_radius, short.global_block_size) == (
        "transient-global",
        127,
        16,
    )
    said = "\n".join(resolved.assumed)
    assert '{"local_radius": 127}' in said and '{"global_block_size": 16}' in said
    assert any("transient-global" in line for line in resolved.inferred)


def test_local_attention_shows_nowhere_and_is_said_so() -> None:
    resolved = infer_config(shapes("local"))
    assert isinstance(spelling(resolved.config.architecture), T5Config)
    said = "\n".join(resolved.assumed)
    assert '{"encoder_attention_type": "local", "local_radius": 127}' in said


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_whole_config_json_is_taken(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, CONFIGS[kind].to_json())
    assert spelling(read_config(path, shapes(kind)).config.architecture) == CONFIGS[kind]


def test_the_model_type_alone_says_local(tmp_path: Path) -> None:
    resolved = read_config(written(tmp_path, {"model_type": "longt5", "local_radius": 5}), shapes("local"))
    assert spelling(resolved.config.architecture) == CONFIGS["local"]


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("tglobal", {"encoder_attention_type": "local"}, "side_relpos_bias"),
        ("local", {"encoder_attention_type": "transient-global"}, "side_relpos_bias"),
        ("local", {"encoder_attention_type": "sparse"}, "full or local"),
        ("tglobal", {"local_radius": "5"}, "local_radius"),
        ("tglobal", {"global_block_size": 0}, "global_block_size"),
        ("tglobal", {"local_radius": -1}, "local_radius"),
    ],
)
def test_answers_that_the_variables_contradict_are_refused(
    kind: str, content: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        read_config(written(tmp_path, content), shapes(kind))


def test_layers_are_not_scanned() -> None:
    with pytest.raises(ConfigError, match="LongT5"):
        T5X_SCANNED.variables(CONFIGS["tglobal"])
