"""LongT5 as a whole: beside transformers' own, its taps, its memory, and what cannot run it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from porting.capture import capture, listening
from porting.convert import convert_checkpoint
from porting.errors import ConfigError
from porting.inputs import Inputs
from porting.model_dir import load_model
from porting.ports.t5.architecture import Architecture
from porting.ports.t5.attention_specs import AttentionSpec, LocalAttentionSpec
from porting.ports.t5.config import T5Config, config_from_json
from porting.ports.t5.layers import Tap as TapModule
from porting.ports.t5.long_config import LongT5Config
from porting.ports.t5.model import T5Model
from porting.ports.t5.port import PORT, run
from porting.ports.t5.presets import preset, with_layers
from porting.ports.t5.spelling import spelling
from porting.ports.t5.tap_buckets import tap_buckets
from porting.ports.t5.taps import taps
from tests.ports.t5.conftest import MakeModel

SIZES = {
    "vocab_size": 64,
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 20,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "local_radius": 5,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
LOCAL = LongT5Config(**SIZES)
GLOBAL = LongT5Config(**SIZES, encoder_attention_type="transient-global", global_block_size=4)
CONFIGS = {"local": LOCAL, "transient-global": GLOBAL}
# Below a block of either kind, at its edges, several blocks, no multiple of anything.
LENGTHS = (1, 3, 4, 6, 7, 12, 13, 31, 47)


def batch(length: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs of which one row is full and others end inside of blocks, and labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, 64, (4, length), generator=generator)
    labels = torch.randint(2, 64, (4, 7), generator=generator)
    for row, real in enumerate((length, max(1, length - 1), max(1, length // 2), 1)):
        ids[row, real:] = 0
    labels[1, 4:] = 0
    return ids, labels


def their_logits(model: Any, ids: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        shifted = F.pad(labels[:, :-1], (1, 0))
        masks = {"attention_mask": (ids != 0).long(), "decoder_attention_mask": (labels != 0).long()}
        logits: Tensor = model(input_ids=ids, decoder_input_ids=shifted, **masks).logits
    return logits


def our_logits(model: Any, ids: Tensor, labels: Tensor, **more: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, labels=labels, **more).logits
    return logits


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_model_of_transformers_is_converted_and_agrees(kind: str, tied: bool, tmp_path: Path) -> None:
    torch.manual_seed(3)
    content = replace(CONFIGS[kind], tie_word_embeddings=tied).to_json()
    theirs = transformers.LongT5ForConditionalGeneration(transformers.LongT5Config(**content)).train(False)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4 + (parameter.ndim == 1))
    theirs.save_pretrained(tmp_path / "theirs")
    # As transformers reads it: it ties what it saved, whatever the config said.
    theirs = transformers.LongT5ForConditionalGeneration.from_pretrained(tmp_path / "theirs")
    convert_checkpoint(tmp_path / "theirs", tmp_path / "ours")
    ours = load_model(tmp_path / "ours")
    assert isinstance(ours.config, LongT5Config)
    again, loaded = transformers.LongT5ForConditionalGeneration.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(loaded[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for length in LENGTHS:
        ids, labels = batch(length, seed=length)
        found, expected = our_logits(ours, ids, labels), their_logits(theirs, ids, labels)
        assert float(expected.abs().max()) > 0.5
        apart = (found - expected).abs()[labels != 0]
        assert float(apart.max()) < 1e-4 * max(1.0, float(expected.abs().max())), length
        assert torch.equal(their_logits(again, ids, labels), expected)


def test_padding_inside_is_hidden_in_local_attention_as_in_transformers(make_model: MakeModel) -> None:
    """Of summaries the two originals differ there: see transient_global_attention.py."""
    config = replace(LOCAL, tie_word_embeddings=True)
    ours = make_model(config)
    theirs = transformers.LongT5ForConditionalGeneration(transformers.LongT5Config(**config.to_json()))
    theirs.train(False).load_state_dict(ours.state_dict(), strict=False)
    ids, labels = batch(29)
    ids[0, [0, 4, 5, 11, 12, 20]] = 0
    found, expected = our_logits(ours, ids, labels), their_logits(theirs, ids, labels)
    assert float((found - expected).abs()[labels != 0].max()) < 1e-4


@pytest.mark.parametrize("name", ["local-base", "local-large", "tglobal-base", "tglobal-large", "tglobal-xl"])
def test_presets_have_the_published_numbers_of_parameters(name: str) -> None:
    """The published checkpoints, rounded (google-research/longt5), and transformers' count, exactly."""
    config = preset(f"long-t5-{name}")
    published = {"base": 0.25, "large": 0.78, "xl": 2.85}[name.rpartition("-")[2]]
    with torch.device("meta"):
        ours = sum(parameter.numel() for parameter in T5Model(config).parameters())
        theirs = transformers.LongT5ForConditionalGeneration(transformers.LongT5Config(**config.to_json()))
    # transformers 5 ties the output of a model that is not loaded.
    assert ours == sum(p.numel() for p in theirs.parameters()) + config.vocab_size * config.d_model
    assert ours / 1e9 == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("kind", CONFIGS)
