from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import transformers

from porting.errors import ConfigError
from porting.ports.t5.base_config import FEED_FORWARD_ACTIVATIONS, REQUIRED
from porting.ports.t5.config import T5Config, config_from_json
from porting.ports.t5.presets import preset
from tests.ports.t5.mesh_variables import SMALL, V1_1

OTHER = replace(
    V1_1,
    layer_norm_epsilon=1e-5,
    dropout_rate=0.0,
    feed_forward_proj="gated-silu",
    label_smoothing=0.1,
    loss_denominator=233.0,
)


def problems(content: dict) -> dict[str, str]:
    """What is found wrong, by key."""
    with pytest.raises(ConfigError) as caught:
        T5Config.from_json(content)
    return {problem.key: problem.found for problem in caught.value.problems}


@pytest.mark.parametrize("config", [SMALL, V1_1, OTHER])
def test_json_round_trip(config: T5Config) -> None:
    assert T5Config.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("projection", FEED_FORWARD_ACTIVATIONS)
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_understands_the_same(projection: str, tied: bool) -> None:
    ours = replace(OTHER, feed_forward_proj=projection, tie_word_embeddings=tied)
    theirs = transformers.T5Config(**ours.to_json())
    shared = set(asdict(ours)) - {"tie_word_embeddings", "label_smoothing", "loss_denominator"}
    for name in shared:
        assert getattr(theirs, name) == getattr(ours, name), name
    assert theirs.is_gated_act == ours.is_gated
    activations = {"relu": "relu", "gelu": "gelu_new", "swish": "silu"}
    assert theirs.dense_act_fn == activations[FEED_FORWARD_ACTIVATIONS[ours.feed_forward_proj][0]]
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.decoder_start_token_id) == (0, 1, 0)
    assert theirs.architectures == ["T5ForConditionalGeneration"]


@pytest.mark.parametrize("tied", [True, False])
def test_what_transformers_saves_again_says_the_same(tmp_path: Path, tied: bool) -> None:
    ours = replace(SMALL, tie_word_embeddings=tied)
    transformers.T5Config(**ours.to_json()).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert T5Config.from_json(content) == ours


def test_a_resaved_untied_model_is_still_untied() -> None:
    """transformers 5 writes tie_word_embeddings true for every T5."""
    content = {**SMALL.to_json(), "tie_word_embeddings": True, "scale_decoder_outputs": False}
    assert T5Config.from_json(content).tie_word_embeddings is False
    content["scale_decoder_outputs"] = True
    assert T5Config.from_json(content).tie_word_embeddings is True


def test_a_published_config_is_read_with_its_defaults() -> None:
    content = {
        "architectures": ["T5WithLMHeadModel"],
        "d_ff": 2048,
        "d_kv": 64,
        "d_model": 512,
        "dropout_rate": 0.1,
        "initializer_factor": 1.0,
        "layer_norm_epsilon": 1e-06,
        "model_type": "t5",
        "n_positions": 512,
        "num_heads": 8,
        "num_layers": 6,
        "relative_attention_num_buckets": 32,
        "task_specific_params": {"summarization": {"num_beams": 4}},
        "vocab_size": 32128,
    }
    config = T5Config.from_json(content)
    assert config == T5Config(32128, 512, 64, 2048, 6, 6, 8)
    assert (config.feed_forward_proj, config.tie_word_embeddings) == ("relu", True)
    assert config.relative_attention_max_distance == 128


def test_null_stands_for_the_default() -> None:
    content = {**SMALL.to_json(), "feed_forward_proj": None, "num_decoder_layers": None}
    config = T5Config.from_json(content)
    assert config.feed_forward_proj == "relu"
    assert config.num_decoder_layers == SMALL.num_layers


def test_every_missing_size_is_named() -> None:
    assert problems({"model_type": "t5", "d_model": 8}) == dict.fromkeys(
        ("vocab_size", "d_kv", "d_ff", "num_layers", "num_heads"), "nothing"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("d_model", 0),
        ("d_model", -3),
        ("d_model", 8.0),
        ("d_model", "8"),
        ("d_model", True),
        ("d_model", None),
        ("num_decoder_layers", 0),
        ("relative_attention_num_buckets", 0),
        ("relative_attention_num_buckets", [32]),
        ("relative_attention_max_distance", 1.5),
        ("layer_norm_epsilon", -1e-6),
        ("layer_norm_epsilon", "1e-6"),
        ("layer_norm_epsilon", float("nan")),
        ("dropout_rate", 1.5),
        ("dropout_rate", True),
        ("label_smoothing", -0.1),
        ("loss_denominator", 0),
        ("loss_denominator", "all"),
        ("loss_denominator", float("inf")),
        ("feed_forward_proj", "gelu"),
        ("feed_forward_proj", "gated-tanh"),
        ("feed_forward_proj", ["relu"]),
        ("feed_forward_proj", {}),
        ("tie_word_embeddings", 1),
        ("tie_word_embeddings", "true"),
        ("tie_word_embeddings", None),
    ],
)
def test_a_value_that_t5_does_not_have_is_shown(key: str, value: object) -> None:
    assert problems({**SMALL.to_json(), key: value}) == {key: repr(value)}


def test_everything_wrong_is_listed_at_once() -> None:
    wrong = {
        "d_model": 0,
        "num_heads": "8",
        "dropout_rate": 2,
        "feed_forward_proj": "swish",
        "tie_word_embeddings": "no",
        "loss_denominator": -1,
    }
    assert problems({**SMALL.to_json(), **wrong}) == {key: repr(value) for key, value in wrong.items()}


@pytest.mark.parametrize("buckets", [3, 32])
def test_buckets_that_leave_no_room_for_distances_are_refused(buckets: int) -> None:
    found = problems({**SMALL.to_json(), "relative_attention_num_buckets": buckets})
    assert found == {"relative_attention_num_buckets": str(buckets)}


@pytest.mark.parametrize("lacking", REQUIRED)
def test_a_longt5_without_a_size_is_refused_by_name(lacking: str) -> None:
    content = preset("long-t5-tglobal-base").to_json()
    del content[lacking]
    with pytest.raises(ConfigError) as caught:
        config_from_json(content)
    assert lacking in {problem.key for problem in caught.value.problems}
