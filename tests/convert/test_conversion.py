"""Conversions of checkpoints that live in memory: what is read, when, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from porting.checkpoint import Checkpoint, LazyTensor
from porting.convert import convert_checkpoint
from porting.errors import CheckpointError, ConfigError, InputError, MappingError, OutputError
from porting.model_dir import load_model
from porting.ports.t5.to_gin import gin_from_config
from tests.ports.t5.mesh_variables import SMALL, V1_1, mesh_shapes

CONFIG = replace(V1_1, relative_attention_num_buckets=8, relative_attention_max_distance=128)
BF16 = np.dtype(ml_dtypes.bfloat16)


class Store:
    """A checkpoint in memory, and a record of what was read from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.shard = folder / "model.ckpt-1.data"
        self.shard.touch()
        generator = np.random.default_rng(0)
        self.values = {
            name: generator.standard_normal(shape).astype(np.float32)
            for name, shape in mesh_shapes(CONFIG, slots=True).items()
        }
        self.read: list[str] = []

    def open(self, _source: object) -> Checkpoint:
        tensors = {
            name: LazyTensor(name, values.shape, values.dtype, (self.shard,), self._loader(name))
            for name, values in self.values.items()
        }
        return Checkpoint(self.folder / "model.ckpt-1", "memory", tensors, (self.shard,))

    def _loader(self, name: str) -> Callable[[], np.ndarray]:
        def load() -> np.ndarray:
            self.read.append(name)
            return self.values[name]

        return load


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store(tmp_path / "checkpoint")
    monkeypatch.setattr("porting.convert.conversion.open_checkpoint", store.open)
    return store


def test_every_value_arrives_transposed_where_the_rules_say(store: Store, tmp_path: Path) -> None:
    conversion = convert_checkpoint("x", tmp_path / "out")
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert set(state) == {entry.target for entry in conversion.plan.entries}
    query = store.values["encoder/block_001/layer_000/SelfAttention/q"]
    np.testing.assert_array_equal(state["encoder.block.1.layer.0.SelfAttention.q.weight"], query.T)
    np.testing.assert_array_equal(state["shared.weight"], store.values["shared/embedding"])
    for entry in conversion.plan.entries:
        values = store.values[entry.sources[0]]
        np.testing.assert_array_equal(state[entry.target], values.T if entry.ops else values)
    assert conversion.nbytes == sum(tensor.nbytes for tensor in state.values())
    assert load_model(tmp_path / "out").config == CONFIG