def test_keys_are_those_of_transformers(kind: str) -> None:
    with torch.device("meta"):
        ours = T5Model(CONFIGS[kind]).state_dict()
        theirs = transformers.LongT5ForConditionalGeneration(
            transformers.LongT5Config(**CONFIGS[kind].to_json())
        ).state_dict()
    duplicates = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items() if key not in duplicates
    }


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_config_is_read_back_and_transformers_reads_the_same(kind: str) -> None:
    config = CONFIGS[kind]
    assert config_from_json(config.to_json()) == config
    assert Architecture.from_json(config.architecture.to_json()) == config.architecture
    short = spelling(config.architecture)
    assert isinstance(short, LongT5Config) and short == config
    theirs = transformers.LongT5Config(**config.to_json())
    for name in ("encoder_attention_type", "local_radius", "global_block_size", "num_decoder_layers"):
        assert getattr(theirs, name) == getattr(config, name)
    assert config_from_json(theirs.to_dict()) == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"local_radius": 0}, "local_radius"),
        ({"local_radius": 1 << 20}, "local_radius"),
        ({"global_block_size": 1}, "global_block_size"),
        ({"encoder_attention_type": "sparse"}, "local, transient-global"),
        ({"feed_forward_proj": "gated"}, "feed_forward_proj"),
        ({"num_heads": 0}, "num_heads"),
    ],
)
def test_what_is_no_long_t5_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(GLOBAL, **changes)


def test_a_decoder_cannot_attend_locally() -> None:
    architecture = LOCAL.architecture
    assert architecture.encoder and architecture.decoder
    local = architecture.encoder.layers[0]
    decoder = replace(architecture.decoder, layers=(local, *architecture.decoder.layers[1:]))
    with pytest.raises(ConfigError, match=r"decoder\.layers\.0\.kind"):
        replace(architecture, decoder=decoder)


@pytest.mark.parametrize("kind", CONFIGS)
def test_mesh_is_said_not_to_run_it(kind: str) -> None:
    config = CONFIGS[kind]
    for ask in (
        lambda: PORT.reference_config(config, []),
        lambda: PORT.rules(config, []),
        lambda: PORT.originals["mesh"].variables(config),
        lambda: PORT.originals["mesh"].files(config, []),
    ):
        with pytest.raises(ConfigError, match="Mesh TensorFlow cannot run LongT5"):
            ask()


INPUTS = Inputs.from_arrays(
    {
        "inputs": torch.cat([batch(15)[0], torch.zeros(1, 15, dtype=torch.long)]).numpy(),
        "targets": torch.cat([batch(15)[1], torch.ones(1, 7, dtype=torch.long)]).numpy(),
    }
)
DIMS = {"batch": 5, "heads": 3, "d_kv": 5, "d_model": 12, "d_ff": 20, "vocab": 64}
DIMS |= {"blocks": 3, "block_length": 6, "window_length": 18, "global_length": 3}


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_tap_is_heard_and_labelled(kind: str, make_model: MakeModel, tmp_path: Path) -> None:
    config = CONFIGS[kind]
    model, wanted = make_model(config), taps(config)
    trace = capture(model, INPUTS, wanted, run, tmp_path)
    assert sorted(trace.names()) == sorted(tap.name for tap in wanted)
    for tensor, values in trace.items():
        for dim, size in zip(tensor.dims, values.shape, strict=True):
            assert size == DIMS.get(dim, size), (tensor.name, dim)
        assert (tensor.hidden_below is not None) == tensor.name.endswith("scores")
    places = {name for name, module in model.named_modules() if isinstance(module, TapModule)}
    silent = {name for name in places if "EncDecAttention.position_bias" in name}
    assert places - {tap.name for tap in wanted} == silent


@pytest.mark.parametrize("kind", CONFIGS)
def test_listening_changes_nothing(kind: str, make_model: MakeModel) -> None:
    model = make_model(CONFIGS[kind])
    ids, labels = batch(47)
    bare = our_logits(model, ids, labels)
    with listening(model, taps(model.config), lambda _tap, _value: None):
        heard = our_logits(model, ids, labels)
    assert float((bare - heard).abs().max()) < 1e-5 * float(bare.abs().max())


