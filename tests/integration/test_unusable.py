"""Checkpoints, configs and inputs that cannot be used: one message, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from porting import convert_checkpoint
from porting.checkpoint import open_checkpoint
from porting.cli import compare_outputs_command, convert_checkpoint_command
from tests.integration.conftest import V1_0, V1_1, MakeCheckpoint

DATA = "model.ckpt-1000.data-00000-of-00001"


@dataclass(frozen=True)
class Workplace:
    """A copy of a checkpoint to spoil, and a place for what must not appear."""

    source: Path
    output: Path

    def convert(self, *options: str) -> Result:
        return CliRunner().invoke(convert_checkpoint_command, [str(self.source), str(self.output), *options])


@pytest.fixture
def work(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Workplace:
    source = tmp_path / "source"
    shutil.copytree(make_checkpoint(files=V1_1), source)
    return Workplace(source, tmp_path / "out" / "model")


def assert_refused(work: Workplace, result: Result, *said: str) -> None:
    assert result.exit_code == 2, result.output
    for text in said:
        assert text in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("Error:") == 1
    assert not result.stdout
    assert not work.output.parent.exists(), list(work.output.parent.iterdir())


def test_missing_variables_are_all_named(make_checkpoint: MakeCheckpoint, work: Workplace) -> None:
    gone = ["decoder/block_001/layer_001/EncDecAttention/k", "encoder/block_002/layer_001/rms_norm/scale"]
    work = Workplace(make_checkpoint(files=V1_1, without=gone), work.output)
    assert_refused(
        work,
        work.convert(),
        "2 things do not fit",
        "decoder.block.1.layer.1.EncDecAttention.k.weight: expected a variable such as " + gone[0],
        "encoder.block.2.layer.1.layer_norm.weight: expected a variable such as",
    )


def test_a_variable_without_a_home_is_named(make_checkpoint: MakeCheckpoint, work: Workplace) -> None:
    extra = {"encoder/block_000/layer_000/SelfAttention/qq": [24, 36], "novel/thing": [3]}
    work = Workplace(make_checkpoint(files=V1_1, extra=extra), work.output)
    assert_refused(
        work,
        work.convert(),
        "encoder/block_000/layer_000/SelfAttention/qq: expected a rule that claims it",
        "nearest variable that has one: encoder/block_000/layer_000/SelfAttention/q",
        "novel/thing: expected a rule that claims it",
    )


def test_wrong_shapes_are_named_with_both_shapes(make_checkpoint: MakeCheckpoint, work: Workplace) -> None:
    reshaped = {"encoder/block_001/layer_000/SelfAttention/o": [24, 36]}
    work = Workplace(make_checkpoint(files=V1_1, reshaped=reshaped), work.output)
    assert_refused(
        work,
        work.convert(),
        "encoder/block_001/layer_000/SelfAttention/o: expected shape (24, 36) of "
        "encoder.block.1.layer.0.SelfAttention.o.weight, found (36, 24)",
    )


def truncate(work: Workplace) -> None:
    data = work.source / DATA
    os.truncate(data, data.stat().st_size // 2)


def flip_bits(work: Workplace) -> None:
    """One bit of a weight; a bit of an optimizer slot would change nothing that is read."""
    weight = open_checkpoint(work.source).tensors["decoder/logits/kernel"].read().tobytes()
    data = bytearray((work.source / DATA).read_bytes())
    data[data.index(weight) + 100] ^= 0x10
    (work.source / DATA).write_bytes(data)


def lose_shard(work: Workplace) -> None:
    (work.source / DATA).unlink()


def flip_index(work: Workplace) -> None:
    index = work.source / "model.ckpt-1000.index"
    content = bytearray(index.read_bytes())
    content[40] ^= 0xFF
    index.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(truncate, DATA), (flip_bits, "CRC32C"), (lose_shard, DATA), (flip_index, "model.ckpt-1000.index")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_files_are_named(work: Workplace, spoil: Callable[[Workplace], None], said: str) -> None:
    spoil(work)
    assert_refused(work, work.convert(), said)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("num_heads = 4", "SelfAttention"),
        ("decoder/make_layer_stack.num_layers = 3", "decoder.block.2.layer.0.SelfAttention.q.weight"),
        ("encoder/make_layer_stack.num_layers = 2", "encoder/block_002/layer_000/SelfAttention/q"),
        ("DenseReluDense.activation = 'relu'", "DenseReluDense/wi_0/kernel"),
        ("Unitransformer.shared_embedding_and_softmax_weights = True", "decoder/logits/kernel"),
        ("SelfAttention.num_memory_heads = 1", "encoder/block_000/layer_000/SelfAttention/k"),
        ("SelfAttention.shared_kv = True", "SelfAttention.kv.weight"),
        ("Unitransformer.ensemble = 2", "Unitransformer.ensemble"),
        ("Unitransformer.positional_embedding = True", "positional_embedding"),
    ],
)
def test_a_config_that_does_not_fit_says_where(work: Workplace, line: str, said: str, tmp_path: Path) -> None:
    config = tmp_path / "wrong.gin"
    text = (work.source / "operative_config.gin").read_text()
    scoped = [f"{scope}/{line}" for scope in ("encoder", "decoder")] if "." in line.split("/")[-1] else []
    lines = [line] if "/" in line.split("=")[0] else [line, *scoped]
    config.write_text("\n".join([text, *lines]))
    assert_refused(work, work.convert("--config", str(config)), said)


def test_a_v1_0_config_does_not_take_v1_1_weights(make_checkpoint: MakeCheckpoint, work: Workplace) -> None:
    other = make_checkpoint(files=V1_0)
    result = work.convert("--config", str(other / "operative_config.gin"))
    assert_refused(work, result, "DenseReluDense.wi.weight", "wi_0/kernel", "decoder/logits/kernel")


def test_an_output_directory_that_is_not_empty_is_left_alone(work: Workplace) -> None:
    work.output.mkdir(parents=True)
    (work.output / "notes.txt").write_text("mine")
    result = work.convert()
    assert result.exit_code == 2
    assert "is not empty" in result.stderr and "--force" in result.stderr
    assert [file.name for file in work.output.iterdir()] == ["notes.txt"]

    assert work.convert("--force").exit_code == 0
    assert (work.output / "notes.txt").read_text() == "mine"
    assert (work.output / "model.safetensors").exists()
    assert [p.name for p in work.output.parent.iterdir()] == ["model"]


def test_a_dry_run_needs_no_data_and_writes_nothing(work: Workplace) -> None:
    lose_shard(work)
    result = work.convert("--dry-run", "--format", "json")
    assert result.exit_code == 0, result.stderr
    planned = json.loads(result.stdout)
    assert planned["status"] == "planned"
    assert planned["ignored"] == {"optimizer state": len(planned["plan"]), "global step": 1}
    assert not work.output.parent.exists()


def test_a_failed_replacement_leaves_the_old_model(work: Workplace) -> None:
    assert work.convert().exit_code == 0
    before = {file.name: file.read_bytes() for file in work.output.iterdir()}
    flip_bits(work)
    assert work.convert("--force").exit_code == 2
    assert {file.name: file.read_bytes() for file in work.output.iterdir()} == before
    assert [p.name for p in work.output.parent.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"inputs": [[5, 500, 1]], "targets": [[7, 1]]}, "500 at [0, 1]"),
        ({"inputs": [[5, -3, 1]], "targets": [[7, 1]]}, "-3 at [0, 1]"),
        ({"inputs": [[5, 1]]}, "targets"),
        ({"inputs": [[5, 1]], "targets": [[5, 1], [6, 1]]}, "targets"),
        ({"inputs": [[5.5, 1]], "targets": [[7, 1]]}, "inputs"),
        ({"inputs": [5, 1], "targets": [7, 1]}, "[batch, length]"),
    ],
)
def test_input_ids_that_cannot_be_used(
    work: Workplace, tmp_path: Path, inputs: dict[str, object], said: str
) -> None:
    convert_checkpoint(work.source, tmp_path / "model")
    file = tmp_path / "inputs.json"
    file.write_text(json.dumps(inputs))
    reports = tmp_path / "reports"
    result = CliRunner().invoke(
        compare_outputs_command,
        [str(work.source), str(tmp_path / "model"), "--inputs", str(file), "--report-dir", str(reports)],
    )
    assert result.exit_code == 2, result.output
    assert said in result.stderr
    assert not reports.exists()


def test_comparing_with_a_damaged_checkpoint_says_so(work: Workplace, tmp_path: Path) -> None:
    convert_checkpoint(work.source, tmp_path / "model")
    flip_bits(work)
    result = CliRunner().invoke(
        compare_outputs_command,
        [str(work.source), str(tmp_path / "model"), "--report-dir", str(tmp_path / "reports")],
    )
    assert result.exit_code == 2, result.output
    assert "damaged" in result.stderr and "decoder/logits/kernel" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "reports").exists()


def test_float16_that_would_overflow_is_refused(make_checkpoint: MakeCheckpoint, work: Workplace) -> None:
    work = Workplace(
        make_checkpoint(files=V1_1, huge=["decoder/block_000/layer_002/DenseReluDense/wo/kernel"]),
        work.output,
    )
    assert_refused(work, work.convert("--dtype", "float16"), "DenseReluDense.wo.weight", "bfloat16")
    assert work.convert("--dtype", "bfloat16").exit_code == 0


def test_casting_rounds_to_nearest_even(work: Workplace, tmp_path: Path) -> None:
    import torch

    from porting import load_model

    convert_checkpoint(work.source, tmp_path / "kept")
    for dtype in ("bfloat16", "float16"):
        convert_checkpoint(work.source, tmp_path / dtype, dtype=dtype)
        wanted = load_model(tmp_path / "kept", dtype=getattr(torch, dtype)).state_dict()
        cast = load_model(tmp_path / dtype).state_dict()
        assert all(torch.equal(wanted[name], cast[name]) for name in wanted)


def test_converting_imports_neither_pytorch_nor_tensorflow(work: Workplace, tmp_path: Path) -> None:
    code = (
        "import sys; from porting import convert_checkpoint; "
        f"convert_checkpoint({str(work.source)!r}, {str(tmp_path / 'model')!r}); "
        "sys.exit(bool({'torch', 'tensorflow', 'mesh_tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_shards_are_what_transformers_loads(work: Workplace) -> None:
    from transformers import T5ForConditionalGeneration

    assert work.convert("--max-shard-size", "50KB").exit_code == 0
    index = json.loads((work.output / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert all((work.output / file).stat().st_size < 60_000 for file in files)
    _, info = T5ForConditionalGeneration.from_pretrained(work.output, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