def test_a_variable_of_many_parameters_is_read_once(store: Store, tmp_path: Path) -> None:
    """Experts lie in one variable, and are parameters of their own."""
    experts = 5
    shapes = mesh_shapes(SMALL)
    for name in [name for name in shapes if "DenseReluDense" in name]:
        shapes[name.replace("DenseReluDense", "MoE1D")] = (experts, *shapes.pop(name))
    for name in [name for name in shapes if name.endswith("MoE1D/wi/kernel")]:
        shapes[name.replace("wi", "switch_gating")] = (shapes[name][1], experts)
    generator = np.random.default_rng(1)
    store.values = {name: generator.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    conversion = convert_checkpoint("x", tmp_path / "out", max_shard_size=4000)
    assert conversion.config["model_type"] == "switch_transformers"
    assert sorted(store.read) == sorted(store.values)
    state = load_model(tmp_path / "out").state_dict()
    kernels = store.values["encoder/block_002/layer_001/MoE1D/wo/kernel"]
    for i in range(experts):
        kernel = state[f"encoder.block.2.layer.1.mlp.experts.expert_{i}.wo.weight"]
        np.testing.assert_array_equal(kernel, kernels[i].T)


def test_each_weight_is_read_once_and_nothing_else(store: Store, tmp_path: Path) -> None:
    conversion = convert_checkpoint("x", tmp_path / "out")
    weights = [entry.sources[0] for entry in conversion.plan.entries]
    assert sorted(store.read) == sorted(weights)


def test_a_dry_run_reads_and_writes_nothing(store: Store, tmp_path: Path) -> None:
    store.shard.unlink()
    planned = convert_checkpoint("x", tmp_path / "out", dry_run=True)
    assert (planned.status, store.read) == ("planned", [])
    assert not (tmp_path / "out").exists()
    store.shard.touch()
    done = convert_checkpoint("x", tmp_path / "out")
    assert done.status == "converted"
    changed = {"status": "converted", "verified": True, "seconds": done.seconds}
    assert {**planned.to_json(), **changed} == done.to_json()


@pytest.mark.usefixtures("store")
def test_json_says_everything(tmp_path: Path) -> None:
    content = json.loads(json.dumps(convert_checkpoint("x", tmp_path / "out").to_json()))
    assert (content["schema_version"], content["status"], content["port"]) == (1, "converted", "t5")
    assert content["output"] == str(tmp_path / "out")
    assert content["ignored"]["global step"] == 1
    assert content["config"] == json.loads((tmp_path / "out" / "config.json").read_text())
    assert content["config_origin"] == "inferred from the variables and their shapes"
    assert content["inferred"]
    assert content["assumed"]
    assert set(content["plan"][0]) == {"sources", "target", "ops", "source_shapes", "target_shape"}


@pytest.mark.usefixtures("store")
def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    totals: list[int] = []
    written: dict[str, int] = {}
    conversion = convert_checkpoint(
        "x", tmp_path / "out", on_start=totals.append, on_tensor=written.__setitem__
    )
    assert totals == [conversion.nbytes] == [sum(written.values())]
    assert list(written) == [entry.target for entry in conversion.plan.entries]


def test_missing_files_are_found_before_any_work(store: Store, tmp_path: Path) -> None:
    store.shard.unlink()
    with pytest.raises(CheckpointError, match=r"model\.ckpt-1\.data"):
        convert_checkpoint("x", tmp_path / "out", on_start=lambda _: pytest.fail("too late"))
    assert store.read == []
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("store")
def test_shards_hold_what_one_file_holds(tmp_path: Path) -> None:
    convert_checkpoint("x", tmp_path / "one")
    convert_checkpoint("x", tmp_path / "many", max_shard_size="3KB")
    assert len(list((tmp_path / "many").glob("model-*.safetensors"))) > 3
    one, many = (load_model(tmp_path / name).state_dict() for name in ("one", "many"))
    assert all(torch.equal(one[name], many[name]) for name in one)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16)],
)
@pytest.mark.parametrize("stored", [np.dtype(np.float32), BF16])
def test_types_are_rounded_to_nearest_even(
    store: Store, tmp_path: Path, dtype: str, expected: torch.dtype, stored: np.dtype
) -> None:
    store.values = {name: values.astype(stored) for name, values in store.values.items()}
    conversion = convert_checkpoint("x", tmp_path / "out", dtype=dtype)
    assert conversion.config["dtype"] == dtype
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {expected}
    wide = torch.from_numpy(store.values["shared/embedding"].astype(np.float32))
    assert torch.equal(state["shared.weight"], wide.to(expected))


def test_stored_types_are_kept(store: Store, tmp_path: Path) -> None:
    store.values = {name: values.astype(BF16) for name, values in store.values.items()}
    assert convert_checkpoint("x", tmp_path / "same").config["dtype"] == "bfloat16"
    store.values["shared/embedding"] = store.values["shared/embedding"].astype(np.float64)
    assert convert_checkpoint("x", tmp_path / "mixed").config["dtype"] == "float32"
    state = load_file(tmp_path / "mixed" / "model.safetensors")
    assert state["shared.weight"].dtype == torch.float64
    assert state["lm_head.weight"].dtype == torch.bfloat16


def test_weights_that_are_no_floats_are_named(store: Store, tmp_path: Path) -> None:
    for name in ("shared/embedding", "decoder/rms_norm/scale"):
        store.values[name] = store.values[name].astype(np.int32)
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint("x", tmp_path / "out", dry_run=True)
    assert {problem.key for problem in caught.value.problems} == {
        "shared/embedding",
        "decoder/rms_norm/scale",
    }


