from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from porting.convert.layout import TensorSpec, safetensors_layout, weights_index
from porting.convert.target import json_bytes
from porting.errors import ConfigError, InputError
from porting.model_dir import (
    WEIGHTS,
    WEIGHTS_INDEX,
    load_model,
    read_config,
    stored_dtypes,
    weight_files,
)
from porting.ports.t5.architecture import Architecture, StackSpec
from porting.ports.t5.attention_specs import AttentionSpec
from porting.ports.t5.config import T5Config
from porting.ports.t5.layer_specs import FeedForwardSpec
from porting.ports.t5.model import T5Model

# --- reading ---

TINY = T5Config(
    vocab_size=40, d_model=12, d_kv=5, d_ff=20, num_layers=2, num_decoder_layers=1, num_heads=3,
    relative_attention_num_buckets=8,
)  # fmt: skip


def write_model(folder: Path, limit: int = 10**9) -> Path:
    """A model directory of random weights."""
    torch.manual_seed(0)
    state = T5Model(TINY).state_dict()
    specs = [TensorSpec(name, tuple(t.shape), np.dtype(np.float32)) for name, t in state.items()]
    layout = safetensors_layout(specs, limit)
    folder.mkdir()
    for file in layout:
        save_file({spec.name: state[spec.name] for spec in file.specs}, folder / file.name, {"format": "pt"})
    if len(layout) > 1:
        (folder / WEIGHTS_INDEX).write_bytes(json_bytes(weights_index(layout)))
    (folder / "config.json").write_bytes(json_bytes(TINY.to_json()))
    return folder


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def sharded_dir(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "sharded", limit=4000)
    assert len(weight_files(folder)) > 2
    return folder


def test_shards_or_one_file_load_alike_in_eval_mode(model_dir: Path, sharded_dir: Path) -> None:
    one, many = load_model(model_dir), load_model(str(sharded_dir))
    assert not one.training
    assert all(parameter.device.type == "cpu" for parameter in one.parameters())
    state = many.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_the_stored_type_is_kept_unless_another_is_wanted(model_dir: Path) -> None:
    state = load_file(model_dir / WEIGHTS)
    save_file({k: t.bfloat16() for k, t in state.items()}, model_dir / WEIGHTS, {"format": "pt"})
    assert {p.dtype for p in load_model(model_dir).parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load_model(model_dir, dtype=torch.float32).parameters()} == {torch.float32}


def test_transformers_loads_it_unchanged(sharded_dir: Path) -> None:
    model, report = transformers.T5ForConditionalGeneration.from_pretrained(
        sharded_dir, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    ours = load_model(sharded_dir).state_dict()
    for name, tensor in ours.items():
        assert torch.equal(model.state_dict()[name], tensor)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist") as caught:
        load_model(tmp_path / "none")
    assert "convert-checkpoint" in caught.value.remedy


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3", "\udcff"])
def test_a_config_that_cannot_be_read_is_named(model_dir: Path, content: str | None) -> None:
    config = model_dir / "config.json"
    config.unlink() if content is None else config.write_text(content, errors="surrogateescape")
    with pytest.raises(InputError, match=r"config\.json"):
        load_model(model_dir)


@pytest.mark.parametrize("content", [{}, {"model_type": "llama"}, {"model_type": None}])
def test_a_model_of_another_kind_is_named(model_dir: Path, content: dict) -> None:
    (model_dir / "config.json").write_bytes(json_bytes(content))
    with pytest.raises(
        ConfigError, match=f"No installed port builds model_type '{content.get('model_type')}'"
    ):
        load_model(model_dir)


@pytest.mark.parametrize("count", [1, 2])
def test_missing_files_are_all_named_before_any_is_read(sharded_dir: Path, count: int) -> None:
    gone = weight_files(sharded_dir)[-count:]
    for file in gone:
        file.unlink()
    weight_files_first = sorted(sharded_dir.glob("*.safetensors"))[0]
    weight_files_first.write_bytes(b"not read")
    with pytest.raises(InputError, match="is incomplete") as caught:
        load_model(sharded_dir)
    assert [problem.key for problem in caught.value.problems] == [file.name for file in gone]


def test_a_directory_without_weights_is_incomplete(model_dir: Path) -> None:
    (model_dir / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"is incomplete(.|\n)*model\.safetensors"):
        load_model(model_dir)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/hostname", "sub/x.safetensors", ".."])
def test_an_index_cannot_name_files_outside_the_directory(sharded_dir: Path, name: str) -> None:
    save_file({"shared.weight": torch.zeros(1)}, sharded_dir.parent / "other.safetensors")
    (sharded_dir / WEIGHTS_INDEX).write_bytes(json_bytes({"weight_map": {"shared.weight": name}}))
    with pytest.raises(InputError, match=r"outside the directory|is incomplete"):
        load_model(sharded_dir)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": [1]}}'])
def test_an_index_that_is_none_is_named(sharded_dir: Path, content: str) -> None:
    (sharded_dir / WEIGHTS_INDEX).write_text(content)
    with pytest.raises(InputError, match=WEIGHTS_INDEX):
        load_model(sharded_dir)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:0],
        lambda content: content[:-3],
        lambda content: content + b"more",
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content[:9] + b"\x00" + content[10:],
        lambda content: content.replace(b'"F32"', b'"F33"', 1),
        lambda content: content.replace(b"[40,12]", b"[40,13]", 1),
    ],
    ids=["empty", "cut off", "longer", "header length", "header", "dtype", "shape"],
)
def test_damaged_weights_are_refused_by_their_file(model_dir: Path, damage: Callable[[bytes], bytes]) -> None:
    path = model_dir / WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"model\.safetensors is not a safetensors file"):
        load_model(model_dir)


