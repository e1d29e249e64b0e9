"""The published T5s by name: sizes only, no weights.

    preset("t5.1.1.base")
    preset("t5-efficient-tiny-nl32")
    preset("t5-efficient-base-el16-dl8-ff6000")
    preset("t5-efficient-base-skv")
    preset("switch-base-8")
    preset("long-t5-tglobal-large")

Sources: T5 and T5 1.1, mT5, ByT5, UL2: their published gin configs and papers (arXiv 1910.10683, 2010.11934,
2105.13626, 2205.05131); T5-Efficient: arXiv 2109.10686; Switch Transformers: arXiv 2101.03961, table 9, and
the published checkpoints; LongT5 and mLongT5: arXiv 2112.07916, section 4.1, 2305.11129, and the published
checkpoints (of local attention there is none of XL).

Where what was printed does not agree with itself:
- T5-Efficient's table gives d_kv 32 for tiny, mini and small; the parameter counts printed beside it, and
  those of the published checkpoints, need 64, which is what stands here. xl and xxl are T5's 3B and 11B.
- The Switch paper's table has gated layers of 2048 and 2816 for Base and Large; the published checkpoints
  have plain ones of 3072 and 4096, with nearly the same number of parameters. XXL has gated ones in both: 395
  billion parameters cannot be had otherwise. It has 64 experts in the table, and needs 128 for that number.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import asdict, replace
from typing import Any

from porting.errors import ConfigError
from porting.ports.t5.architecture import Architecture, StackSpec
from porting.ports.t5.attention_specs import AttentionSpec
from porting.ports.t5.config import Config, T5Config
from porting.ports.t5.layer_specs import FeedForwardSpec, LayerSpec, MixtureSpec
from porting.ports.t5.long_config import LOCAL, TRANSIENT_GLOBAL, LongT5Config
from porting.ports.t5.switch_config import SwitchConfig

_SENTENCEPIECE_32K = 32128
_MULTILINGUAL = 250112
_MULTILINGUAL_LONG = 256384
_BYTES = 384


def _t5(d_model: int, d_ff: int, layers: int, heads: int, d_kv: int = 64) -> T5Config:
    return T5Config(
        vocab_size=_SENTENCEPIECE_32K,
        d_model=d_model,
        d_kv=d_kv,
        d_ff=d_ff,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=heads,
    )


def _gated(config: T5Config, *, vocab_size: int = _SENTENCEPIECE_32K, decoder: int | None = None) -> T5Config:
    """As T5 1.1: gated gelu, an output of its own, no dropout in pre-training."""
    return replace(
        config,
        vocab_size=vocab_size,
        num_decoder_layers=decoder or config.num_layers,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
    )


_V1_0 = {
    "small": _t5(512, 2048, 6, 8),
    "base": _t5(768, 3072, 12, 12),
    "large": _t5(1024, 4096, 24, 16),
    "3B": _t5(1024, 16384, 24, 32, d_kv=128),
    "11B": _t5(1024, 65536, 24, 128, d_kv=128),
}
_V1_1 = {
    "small": _t5(512, 1024, 8, 6),
    "base": _t5(768, 2048, 12, 12),
    "large": _t5(1024, 2816, 24, 16),
    "xl": _t5(2048, 5120, 24, 32),
    "xxl": _t5(4096, 10240, 24, 64),
}
_LONG = ("base", "large", "xl")
# The encoder is three times as deep as the decoder.
_BYT5 = {
    "small": (_t5(1472, 3584, 12, 6), 4),
    "base": (_t5(1536, 3968, 18, 12), 6),
    "large": (_t5(1536, 3840, 36, 16), 12),
    "xl": (_t5(2560, 6720, 36, 32), 12),
    "xxl": (_t5(4672, 12352, 36, 64), 12),
}
_EFFICIENT = {
    "tiny": _t5(256, 1024, 4, 4),
    "mini": _t5(384, 1536, 4, 8),
    "small": _V1_0["small"],
    "base": _V1_0["base"],
    "large": _V1_0["large"],
    "xl": _V1_0["3B"],
    "xxl": _V1_0["11B"],
}
# What a name of T5-Efficient changes: `el` and `dl` layers of encoder and decoder, `nl` of both, and so on.
_CHANGES = {
    "nl": ("num_layers", "num_decoder_layers"),
    "el": ("num_layers",),
    "dl": ("num_decoder_layers",),
    "dm": ("d_model",),
    "ff": ("d_ff",),
    "kv": ("d_kv",),
    "nh": ("num_heads",),
}

# Letters alone: one head of keys and values for all, and keys that are the values.
_SWITCHES: dict[str, dict[str, Any]] = {"sh": {"num_memory_heads": 1}, "skv": {"shared_kv": True}}


def _long(config: T5Config, kind: str, *, vocab_size: int = _SENTENCEPIECE_32K) -> LongT5Config:
    """A T5 1.1 whose encoder attends locally, within 127 positions, or to summaries of 16 tokens as well."""
    return LongT5Config(**asdict(_gated(config, vocab_size=vocab_size)), encoder_attention_type=kind)


def _switch(config: T5Config, experts: int, sparse: int) -> SwitchConfig:
    """A T5 1.0 whose feed-forward layers are mixtures, `sparse` of each stack."""
    plain = asdict(config)
    del plain["feed_forward_proj"]
    return SwitchConfig(
        **plain, num_experts=experts, num_sparse_encoder_layers=sparse, num_sparse_decoder_layers=sparse
    )


def _switch_xxl() -> Architecture:
    """Gated experts: transformers' Switch has no such layer."""
    plain = _switch(_t5(4096, 10240, 24, 64), 128, 12).architecture
    gated = {"activations": ("gelu", "linear")}
    return with_layers(with_layers(plain, MixtureSpec, **gated), FeedForwardSpec, **gated)