def test_what_does_not_fit_stops_everything(store: Store, tmp_path: Path) -> None:
    store.values["encoder/novel"] = np.zeros(3, np.float32)
    with pytest.raises(MappingError, match="encoder/novel"):
        convert_checkpoint("x", tmp_path / "out")
    assert store.read == []
    assert not (tmp_path / "out").exists()


def test_a_config_beside_the_checkpoint_is_taken_gin_first(store: Store, tmp_path: Path) -> None:
    beside = replace(CONFIG, feed_forward_proj="gated-silu")
    (store.folder / "config.json").write_text(json.dumps(beside.to_json()))
    conversion = convert_checkpoint("x", tmp_path / "out", dry_run=True)
    assert conversion.resolved.origin == str(store.folder / "config.json")
    assert conversion.config["feed_forward_proj"] == "gated-silu"

    text = gin_from_config(replace(CONFIG, dropout_rate=0.25), list(store.values))
    (store.folder / "operative_config.gin").write_text(text)
    conversion = convert_checkpoint("x", tmp_path / "out", dry_run=True)
    assert conversion.resolved.origin == str(store.folder / "operative_config.gin")
    assert conversion.resolved.original_text == text
    assert (conversion.config["feed_forward_proj"], conversion.config["dropout_rate"]) == ("gated-gelu", 0.25)


def test_a_config_that_is_given_wins(store: Store, tmp_path: Path) -> None:
    (store.folder / "config.json").write_text("not read")
    given = tmp_path / "mine.json"
    given.write_text(json.dumps(replace(CONFIG, layer_norm_epsilon=1e-3).to_json()))
    conversion = convert_checkpoint("x", tmp_path / "out", config=given, dry_run=True)
    assert conversion.config["layer_norm_epsilon"] == 1e-3
    assert conversion.resolved.origin == str(given)


@pytest.mark.parametrize("name", ["config.json", "operative_config.gin"])
def test_a_broken_config_beside_the_checkpoint_is_never_passed_over(
    store: Store, tmp_path: Path, name: str
) -> None:
    (store.folder / name).write_text("{ broken")
    with pytest.raises(ConfigError, match=name):
        convert_checkpoint("x", tmp_path / "out", dry_run=True)


@pytest.mark.usefixtures("store")
def test_a_config_of_another_model_is_refused(tmp_path: Path) -> None:
    given = tmp_path / "t5.json"
    given.write_text(json.dumps(SMALL.to_json()))
    with pytest.raises(MappingError) as caught:
        convert_checkpoint("x", tmp_path / "out", config=given)
    named = {problem.key for problem in caught.value.problems}
    assert "decoder/logits/kernel" in named
    assert "encoder.block.0.layer.1.DenseReluDense.wi.weight" in named


def test_a_checkpoint_of_no_known_architecture_is_said(store: Store, tmp_path: Path) -> None:
    store.values = {"bert/embeddings/word_embeddings": np.zeros((3, 4), np.float32)}
    with pytest.raises(ConfigError, match="No installed port recognises this checkpoint") as caught:
        convert_checkpoint("x", tmp_path / "out")
    assert "bert/embeddings/word_embeddings" in caught.value.message


def test_an_output_that_holds_something_is_refused_before_any_work(store: Store, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for dry_run in (True, False):
        with pytest.raises(OutputError, match="not empty"):
            convert_checkpoint("x", tmp_path / "out", dry_run=dry_run)
    assert store.read == []
    convert_checkpoint("x", tmp_path / "out", force=True)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_damage_found_half_way_leaves_nothing(store: Store, tmp_path: Path) -> None:
    def damaged() -> np.ndarray:
        raise CheckpointError("wo is damaged")

    store._loader = lambda name: damaged if name.endswith("wo/kernel") else lambda: store.values[name]
    with pytest.raises(CheckpointError, match="wo is damaged"):
        convert_checkpoint("x", tmp_path / "deep" / "out")
    assert not (tmp_path / "deep").exists()


def test_an_unknown_type_is_refused_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keep, float32, bfloat16, float16, not 'int8'"):
        convert_checkpoint("x", tmp_path / "out", dtype="int8")
