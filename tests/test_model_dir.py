from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from porting.errors import ConfigError, InputError, OutputError
from porting.model_dir import (
    WEIGHTS,
    WEIGHTS_INDEX,
    TensorSpec,
    load_model,
    new_directory,
    read_config,
    shard_specs,
    stored_dtypes,
    weight_files,
    write_index,
    write_json,
    write_shard,
)
from porting.ports.t5.architecture import Architecture, StackSpec
from porting.ports.t5.config import T5Config
from porting.ports.t5.layer_specs import AttentionSpec, FeedForwardSpec
from porting.ports.t5.model import T5Model

DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def torch_bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


# --- safetensors files ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    numpy_dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    patterns = np.random.default_rng(0).integers(0, 256, (6 * 5, numpy_dtype.itemsize), dtype=np.uint8)
    matrix = patterns.view(numpy_dtype).reshape(6, 5)  # NaN and denormal numbers included
    arrays = {
        "transposed": matrix.T,
        "scalar": matrix[0, 0].reshape(()),
        "row": matrix[2],
        "none": matrix[:0],
    }
    specs = [TensorSpec(name, array.shape, array.dtype) for name, array in arrays.items()]
    path = tmp_path / "x.safetensors"
    write_shard(path, specs, iter(arrays.values()))

    read = load_file(path)
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == DTYPES[dtype]
        assert tuple(read[name].shape) == array.shape
        assert torch_bits(read[name]) == bits(array)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_types_may_be_mixed_in_one_file(tmp_path: Path) -> None:
    arrays = [np.ones(3, np.float16), np.ones((2, 2), np.float64), np.ones(1, ml_dtypes.bfloat16)]
    specs = [TensorSpec(f"t{i}", array.shape, array.dtype) for i, array in enumerate(arrays)]
    write_shard(tmp_path / "x", specs, iter(arrays))
    read = load_file(tmp_path / "x")
    assert [read[f"t{i}"].dtype for i in range(3)] == [torch.float16, torch.float64, torch.bfloat16]
    assert all(bool((tensor == 1).all()) for tensor in read.values())


@pytest.mark.parametrize("array", [np.zeros((3, 2), np.float32), np.zeros((2, 3), np.float64)])
def test_an_array_other_than_its_spec_is_never_written(tmp_path: Path, array: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="kernel"):
        write_shard(tmp_path / "x", [TensorSpec("kernel", (2, 3), np.dtype(np.float32))], iter([array]))


def test_one_tensor_is_made_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "x"
    nbytes = 1 << 20
    sizes: list[int] = []

    def arrays() -> object:
        for _ in range(3):
            sizes.append(path.stat().st_size)
            yield np.zeros(nbytes // 4, np.float32)

    write_shard(path, [TensorSpec(n, (nbytes // 4,), np.dtype(np.float32)) for n in "abc"], arrays())
    assert sizes[1] >= nbytes
    assert sizes[2] >= 2 * nbytes


# --- shards ---


def specs_of(*sizes: int) -> list[TensorSpec]:
    return [TensorSpec(f"t{i}", (size,), np.dtype(np.float16)) for i, size in enumerate(sizes)]


def test_what_fits_goes_into_one_file() -> None:
    specs = specs_of(10, 20, 30)
    assert shard_specs(specs, 120) == {WEIGHTS: specs}
    assert shard_specs([], 1) == {WEIGHTS: []}


def test_a_byte_more_makes_a_second_file() -> None:
    specs = specs_of(10, 20, 30)
    assert shard_specs(specs, 119) == {
        "model-00001-of-00002.safetensors": specs[:2],
        "model-00002-of-00002.safetensors": specs[2:],
    }


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 150))
def test_shards_hold_every_tensor_in_order_and_are_full(sizes: list[int], limit: int) -> None:
    specs = specs_of(*sizes)
    shards = list(shard_specs(specs, limit).values())
    assert list(itertools.chain(*shards)) == specs
    totals = [sum(spec.nbytes for spec in shard) for shard in shards]
    assert all(total <= limit or len(shard) == 1 for total, shard in zip(totals, shards, strict=True))
    for total, following in zip(totals, shards[1:], strict=False):
        assert total + following[0].nbytes > limit


def test_the_index_says_where_each_tensor_lies(tmp_path: Path) -> None:
    shards = shard_specs(specs_of(10, 20, 30), 60)
    write_index(tmp_path, shards)
    first, second = shards
    assert json.loads((tmp_path / WEIGHTS_INDEX).read_text()) == {
        "metadata": {"total_size": 120},
        "weight_map": {"t0": first, "t1": first, "t2": second},
    }


def test_one_file_needs_no_index(tmp_path: Path) -> None:
    write_index(tmp_path, shard_specs(specs_of(10), 60))
    assert not (tmp_path / WEIGHTS_INDEX).exists()


# --- the output directory ---


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("existing", [False, True])
def test_the_directory_is_there_when_it_is_whole(tmp_path: Path, existing: bool) -> None:
    output = tmp_path / "deep" / "model"
    if existing:
        output.mkdir(parents=True)
    with new_directory(output, force=False) as folder:
        (folder / "config.json").write_text("{}")
        assert not output.exists() or not any(output.iterdir())
    assert tree(tmp_path) == {"deep/model/config.json": "{}"}
    assert [path.name for path in output.parent.iterdir()] == ["model"]
    assert output.stat().st_mode & 0o777 == 0o777 & ~current_umask()


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), OSError("disk full")])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    expected = OutputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected), new_directory(tmp_path / "a/b/model", force=False) as folder:
        (folder / "half").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == [], "not even the parents that were made for it"