def test_all_tensors_that_do_not_fit_are_named_together(model_dir: Path) -> None:
    state = load_file(model_dir / WEIGHTS)
    del state["encoder.block.1.layer.0.SelfAttention.o.weight"]
    state["lm_head.weight"] = torch.zeros(40, 12)
    state["shared.weight"] = torch.zeros(41, 12)
    state["decoder.final_layer_norm.weight"] = torch.ones(12, dtype=torch.int64)
    save_file(state, model_dir / WEIGHTS, {"format": "pt"})
    with pytest.raises(InputError) as caught:
        load_model(model_dir)
    assert {(p.key, p.expected, p.found) for p in caught.value.problems} == {
        ("encoder.block.1.layer.0.SelfAttention.o.weight", "a tensor (12, 15)", "none"),
        ("lm_head.weight", "no such tensor", "one of shape (40, 12)"),
        ("shared.weight", "shape (40, 12)", "(41, 12)"),
        ("decoder.final_layer_norm.weight", "floating-point numbers", "torch.int64"),
    }


def test_a_config_deeper_than_the_weights_never_leaves_parameters_unset(model_dir: Path) -> None:
    (model_dir / "config.json").write_bytes(json_bytes({**TINY.to_json(), "num_layers": 3}))
    with pytest.raises(InputError) as caught:
        load_model(model_dir)
    assert len(caught.value.problems) == 8
    assert all(problem.key.startswith("encoder.block.2.") for problem in caught.value.problems)


def test_the_config_is_read_without_the_weights(model_dir: Path) -> None:
    (model_dir / WEIGHTS).unlink()
    port, config = read_config(model_dir)
    assert (port.name, config) == ("t5", TINY)


# --- directories that transformers wrote ---


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("projection", ["relu", "gated-gelu", "gated-silu"])
@pytest.mark.parametrize("limit", ["5GB", "10KB"])
def test_what_transformers_saves_gives_transformers_logits(
    tmp_path: Path, tied: bool, projection: str, limit: str
) -> None:
    torch.manual_seed(1)
    settings = {**TINY.to_json(), "feed_forward_proj": projection, "tie_word_embeddings": tied}
    theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**settings)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.ndim == 1))
        if not tied:  # transformers 5 ties them in memory whatever the config says
            theirs.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn(40, 12))
    theirs.save_pretrained(tmp_path, max_shard_size=limit)
    assert (tmp_path / WEIGHTS_INDEX).exists() == (limit == "10KB")

    ours = load_model(tmp_path)
    ids = {"input_ids": torch.randint(2, 40, (2, 9)), "decoder_input_ids": torch.randint(2, 40, (2, 7))}
    with torch.no_grad():
        expected, found = theirs(**ids).logits, ours(**ids).logits
    assert ours.config.tie_word_embeddings is tied
    assert float((expected - found).abs().max()) < 1e-5
    assert float(expected.abs().max()) > 1e-2


