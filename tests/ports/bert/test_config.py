from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from porting.errors import ConfigError
from porting.ports.bert.config import (
    Config,
    config_from_json,
    config_to_json,
    google_config,
    infer_config,
    read_config,
)
from tests.ports.bert.make_checkpoint import CONFIG
from tests.ports.bert.variables import variables

MULTILINGUAL = {
    "directionality": "bidi",
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}


def read(tmp_path: Path, content: Any, **shapes: Any) -> Any:
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps(content))
    return read_config(path, variables(**shapes))


def test_googles_gelu_is_the_tanh_one_of_transformers(tmp_path: Path) -> None:
    found = read(tmp_path, CONFIG).config
    assert found.hidden_act == "gelu_new"
    assert google_config(found) == CONFIG
    content = config_to_json(found)
    assert content["hidden_act"] == "gelu_new"
    assert content["architectures"] == ["BertForPreTraining"]
    assert content["layer_norm_eps"] == 1e-12


def test_a_config_of_transformers_means_its_own_gelu(tmp_path: Path) -> None:
    content = {**config_to_json(read(tmp_path, CONFIG).config), "hidden_act": "gelu"}
    found = read(tmp_path, content).config
    assert found.hidden_act == "gelu"
    with pytest.raises(ConfigError, match="expected an activation of the original, found gelu") as error:
        google_config(found)
    assert "bert_config.json" in error.value.remedy


def test_the_variables_say_whether_there_are_heads(tmp_path: Path) -> None:
    found = read(tmp_path, {**CONFIG, **MULTILINGUAL}, heads=False).config
    assert not found.heads
    assert config_to_json(found)["architectures"] == ["BertModel"]
    assert config_from_json(config_to_json(found)) == found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embedding_size": 12}, "embedding_size: expected a setting of Google's BertConfig"),
        ({"hidden_act": "swish"}, "hidden_act: expected one of gelu, relu, tanh, linear"),
        ({"num_attention_heads": 5}, "num_attention_heads: expected a divisor of hidden_size, 24"),
        ({"vocab_size": "51"}, "vocab_size: expected a whole number above 0"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: expected a whole number above 0"),
        ({"hidden_dropout_prob": None}, "hidden_dropout_prob: expected a number"),
    ],
)
def test_what_the_port_cannot_be_is_refused_by_name(tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, {**CONFIG, **change})
    assert said in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True},
        {"tie_word_embeddings": False},
        {"embedding_size": 12},
        {"architectures": ["BertForMaskedLM"]},
        {"hidden_act": "silu"},
    ],
)
def test_other_models_of_transformers_are_refused(tmp_path: Path, change: Any) -> None:
    content = config_to_json(read(tmp_path, CONFIG).config)
    with pytest.raises(ConfigError, match=next(iter(change))):
        config_from_json({**content, **change})


def test_sizes_are_read_off_the_shapes_and_heads_of_64_assumed() -> None:
    found = infer_config(variables(width=128, layers=3))
    expected = {**CONFIG, "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2}
    assert google_config(found.config) == expected
    assert "hidden_size 128" in found.inferred
    assert [text.split()[0] for text in found.assumed] == ["num_attention_heads", "hidden_act"]


def test_heads_that_cannot_be_assumed_are_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="number of attention heads cannot be read off shapes"):
        infer_config(variables())
    found = read(tmp_path, {"num_attention_heads": 3})
    assert found.config.num_attention_heads == 3
    assert not any("num_attention_heads" in text for text in found.assumed)
    assert google_config(found.config) == CONFIG


def test_variables_without_embeddings_infer_nothing() -> None:
    shapes = variables()
    del shapes["bert/embeddings/position_embeddings"]
    with pytest.raises(ConfigError, match="bert/embeddings/position_embeddings"):
        infer_config(shapes)


def test_the_head_size_follows_from_width_and_heads() -> None:
    assert Config(51, 24, 2, 3, 40, 36, 3).head_size == 8
