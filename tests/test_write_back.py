"""Model directories that transformers wrote: what they are, and how they go back to the original."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from porting.checkpoint import Checkpoint, open_checkpoint
from porting.errors import CheckpointError, ConfigError, InputError, MappingError
from porting.mapping import Plan
from porting.ports.t5.from_gin import config_from_gin
from porting.ports.t5.variables import variables
from porting.source import ORIGINAL, STATE_DICT, Source, plan_conversion, resolve_source
from porting.write_back import WriteBack, plan_write_back
from tests.ports.t5.mesh_variables import SMALL, mesh_shapes

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 12,
    "d_kv": 5,
    "d_ff": 20,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
}
T5, MT5 = transformers.T5ForConditionalGeneration, transformers.MT5ForConditionalGeneration
Switch = transformers.SwitchTransformersForConditionalGeneration
LM_HEAD, SHARED = "lm_head.weight", "shared.weight"
UNREAD = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


def saved(folder: Path, kind: Any, *, own_output: bool = False, **settings: Any) -> Path:
    """A directory that transformers saved, every parameter random."""
    torch.manual_seed(0)
    model = kind(kind.config_class(**SIZES, **settings))
    with torch.no_grad():
        if own_output:
            model.lm_head.weight = torch.nn.Parameter(torch.randn(50, 12))
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


def edited(folder: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], None]) -> Path:
    """A directory whose tensors and config.json are changed in place."""
    state = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    change(state, config)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def planned(folder: Path) -> tuple[Checkpoint, Source, Plan]:
    checkpoint = open_checkpoint(folder)
    source = resolve_source(checkpoint)
    return checkpoint, source, plan_conversion(source, checkpoint)


def written_back(folder: Path) -> tuple[WriteBack, dict[str, np.ndarray]]:
    """The plan, and the variables that it makes."""
    checkpoint, source, plan = planned(folder)
    back = plan_write_back(source, plan, "mesh")
    read = {name: tensor.read() for name, tensor in checkpoint.tensors.items()}
    return back, {entry.target: entry.make(read.__getitem__) for entry in back.plan.entries}


def check(folder: Path) -> tuple[WriteBack, dict[str, np.ndarray]]:
    """Everything that holds for every directory; returns what was written back."""
    _, source, plan = planned(folder)
    assert (source.kind, source.port.name) == (STATE_DICT, "t5")
    assert source.resolved.origin == str(folder / "config.json")
    assert all(not entry.ops and len(entry.sources) == 1 for entry in plan.entries)
    back, values = written_back(folder)
    assert {name: array.shape for name, array in values.items()} == variables(source.resolved.config)
    (folder / "operative_config.gin").write_text(back.files["operative_config.gin"])
    shapes = {name: array.shape for name, array in values.items()}
    again, _ = config_from_gin(folder / "operative_config.gin", shapes)
    assert again == source.resolved.config.architecture
    state = load_file(folder / "model.safetensors")
    query = values["encoder/block_000/layer_000/SelfAttention/q"]
    np.testing.assert_array_equal(query, state["encoder.block.0.layer.0.SelfAttention.q.weight"].numpy().T)
    np.testing.assert_array_equal(values["shared/embedding"], state[SHARED].numpy())
    assert list(back.more) == ["global_step"]
    return back, values


def test_a_tied_t5(tmp_path: Path) -> None:
    back, values = check(saved(tmp_path, T5))
    assert "decoder/logits/kernel" not in values
    assert not back.plan.copies
    assert not back.plan.ignored


def test_an_untied_t5_is_untied_however_often_transformers_saved_it(tmp_path: Path) -> None:
    """transformers 5 writes that it is tied, and remembers in another flag."""
    folder = saved(
        tmp_path / "1", T5, own_output=True, tie_word_embeddings=False, feed_forward_proj="gated-gelu"
    )
    for again in ("2", "3"):
        model = T5.from_pretrained(folder)
        folder = tmp_path / again
        model.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is True
    _, values = check(folder)
    state = load_file(folder / "model.safetensors")
    assert not torch.equal(state[LM_HEAD], state[SHARED])
    np.testing.assert_array_equal(values["decoder/logits/kernel"], state[LM_HEAD].numpy().T)


def test_an_untied_t5_whose_output_transformers_tied(tmp_path: Path) -> None:
    """As transformers computes it: the embedding is the output, and hidden states are not scaled."""
    back, values = check(saved(tmp_path, T5, tie_word_embeddings=False))
    np.testing.assert_array_equal(values["decoder/logits/kernel"], values["shared/embedding"].T)
    assert not back.plan.copies


def test_an_untied_t5_without_its_output_is_an_error(tmp_path: Path) -> None:
    """transformers 4 would draw it at random."""

    def lose(_: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        config["tie_word_embeddings"] = False

    with pytest.raises(MappingError) as caught:
        planned(edited(saved(tmp_path, T5, tie_word_embeddings=False), lose))
    (problem,) = caught.value.problems
    assert (problem.key, problem.expected) == (LM_HEAD, "a variable such as lm_head.weight")


def test_mt5_is_untied_and_never_scales(tmp_path: Path) -> None:
    _, values = check(saved(tmp_path / "own", MT5, own_output=True))
    assert not np.array_equal(values["decoder/logits/kernel"], values["shared/embedding"].T)
    _, values = check(saved(tmp_path / "left out", MT5))
    np.testing.assert_array_equal(values["decoder/logits/kernel"], values["shared/embedding"].T)


def test_an_mt5_of_transformers_4_is_as_its_config_says(tmp_path: Path) -> None:
    def older(_: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        config["transformers_version"] = "4.57.6"

    _, values = check(edited(saved(tmp_path, MT5), older))
    assert "decoder/logits/kernel" not in values


def test_a_switch_transformer(tmp_path: Path) -> None:
    settings = {"num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1}
    folder = saved(tmp_path, Switch, **settings)
    _, values = check(folder)
    experts = {name: array.shape for name, array in values.items() if "MoE1D/wi/" in name}
    assert set(experts.values()) == {(4, 12, 20)}


def test_tables_that_are_kept_twice_must_be_copies(tmp_path: Path) -> None:
    """As PyTorch's own files have them, and old ones of the hub."""

    def keep_all(state: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
        for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", LM_HEAD):
            state[name] = state[SHARED].clone()
        state[UNREAD] = torch.randn(8, 3)

    folder = edited(saved(tmp_path, T5), keep_all)
    _, _, plan = planned(folder)
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", LM_HEAD)
    assert plan.copies == dict.fromkeys(names, SHARED)
    assert list(plan.ignored.values()) == [(UNREAD,)]
    back, _ = check(folder)
    assert (back.plan.copies, back.plan.ignored) == (plan.copies, plan.ignored)


def test_an_output_of_its_own_in_a_model_that_says_it_is_tied_must_be_a_copy(tmp_path: Path) -> None:
    """Who reads the values finds that it is none: the model is not what its config says."""

    def other_output(state: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
        state[LM_HEAD] = torch.randn(50, 12)

    _, _, plan = planned(edited(saved(tmp_path, T5), other_output))
    assert plan.copies == {LM_HEAD: SHARED}


def test_any_of_the_names_of_a_tied_table_will_do(tmp_path: Path) -> None:
    def rename(state: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
        state["decoder.embed_tokens.weight"] = state.pop(SHARED)
        state[LM_HEAD] = state["decoder.embed_tokens.weight"].clone()

    folder = edited(saved(tmp_path, T5), rename)
    back, values = written_back(folder)
    table = load_file(folder / "model.safetensors")["decoder.embed_tokens.weight"].numpy()
    np.testing.assert_array_equal(values["shared/embedding"], table)
    assert back.plan.copies == {LM_HEAD: "decoder.embed_tokens.weight"}


def change_shape(state: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
    state["encoder.embed_tokens.weight"] = torch.randn(49, 12)


def add(state: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
    state["encoder.block.7.layer.0.SelfAttention.q.weight"] = torch.randn(15, 12)


def remove(state: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
    del state["encoder.block.1.layer.0.SelfAttention.q.weight"]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (change_shape, "encoder.embed_tokens.weight"),
        (add, "encoder.block.7.layer.0.SelfAttention.q.weight"),
        (remove, "encoder.block.1.layer.0.SelfAttention.q.weight"),
    ],
)
def test_what_does_not_fit_is_named(change: Any, key: str, tmp_path: Path) -> None:
    with pytest.raises(MappingError) as caught:
        planned(edited(saved(tmp_path, T5), change))
    assert [problem.key for problem in caught.value.problems] == [key]


def test_weights_that_are_no_floats_and_copies_of_another_type_are_errors(tmp_path: Path) -> None:
    def halve(state: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
        state[LM_HEAD] = state[SHARED].to(torch.bfloat16)

    def count(state: dict[str, torch.Tensor], _: dict[str, Any]) -> None:
        state[SHARED] = state[SHARED].to(torch.int32)

    with pytest.raises(CheckpointError, match=LM_HEAD):
        planned(edited(saved(tmp_path / "1", T5), halve))
    with pytest.raises(CheckpointError, match=SHARED):
        planned(edited(saved(tmp_path / "2", T5), count))


def test_a_directory_that_no_port_builds_is_an_error(tmp_path: Path) -> None:
    def rename(_: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        config["model_type"] = "longformer"

    folder = edited(saved(tmp_path, T5), rename)
    with pytest.raises(ConfigError, match="longformer"):
        planned(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match="No installed port recognises this checkpoint"):
        planned(folder)


def of_mesh(shapes: Mapping[str, tuple[int, ...]], path: Path) -> Checkpoint:
    from porting.checkpoint import LazyTensor

    kind = np.dtype(np.float32)
    tensors = {n: LazyTensor(n, s, kind, (), lambda s=s: np.zeros(s, kind)) for n, s in shapes.items()}
    return Checkpoint(path / "model.ckpt-1", "tensorflow-bundle", tensors, ())


def test_a_checkpoint_of_the_original_is_known_as_one(tmp_path: Path) -> None:
    checkpoint = of_mesh(mesh_shapes(SMALL, slots=True), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_json()))
    source = resolve_source(checkpoint)
    assert (source.kind, source.port.name) == (ORIGINAL, "t5")
    plan = plan_conversion(source, checkpoint)
    assert "optimizer state" in plan.ignored
    with pytest.raises(InputError, match="already"):
        plan_write_back(source, plan, "mesh")


def test_a_checkpoint_of_tensorflow_is_no_model_directory(tmp_path: Path) -> None:
    """One that no port recognises is not taken for what a config.json beside it says."""
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_json()))
    with pytest.raises(ConfigError, match="No installed port recognises this checkpoint"):
        resolve_source(of_mesh({"dense/kernel": (3, 4)}, tmp_path))


def test_the_original_of_another_name_is_not_known(tmp_path: Path) -> None:
    _, source, plan = planned(saved(tmp_path, T5))
    with pytest.raises(InputError, match="Known: mesh"):
        plan_write_back(source, plan, "jax")
    nowhere = replace(source, port=replace(source.port, originals={}))
    with pytest.raises(InputError, match="no original"):
        plan_write_back(nowhere, plan, "mesh")


def test_variables_that_were_known_are_written_again(tmp_path: Path) -> None:
    """Old names of norms, and optimizer state that is not written."""
    _, source, plan = planned(saved(tmp_path, T5))
    known = mesh_shapes(source.resolved.config, old_norms=True, slots=True)
    back = plan_write_back(source, plan, "mesh", known)
    written = {entry.target for entry in back.plan.entries}
    assert "encoder/final_layer_norm/scale" in written
    assert written == {name for name in known if "_slot_" not in name and name != "global_step"}
    assert "LayerStack.norm_epsilon = 1e-06" in back.files["operative_config.gin"]
    assert set(back.more) == {"global_step"}