def test_a_failure_leaves_the_parents_that_were_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="bad"), new_directory(tmp_path / "a/b/model", force=False):
        raise ValueError("bad")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_a_failure_leaves_the_old_model_as_it_was(tmp_path: Path) -> None:
    output = tmp_path / "model"
    output.mkdir()
    (output / "config.json").write_text("old")
    with pytest.raises(OutputError, match="disk full"), new_directory(output, force=True) as folder:
        (folder / "config.json").write_text("new")
        raise OSError("disk full")
    assert tree(tmp_path) == {"model/config.json": "old"}


def test_force_replaces_the_model_and_keeps_other_files(tmp_path: Path) -> None:
    output = tmp_path / "model"
    (output / "notes").mkdir(parents=True)
    old = ["config.json", "generation_config.json", WEIGHTS_INDEX, "model-00001-of-00002.safetensors"]
    for name in [*old, "tokenizer.json", "notes/a.txt", "model.py"]:
        (output / name).write_text("old")
    with new_directory(output, force=True) as folder:
        (folder / "config.json").write_text("new")
        (folder / WEIGHTS).write_text("new")
    assert tree(tmp_path) == {
        "model/config.json": "new",
        f"model/{WEIGHTS}": "new",
        "model/model.py": "old",
        "model/notes/a.txt": "old",
        "model/tokenizer.json": "old",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_directory_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty") as caught, new_directory(tmp_path, force=False):
        pytest.fail("the block must not run")
    assert "--force" in caught.value.remedy
    assert tree(tmp_path) == {"notes.txt": "mine"}


@pytest.mark.parametrize("force", [False, True])
def test_an_output_that_is_a_file_is_refused(tmp_path: Path, force: bool) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(OutputError, match="is a file"), new_directory(tmp_path / "model", force=force):
        pytest.fail("the block must not run")
    assert tree(tmp_path) == {"model": "mine"}


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    output = tmp_path / "file" / "model"
    with pytest.raises(OutputError, match="model"), new_directory(output, force=False):
        pytest.fail("the block must not run")


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
    shards = shard_specs(specs, limit)
    folder.mkdir()
    for file, shard in shards.items():
        write_shard(folder / file, shard, (state[spec.name].numpy() for spec in shard))
    write_index(folder, shards)
    write_json(folder / "config.json", TINY.to_json())
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
    write_json(model_dir / "config.json", content)
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
    write_json(sharded_dir / WEIGHTS_INDEX, {"weight_map": {"shared.weight": name}})
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
    write_json(model_dir / "config.json", {**TINY.to_json(), "num_layers": 3})
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
    specs = [TensorSpec(name, tuple(t.shape), np.dtype(np.float32)) for name, t in written.items()]
    write_shard(tmp_path / WEIGHTS, specs, (tensor.numpy() for tensor in written.values()))
    write_json(tmp_path / "config.json", ONE_SCOPE.to_json())

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
    write_json(tmp_path / "config.json", ONE_SCOPE.to_json())
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
