"""The published T5s by name: sizes only, no weights.

    preset("t5.1.1.base")
    preset("t5-efficient-tiny-nl32")
    preset("t5-efficient-base-el16-dl8-ff6000")

Sources: T5 and T5 1.1, mT5, ByT5, UL2: their published gin configs and papers (arXiv 1910.10683, 2010.11934,
2105.13626, 2205.05131); T5-Efficient: arXiv 2109.10686. That paper's table gives d_kv 32 for tiny, mini and
small; the parameter counts printed beside it, and those of the published checkpoints, need 64, which is what
stands here.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace

from porting.errors import ConfigError
from porting.ports.t5.config import T5Config

_SENTENCEPIECE_32K = 32128
_MULTILINGUAL = 250112
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

PRESETS: dict[str, T5Config] = {
    **{f"t5.1.0.{size}": config for size, config in _V1_0.items()},
    **{f"t5.1.1.{size}": _gated(config) for size, config in _V1_1.items()},
    **{f"mt5-{size}": _gated(config, vocab_size=_MULTILINGUAL) for size, config in _V1_1.items()},
    **{
        f"byt5-{size}": _gated(config, vocab_size=_BYTES, decoder=decoder)
        for size, (config, decoder) in _BYT5.items()
    },
    "ul2": replace(_gated(_t5(4096, 16384, 32, 16, d_kv=256)), feed_forward_proj="gated-silu"),
    **{f"t5-efficient-{size}": config for size, config in _EFFICIENT.items()},
}


def preset(name: str) -> T5Config:
    """The configuration of a published T5.

    Args:
        name: a key of PRESETS, or one of T5-Efficient followed by changes: `t5-efficient-tiny-nl32`,
            `t5-efficient-small-el16-dl2`, `t5-efficient-base-kv128-nh16`.

    Raises:
        ConfigError: there is no such name; says the nearest.
    """
    if name in PRESETS:
        return PRESETS[name]
    base, _, changes = re.sub(r"^(t5-efficient-[a-z]+)-", r"\1 ", name).partition(" ")
    config = PRESETS.get(base)
    if config is None or not changes:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        raise ConfigError(
            f"There is no T5 named {name!r}." + (f" The nearest name is {near[0]!r}." if near else ""),
            remedy=f"Known: {', '.join(PRESETS)}, those of T5-Efficient with changes such as -nl32.",
        )
    values: dict[str, int] = {}
    for change in changes.split("-"):
        match = re.fullmatch(r"([a-z]+)([1-9]\d*)", change)
        if not match or match[1] not in _CHANGES:
            raise ConfigError(
                f"{name!r}: the change {change!r} is not one that can be made.",
                remedy=f"A change is one of {', '.join(_CHANGES)} and a number: -nl32, -ff6000.",
            )
        values |= dict.fromkeys(_CHANGES[match[1]], int(match[2]))
    return replace(config, **values)  # type: ignore[arg-type]
