"""Built without memory, the published sizes have the published numbers of parameters."""

from __future__ import annotations

import pytest
import torch

from porting.errors import ConfigError
from porting.ports.t5.config import Config
from porting.ports.t5.model import T5Model
from porting.ports.t5.presets import PRESETS, preset

# As transformers' checkpoints on the hub count them; T5-Efficient as its model cards print them.
EXACT = {
    "t5.1.0.small": 60_506_624,
    "t5.1.0.base": 222_903_552,
    "t5.1.0.large": 737_668_096,
    "t5.1.0.3B": 2_851_598_336,
    "t5.1.0.11B": 11_307_321_344,
    "t5.1.1.small": 76_961_152,
    "t5.1.1.base": 247_577_856,
    "t5.1.1.large": 783_150_080,
    "t5.1.1.xl": 2_849_757_184,
    "t5.1.1.xxl": 11_135_332_352,
    "mt5-small": 300_176_768,
    "mt5-base": 582_401_280,
    "mt5-large": 1_229_581_312,
    "mt5-xl": 3_742_619_648,
    "mt5-xxl": 12_921_057_280,
    "byt5-small": 299_637_760,
    "byt5-base": 581_653_248,
}
MILLIONS = {
    "t5-efficient-tiny": 15.58,
    "t5-efficient-mini": 31.23,
    "t5-efficient-small": 60.52,
    "t5-efficient-base": 222.93,
    "t5-efficient-large": 737.72,
    "t5-efficient-tiny-nl32": 67.06,
}


def count(config: Config) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in T5Model(config).parameters())


@pytest.mark.parametrize("name", EXACT)
def test_the_published_sizes(name: str) -> None:
    assert count(preset(name)) == EXACT[name]


@pytest.mark.parametrize("name", MILLIONS)
def test_t5_efficient(name: str) -> None:
    """To 2 in a thousand: the cards' numbers are a little above what the checkpoints' shapes sum up to."""
    assert count(preset(name)) / 1e6 == pytest.approx(MILLIONS[name], rel=2e-3)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("byt5-large", 1.23),
        ("byt5-xl", 3.74),
        ("byt5-xxl", 12.9),
        ("ul2", 19.5),
        ("t5-efficient-xl", 2.85),
        ("t5-efficient-xxl", 11.3),
        ("switch-base-8", 0.62),
        ("switch-base-128", 7.4),
        ("switch-base-256", 14.7),
        ("switch-large-128", 26.3),
        ("switch-xxl-128", 395),
        pytest.param("switch-c-2048", 1571, marks=pytest.mark.slow),  # 61,440 experts
    ],
)
def test_sizes_that_are_published_rounded(name: str, billions: float) -> None:
    assert count(preset(name)) / 1e9 == pytest.approx(billions, rel=0.01)


def test_changes_by_name() -> None:
    config = preset("t5-efficient-small-el16-dl2-ff6000-kv128-nh16-dm256")
    assert (config.num_layers, config.num_decoder_layers) == (16, 2)
    assert (config.d_ff, config.d_kv, config.num_heads, config.d_model) == (6000, 128, 16, 256)
    assert preset("t5-efficient-base-nl36") == preset("t5-efficient-base-el36-dl36")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("t5.1.1.smal", "nearest name is 't5.1.1.small'"),
        ("t5-efficient-tiny-xx3", "'xx3'"),
        ("t5-efficient-tiny-nl", "'nl'"),
        ("t5-efficient-huge-nl3", "no T5 named"),
        ("t5.1.1.small-nl3", "no T5 named"),
        ("", "no T5 named"),
    ],
)
def test_names_that_are_not_there(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        preset(name)


def test_shared_heads_and_shared_keys_and_values_leave_kernels_out() -> None:
    kernel, head = 768 * 768, 768 * 64
    attentions = 12 + 12 + 12
    base = count(preset("t5-efficient-base"))
    assert base - count(preset("t5-efficient-base-skv")) == attentions * kernel
    assert base - count(preset("t5-efficient-base-sh")) == attentions * 2 * (kernel - head)
    assert base - count(preset("t5-efficient-base-sh-skv")) == attentions * (2 * kernel - head)
    deeper = preset("t5-efficient-base-nl36-skv")
    assert len(deeper.architecture.encoder.places) == 72
    assert preset("t5-efficient-base-skv-nl36") == deeper


def test_mixtures_are_where_the_checkpoints_have_them() -> None:
    for name, sparse in (("switch-base-8", 6), ("switch-large-128", 12), ("switch-c-2048", 15)):
        for stack in preset(name).architecture.stacks.values():
            assert sum(place.spec.kind == "MoE1D" for place in stack.places) == sparse


def test_every_preset_builds_as_one_of_its_family() -> None:
    assert len(PRESETS) == 5 + 5 + 5 + 5 + 1 + 7 + 9 + 9
    for name, config in PRESETS.items():
        assert config.tie_word_embeddings == (name.startswith(("t5.1.0", "t5-efficient", "switch")))