def test_buckets_of_a_block_are_counted_from_its_own_positions() -> None:
    name = "encoder.block.2.layer.0.TransientGlobalSelfAttention"
    found = tap_buckets(GLOBAL, f"{name}.scores", 6, 18)
    full = replace(T5Config(**{k: v for k, v in SIZES.items() if k != "local_radius"}))
    plain = tap_buckets(full, "encoder.block.0.layer.0.SelfAttention.scores", 18, 18)
    assert found is not None and plain is not None
    assert found.tolist() == plain[6:12].tolist()
    assert tap_buckets(GLOBAL, f"{name}.side_scores", 6, 3) is None


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_parameter_has_a_gradient(kind: str, make_model: MakeModel) -> None:
    model = make_model(CONFIGS[kind])
    ids, labels = batch(31)
    model(input_ids=ids, labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.any()), name
        assert bool(torch.isfinite(parameter.grad).all()), name


@pytest.mark.parametrize("kind", CONFIGS)
def test_bfloat16_is_near(kind: str, make_model: MakeModel) -> None:
    model = make_model(CONFIGS[kind])
    with torch.no_grad():  # small enough that rounding is not blown up
        for parameter in model.parameters():
            parameter.mul_(0.5)
    ids, labels = batch(31)
    wide = our_logits(model, ids, labels)
    narrow = our_logits(model.to(torch.bfloat16), ids, labels)
    assert narrow.dtype == torch.bfloat16
    assert float((narrow.float() - wide).abs().max()) < 0.1 * float(wide.abs().max())


@pytest.mark.parametrize("kind", CONFIGS)
def test_rows_of_padding_disturb_no_other(kind: str, make_model: MakeModel) -> None:
    model = make_model(CONFIGS[kind])
    ids, labels = batch(13)
    alone = our_logits(model, ids, labels)
    more = our_logits(model, F.pad(ids, (0, 0, 0, 1)), F.pad(labels, (0, 0, 0, 1), value=5))
    assert bool(torch.isfinite(more).all())
    assert torch.allclose(more[:-1], alone, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
def test_packed_examples_are_what_they_are_alone(kind: str, make_model: MakeModel) -> None:
    """Of any length: of what is left over at the end of an example its last summary is made."""
    model = make_model(CONFIGS[kind])
    ids, labels = (x[:1] for x in batch(20))
    sequence_ids = torch.tensor([[1] * 9 + [2] * 11])
    decoder_ids = torch.tensor([[1] * 3 + [2] * 4])
    packed = our_logits(model, ids, labels, sequence_ids=sequence_ids, decoder_sequence_ids=decoder_ids)
    apart = [our_logits(model, ids[:, :9], labels[:, :3]), our_logits(model, ids[:, 9:], labels[:, 3:])]
    assert torch.allclose(packed, torch.cat(apart, dim=1), atol=1e-4 * float(packed.abs().max()))


@pytest.mark.parametrize("kind", CONFIGS)
def test_it_says_step_by_step_what_it_says_at_once(kind: str, make_model: MakeModel) -> None:
    model = make_model(CONFIGS[kind])
    ids, _ = batch(31)
    said = model.generate(ids, max_new_tokens=6)
    assert said[:, 0].tolist() == [0] * 4
    with torch.no_grad():
        logits = model(input_ids=ids, decoder_input_ids=said[:, :-1]).logits
    going = torch.cummax((said == 1).long(), dim=1).values[:, :-1] == 0
    assert torch.equal(logits.argmax(-1)[going], said[:, 1:][going])
    assert model.generate(ids, max_new_tokens=4, num_beams=2).shape[0] == 4


class _Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def largest(config: Any, length: int) -> int:
    model = T5Model(config).eval()
    ids = torch.full((1, length), 5)
    with torch.no_grad(), _Largest() as seen:
        model.encode(ids, torch.ones_like(ids))
    return seen.elements


@pytest.mark.parametrize("kind", CONFIGS)
def test_16384_tokens_need_memory_that_is_linear_in_length(kind: str) -> None:
    config = replace(CONFIGS[kind], num_layers=1, local_radius=127, global_block_size=16)
    # What is computed at once is bounded, and below what a layer's own activations take.
    assert largest(config, 16384) <= 2 * largest(config, 8192)
    assert largest(config, 16384) < 1 << 23


def test_full_attention_is_not_linear() -> None:
    """Else the test above would show nothing."""
    full = with_layers(LOCAL.architecture, LocalAttentionSpec, relative_attention_type=None)
    assert full.encoder
    spec = AttentionSpec(kind="SelfAttention", num_heads=3, d_kv=5)
    full = replace(full, encoder=replace(full.encoder, layers=(spec, full.encoder.layers[1])))
    assert largest(full, 2048) >= 4 * largest(full, 1024)
