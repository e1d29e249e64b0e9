"""Variants of LongT5: transformers' as the original, and Google's recorded runs where they are at hand."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks.corpus.long_reference import RunHere, long_t5
from benchmarks.corpus.variants import ROOT, Ported
from porting import Inputs, convert_checkpoint, run_reference
from porting.original import Original
from porting.ports.t5.long_config import LOCAL, TRANSIENT_GLOBAL, LongT5Config

DATA = ROOT.parent / "shared" / "data" / "longt5"
"""Google's recorded runs; see its README. A clone of the project alone does not have them."""


@dataclass(frozen=True)
class LongVariant:
    """A LongT5.

    Attributes:
        encoder_attention_type: as in its config.
        recorded: the folder of a recorded run of Google's; None: random weights, run by transformers.
    """

    encoder_attention_type: str
    recorded: Path | None = None


LONG_VARIANTS: dict[str, LongVariant] = {
    "LongT5 local": LongVariant(LOCAL),
    "LongT5 tglobal": LongVariant(TRANSIENT_GLOBAL),
    "LongT5 local, recorded": LongVariant(LOCAL, DATA / "local"),
    "LongT5 tglobal, recorded": LongVariant(TRANSIENT_GLOBAL, DATA / "tglobal"),
}
_KIND = re.compile("Local|TransientGlobal")
# What transformers wrote, beside the checkpoint.
DIRECTORY = "transformers"
LIVE = ("LongT5 local", "LongT5 tglobal")
RADIUS, BLOCK_SIZE = 5, 4  # of all of them


def at_hand() -> list[str]:
    """Names of the variants that can be run here."""
    return [name for name, each in LONG_VARIANTS.items() if each.recorded is None or each.recorded.is_dir()]


def _config(kind: str) -> LongT5Config:
    return LongT5Config(
        vocab_size=100,
        d_model=24,
        d_kv=12,
        d_ff=40,
        num_layers=3,
        num_decoder_layers=2,
        num_heads=3,
        tie_word_embeddings=False,
        feed_forward_proj="gated-gelu",
        encoder_attention_type=kind,
        local_radius=RADIUS,
        global_block_size=BLOCK_SIZE,
    )


# What becomes (batch, length, targets' length), and the real tokens of each row: padding follows them.
_SHAPES: dict[str, tuple[tuple[int, int, int], tuple[int, ...]]] = {
    # Beyond the last bucket's distance of summaries and tokens, within a block, and shorter than a block;
    # 141 and 53 end within a block of either kind, 3 is below both.
    "standard": ((4, 141, 133), (141, 96, 53, 3)),
    "length 1": ((1, 1, 1), (1,)),
    "length 3": ((2, 3, 4), (3, 2)),
    "length 6": ((3, 6, 7), (6, 6, 3)),
    "length 7": ((3, 7, 7), (7, 5, 4)),
    "length 48": ((2, 48, 9), (48, 24)),
    "length 160": ((2, 160, 150), (160, 79)),
    "all but one padding": ((2, 12, 12), (1, 12)),
    "batch of one": ((1, 33, 21), (33,)),
}
LONG_INPUTS = tuple(_SHAPES)


def long_inputs(name: str) -> Inputs:
    """Token ids: "standard" for faults; the others have one awkward thing each."""
    (batch, length, decoded), real = _SHAPES[name]
    generator = np.random.default_rng(20 + LONG_INPUTS.index(name))
    inputs = generator.integers(2, 100, size=(batch, length))
    targets = generator.integers(2, 100, size=(batch, decoded))
    for row, count in enumerate(real):
        inputs[row, count:] = 0
    targets[-1, 1 + decoded // 2 :] = 0
    return Inputs.from_arrays({"inputs": inputs, "targets": targets}, origin="corpus")


class LongPorted(Ported):
    """A LongT5's checkpoint in T5X's form, the model directory made of it, and the original's tensors."""

    @property
    def of(self) -> LongVariant:
        return LONG_VARIANTS[self.name]

    @property
    def checkpoint(self) -> Path:
        return self.of.recorded / "checkpoint_0" if self.of.recorded else self.folder / "checkpoint"

    def model_with(self, content: Mapping[str, Any]) -> torch.nn.Module:
        """The same weights, as far as the model has them under this config.json, whatever it calls them."""
        port, _ = self.port_and_config
        model = port.build(port.config_from_json(content))
        state = {_KIND.sub("", name): value for name, value in self.model().state_dict().items()}
        model.load_state_dict({name: state[_KIND.sub("", name)] for name in model.state_dict()})
        return model.eval()

    def made_trace(self, inputs: str, folder: Path) -> None:
        """Google's recorded run, which has one set of inputs, or what transformers computes."""
        config = self.folder / "config.json"
        if self.of.recorded:
            assert inputs == "standard", inputs
            run_reference(self.checkpoint, config=config, save_to=folder)
            return
        with Original(self.checkpoint, config, RunHere(self.folder / DIRECTORY)) as original:
            original.run(long_inputs(inputs), folder)


def _write(config: LongT5Config, folder: Path, seed: int) -> None:
    """A directory as transformers writes it, in which every parameter counts.

    Norms before attention have small weights, as trained ones do: an epsilon shows in the norm of summaries.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in long_t5(config).state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        if "layer_norm" in name:
            small = name.endswith("layer.0.layer_norm.weight") and name.startswith("encoder")
            state[name] = (0.02 if small else 1.0) * (1 + 0.3 * noise)
        elif "embed_tokens" not in name:  # the same as `shared`
            wide = "attention_bias" in name or name.startswith("shared")
            state[name] = noise * (1.0 if wide else 0.3)
    folder.mkdir()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_json()))


def long_ported(name: str, cache: Path) -> LongPorted:
    """Make a variant in the cache, or take it from there; the cache tells when a variant was changed."""
    variant = LONG_VARIANTS[name]
    folder = cache / name.replace(" ", "-").replace(",", "")
    config = _config(variant.encoder_attention_type)
    content = {
        "encoder_attention_type": variant.encoder_attention_type,
        "local_radius": RADIUS,
        "global_block_size": BLOCK_SIZE,
    }
    spec = {**content, "config": asdict(config), "recorded": str(variant.recorded), "weights": 2}
    made, text = folder / "made.json", json.dumps(spec)
    if not made.exists() or made.read_text() != text:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(content))
        ported = LongPorted(name, folder)
        if variant.recorded is None:
            _write(config, folder / DIRECTORY, seed=list(LONG_VARIANTS).index(name))
            convert_checkpoint(folder / DIRECTORY, folder / "checkpoint", to="t5x")
        convert_checkpoint(ported.checkpoint, folder / "model", config=folder / "config.json")
        made.write_text(text)
    return LongPorted(name, folder)