def with_layers(architecture: Architecture, kind: type[LayerSpec], **changes: Any) -> Architecture:
    """An architecture whose layers of this kind have other settings.

    Example: with_layers(preset("t5.1.1.base").architecture, AttentionSpec, shared_kv=True)
    """

    def changed(stack: StackSpec) -> StackSpec:
        layers = (replace(spec, **changes) if isinstance(spec, kind) else spec for spec in stack.layers)
        return replace(stack, layers=tuple(layers))

    stacks: dict[str, Any] = {name: changed(stack) for name, stack in architecture.stacks.items()}
    return replace(architecture, **stacks)


PRESETS: dict[str, Config] = {
    **{f"t5.1.0.{size}": config for size, config in _V1_0.items()},
    **{f"t5.1.1.{size}": _gated(config) for size, config in _V1_1.items()},
    **{f"mt5-{size}": _gated(config, vocab_size=_MULTILINGUAL) for size, config in _V1_1.items()},
    **{
        f"byt5-{size}": _gated(config, vocab_size=_BYTES, decoder=decoder)
        for size, (config, decoder) in _BYT5.items()
    },
    "ul2": replace(_gated(_t5(4096, 16384, 32, 16, d_kv=256)), feed_forward_proj="gated-silu"),
    **{f"t5-efficient-{size}": config for size, config in _EFFICIENT.items()},
    **{f"long-t5-local-{size}": _long(_V1_1[size], LOCAL) for size in _LONG},
    **{f"long-t5-tglobal-{size}": _long(_V1_1[size], TRANSIENT_GLOBAL) for size in _LONG},
    **{
        f"mlong-t5-tglobal-{size}": _long(_V1_1[size], TRANSIENT_GLOBAL, vocab_size=_MULTILINGUAL_LONG)
        for size in _LONG
    },
    **{f"switch-base-{n}": _switch(_V1_0["base"], n, 6) for n in (8, 16, 32, 64, 128, 256)},
    "switch-large-128": _switch(_V1_0["large"], 128, 12),
    "switch-xxl-128": _switch_xxl(),
    "switch-c-2048": _switch(_t5(2080, 6144, 15, 32), 2048, 15),
}


def preset(name: str) -> Config:
    """The configuration of a published T5.

    Args:
        name: a key of PRESETS, or one of T5-Efficient followed by changes: `t5-efficient-tiny-nl32`,
            `t5-efficient-small-el16-dl2`, `t5-efficient-base-kv128-nh16`, `t5-efficient-large-sh-skv`.

    Raises:
        ConfigError: there is no such name; says the nearest.
    """
    if name in PRESETS:
        return PRESETS[name]
    base, _, changes = re.sub(r"^(t5-efficient-[a-z]+)-", r"\1 ", name).partition(" ")
    config = _EFFICIENT.get(base.removeprefix("t5-efficient-"))
    if config is None or not changes:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        raise ConfigError(
            f"There is no T5 named {name!r}." + (f" The nearest name is {near[0]!r}." if near else ""),
            remedy=f"Known: {', '.join(PRESETS)}, those of T5-Efficient with changes such as -nl32 or -skv.",
        )
    values: dict[str, int] = {}
    switches: dict[str, Any] = {}
    for change in changes.split("-"):
        match = re.fullmatch(r"([a-z]+)([1-9]\d*)", change)
        if change in _SWITCHES:
            switches |= _SWITCHES[change]
        elif match and match[1] in _CHANGES:
            values |= dict.fromkeys(_CHANGES[match[1]], int(match[2]))
        else:
            raise ConfigError(
                f"{name!r}: the change {change!r} is not one that can be made.",
                remedy=f"A change is one of {', '.join(_CHANGES)} and a number (-nl32, -ff6000), or one of"
                f" {', '.join(_SWITCHES)}.",
            )
    changed = replace(config, **values)  # type: ignore[arg-type]
    return with_layers(changed.architecture, AttentionSpec, **switches) if switches else changed