# --- parameters that modules share ---


ATTENTION = AttentionSpec(kind="SelfAttention", num_heads=3, d_kv=5, relative_attention_type="bias")
MEMORY = AttentionSpec(kind="EncDecAttention", num_heads=3, d_kv=5)
# An encoder in the decoder's scope, as Mesh's bi_v1_shared: one norm, and one layer of each name for both.
ONE_SCOPE = Architecture(
    vocab_size=40,
    d_model=12,
    encoder=StackSpec(
        layers=(ATTENTION, FeedForwardSpec(d_ff=20)),
        num_blocks=2,
        autoregressive=False,
        scope="decoder",
        layer_names=("self_attention", "dense_relu_dense"),
    ),
    decoder=StackSpec(
        layers=(ATTENTION, MEMORY, FeedForwardSpec(d_ff=20)),
        num_blocks=2,
        autoregressive=True,
        scope="decoder",
        layer_names=("self_attention", "enc_dec_attention", "dense_relu_dense"),
    ),
)
# Parameters of a block that both stacks have: path in the encoder -> in the decoder.
IN_BOTH = {
    "layer.0.layer_norm.weight": "layer.0.layer_norm.weight",
    **{
        f"layer.0.SelfAttention.{name}.weight": f"layer.0.SelfAttention.{name}.weight"
        for name in ("q", "k", "v", "o", "relative_attention_bias")
    },
    "layer.1.layer_norm.weight": "layer.2.layer_norm.weight",
    "layer.1.DenseReluDense.wi.weight": "layer.2.DenseReluDense.wi.weight",
    "layer.1.DenseReluDense.wo.weight": "layer.2.DenseReluDense.wo.weight",
}


def test_what_two_stacks_share_is_written_once_and_loaded_as_one(tmp_path: Path) -> None:
    torch.manual_seed(2)
    written = {name: parameter.detach() for name, parameter in T5Model(ONE_SCOPE).named_parameters()}
    assert all(".layer.1." in name for name in written if name.startswith("decoder.block."))
    save_file(written, tmp_path / WEIGHTS, {"format": "pt"})
    (tmp_path / "config.json").write_bytes(json_bytes(ONE_SCOPE.to_json()))

    loaded = load_model(tmp_path)
    parameters = dict(loaded.named_parameters(remove_duplicate=False))
    twins = {"encoder.final_layer_norm.weight": "decoder.final_layer_norm.weight"}
    for block in range(2):
        twins |= {f"encoder.block.{block}.{e}": f"decoder.block.{block}.{d}" for e, d in IN_BOTH.items()}
    assert len(parameters) == len(written) + len(twins)
    for one, other in twins.items():
        assert parameters[one] is parameters[other], one
    for name, tensor in written.items():
        assert torch.equal(parameters[name], tensor)


def test_what_one_stack_learns_the_other_knows_after_a_change_of_type(tmp_path: Path) -> None:
    written = {name: parameter.detach() for name, parameter in T5Model(ONE_SCOPE).named_parameters()}
    save_file({name: tensor.contiguous() for name, tensor in written.items()}, tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_bytes(json_bytes(ONE_SCOPE.to_json()))
    loaded = load_model(tmp_path, dtype=torch.bfloat16)
    with torch.no_grad():
        loaded.get_parameter("decoder.block.1.layer.2.DenseReluDense.wo.weight").fill_(3.0)
    assert bool((loaded.get_parameter("encoder.block.1.layer.1.DenseReluDense.wo.weight") == 3.0).all())
    assert loaded.get_parameter("encoder.block.1.layer.1.DenseReluDense.wo.weight").dtype == torch.bfloat16


def test_the_stored_types_are_read_from_every_file(sharded_dir: Path, tmp_path: Path) -> None:
    assert stored_dtypes(sharded_dir) == ["float32"]
    mixed = {"a": torch.ones(2, dtype=torch.bfloat16), "b": torch.ones(2), "c": torch.ones(2).half()}
    save_file(mixed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert stored_dtypes(tmp_path) == ["bfloat16", "float16", "float32"]
