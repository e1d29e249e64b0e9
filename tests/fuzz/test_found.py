"""What fuzzing found, each as a test of its own; absurd sizes: one clear error, at once, in little memory."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from porting.checkpoint import open_checkpoint
from porting.checkpoint.locate import find_prefix
from porting.config_file import parse_json, read_json_config
from porting.convert import convert_checkpoint
from porting.errors import CheckpointError, ConfigError, InputError, PortingError, Problem
from porting.gin_file import MAX_GIN_BYTES, read_gin
from porting.model_dir import load_model, weight_files
from porting.port import Port, installed_ports
from porting.ports.t5.infer import infer_config
from porting.trace import read_trace
from tests.fuzz.configs import bert_shapes, demo_shapes
from tests.fuzz.harness import DEMO

T5: Port = installed_ports()["t5"]
SOUND: dict[str, Any] = {
    "vocab_size": 128, "d_model": 40, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 3,
    "num_heads": 4, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
SWITCH = {
    **SOUND, "model_type": "switch_transformers", "num_experts": 4, "num_sparse_encoder_layers": 1,
    "num_sparse_decoder_layers": 1,
}  # fmt: skip


def gin(folder: Path, text: str) -> Path:
    path = folder / "operative_config.gin"
    path.write_text(text, encoding="utf-8")
    return path


# --- gin ---------------------------------------------------------------------------------------------------


def test_macros_that_double_thirty_times_are_refused(tmp_path: Path) -> None:
    lines = [f"m{i} = [%m{i + 1}, %m{i + 1}]" for i in range(30)]
    read = read_gin(gin(tmp_path, "\n".join([*lines, "m30 = 1", "A.x = %m0"])))
    with pytest.raises(ConfigError, match="too large"):
        read.get("", "A", "x")


def test_a_long_chain_of_macros_is_refused(tmp_path: Path) -> None:
    lines = [f"m{i} = %m{i + 1}" for i in range(3000)]
    read = read_gin(gin(tmp_path, "\n".join([*lines, "m3000 = 1", "A.x = %m0"])))
    with pytest.raises(ConfigError, match="nested too deeply"):
        read.get("", "A", "x")


def test_includes_that_double_thirty_times_are_refused(tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / f"i{i}.gin").write_text(f"include 'i{i + 1}.gin'\n" * 2)
    (tmp_path / "i30.gin").write_text("A.x = 1\n")
    with pytest.raises(ConfigError, match="more than 100 files"):
        read_gin(tmp_path / "i0.gin")


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "etc/passwd", "../secret.gin", "a/../../secret.gin", "C:\\x.gin", "{root}/secret.gin"],
)
def test_includes_do_not_lead_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.gin").write_text("A.x = 1\n")
    folder = tmp_path / "model"
    folder.mkdir()
    with pytest.raises(ConfigError, match="not followed"):
        read_gin(gin(folder, f"include {name.format(root=tmp_path)!r}\n"))


def test_a_number_that_python_does_not_print_is_refused(tmp_path: Path) -> None:
    path = gin(tmp_path, "make_layer_stack.num_layers = 0x" + "f" * 5000)
    with pytest.raises(ConfigError, match="20000 bits"):
        T5.read_config(path, demo_shapes())


def test_a_gin_file_that_is_far_too_long_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer than"):
        read_gin(gin(tmp_path, "a = 1\n" * (MAX_GIN_BYTES // 5)))


@pytest.mark.parametrize(
    "line",
    [
        "run.model_type = ['lm']",
        "SelfAttention.attention_kwargs = 3",
        "SelfAttention.attention_kwargs = {(1, 2): 3}",
        "make_layer_stack.num_layers = 1000000",
        "make_layer_stack.layers = [" + "@SelfAttention, " * 5000 + "]",
        "make_layer_stack.layers = [(@MoE1D, {'moe_gating': ['top_2']})]",
        "make_layer_stack.layers = [(@MoE1D, {'num_experts': 100000000})]",
        "make_layer_stack.layers = [(@TalkingHeadsSelfAttention, {'dynamic_projections': 3})]",
    ],
    ids=lambda line: line[:60],
)
def test_values_of_another_kind_are_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError):
        T5.read_config(gin(tmp_path, f"Unitransformer.d_model = 40\n{line}\n"), demo_shapes())


# --- JSON --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, '{"a": "\\ud800"}', "9" * 5000, "{", "\x00", ""]
)
def test_json_that_is_none_or_cannot_be_held_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_pairs_of_surrogates_are_read() -> None:
    assert parse_json('"\\ud83d\\ude00"') == "\N{GRINNING FACE}"


def test_a_config_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(8 << 30)
    with pytest.raises(ConfigError, match="longer than"):
        read_json_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 10**9}, "num_layers: expected at most"),
        ({"num_layers": 1000}, "far larger model"),
        ({"d_model": "40"}, "d_model: expected a positive integer"),
        ({"d_model": 10**9}, "d_model: expected at most"),
        ({"num_heads": 1 << 20, "d_kv": 1 << 20}, "num_heads"),
        ({"vocab_size": 1 << 40}, "vocab_size"),
        ({"vocab_size": None}, "vocab_size"),
        ({"feed_forward_proj": ["relu"]}, "feed_forward_proj"),
        ({**SWITCH, "num_experts": 1 << 15}, "far larger model"),
        ({**SWITCH, "num_experts": 1 << 30}, "num_experts"),
    ],
    ids=repr,
)
def test_absurd_configs_are_one_clear_error(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SOUND, **changes}))
    with pytest.raises(ConfigError, match=message):
        convert_checkpoint(DEMO, tmp_path / "out", config=tmp_path / "config.json", dry_run=True)


@pytest.mark.parametrize(
    "answer",
    [
        {"feed_forward_proj": []},
        {"num_heads": "4"},
        {"activations": [[]]},
        {"max_length": 1e400},
        {"num_heads": 2**70},
    ],
    ids=repr,
)
def test_answers_of_another_kind_are_refused(tmp_path: Path, answer: dict[str, Any]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(answer))
    with pytest.raises(ConfigError, match=next(iter(answer))):
        T5.read_config(tmp_path / "a.json", demo_shapes())


@pytest.mark.parametrize("relative", [True, False])
def test_null_is_no_answer(relative: bool) -> None:
    shapes = {n: s for n, s in demo_shapes().items() if relative or "relative_attention_bias" not in n}
    names = (
        "max_length num_heads d_kv positions feed_forward_proj activations relative_attention_max_distance"
    )
    nothing = dict.fromkeys([*names.split(), "moe_group_size", "second_threshold", "dynamic_projections"])
    assert infer_config(shapes, nothing) == infer_config(shapes)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": []},
        {"num_hidden_layers": 10**9},
        {"architectures": 3},
        {"architectures": [[]]},
        {"vocab_size": 1e9},
    ],
    ids=repr,
)
def test_absurd_configs_of_bert_are_refused(changes: dict[str, Any]) -> None:
    bert = installed_ports()["bert"]
    sound = bert.config_to_json(bert.infer_config(bert_shapes()).config)
    with pytest.raises(ConfigError, match=next(iter(changes))):
        bert.config_from_json({**sound, **changes})


# --- Variables ---------------------------------------------------------------------------------------------

BLOCK = "decoder/block_000/layer_000/SelfAttention"


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder/block_999999999/layer_000/SelfAttention/q": (40, 64)},
        {f"decoder/block_{'9' * 5000}/layer_000/SelfAttention/q": (40, 64)},
        {f"decoder/block_000/layer_{'8' * 5000}/SelfAttention/q": (40, 64)},
        {f"{BLOCK}/q": (40, 0)},
        {f"{BLOCK}/q": (40, 0, 16)},
        {f"{BLOCK}/relative_attention_bias": (0, 32)},
        {f"{BLOCK}/relative_attention_bias": ()},
        {f"{BLOCK}/q": (40, 64, 1 << 40)},
        # All the heads that are known are of no width, and those of other layers are counted by them.
        {f"{BLOCK}/q": (0, 0), "encoder/block_000/layer_000/SelfAttention/q": ()},
        {
            "decoder/block_000/layer_002/MoE1D/wi/kernel": (2, 40, 96),
            "decoder/block_000/layer_002/MoE1D/switch_gating/kernel": (),
        },
    ],
    ids=lambda changes: ", ".join(f"{name[:60]} {shape}" for name, shape in changes.items()),
)
def test_absurd_variables_are_refused(changes: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(PortingError):
        config = T5.infer_config({**demo_shapes(), **changes}).config
        # A layer more than there are names for is a name that no rule claims.
        from porting.mapping import make_plan

        make_plan(T5.rules(config, list(demo_shapes() | changes)), demo_shapes() | changes, {})


def test_bert_layers_beyond_counting_are_no_layers() -> None:
    bert = installed_ports()["bert"]
    name = f"bert/encoder/layer_{'9' * 5000}/intermediate/dense/kernel"
    assert bert.infer_config({**bert_shapes(), name: (64, 100)}).config.num_hidden_layers == 2


# --- Files -------------------------------------------------------------------------------------------------


def safetensors(path: Path, entries: dict[str, Any], nbytes: int) -> None:
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(nbytes))


@pytest.mark.parametrize("shape", [[1] * 70 + [4], [0, 1 << 62, 1 << 62], [0, 1 << 62]], ids=str)
def test_shapes_that_numpy_does_not_have_are_refused_when_listed(tmp_path: Path, shape: list[int]) -> None:
    size = 0 if 0 in shape else 16
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}
    safetensors(tmp_path / "model.safetensors", {"a": entry}, size)
    with pytest.raises(CheckpointError, match=r"a of shape|model\.safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name", ["x" * 300, "../model.safetensors", "a\0b", "..", 5, "x" * 300 + "\ud800"], ids=ascii
)
def test_an_index_names_files_beside_it(tmp_path: Path, name: Any) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path)
    with pytest.raises(InputError):
        weight_files(tmp_path)


def test_a_checkpoint_file_of_no_encoding_gives_an_error_that_can_be_printed(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b'model_checkpoint_path: "\xc1\x1b[2J"\n')
    with pytest.raises(CheckpointError) as caught:
        find_prefix(tmp_path)
    assert r"\udcc1\x1b[2J" in str(caught.value)
    str(caught.value).encode("utf-8")


def test_names_do_not_steer_a_terminal_and_a_book_of_problems_is_cut() -> None:
    problems = [Problem(f"a\x1b]0;title\x07\x9b{i}", "b", "c\td") for i in range(2000)]
    text = str(PortingError("Message.", problems=problems, remedy="Do."))
    assert "\x1b" not in text and "\x07" not in text and "\x9b" not in text and "c\td" in text
    assert "... and 1500 more" in text and text.endswith("Do.")


@pytest.mark.parametrize("content", ["npz", "text", "zip", "deep"])
def test_broken_arrays_of_a_trace_are_named(tmp_path: Path, content: str) -> None:
    archive = io.BytesIO()
    np.savez(archive, a=np.arange(3))
    header = b"{'descr': (" + b"(" * 900
    values = {
        "npz": archive.getvalue(),
        "text": b"\x93NUMPY\x01\x00\x76\x00" + b"{'descr': (\n".ljust(0x76),
        "zip": b"PK\x03\x04 not a zip file",
        "deep": b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header,
    }[content]
    (tmp_path / "x.npy").write_bytes(values)
    index = {"schema_version": 1, "inputs": {"inputs": "x.npy"}, "tensors": []}
    (tmp_path / "trace.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"x\.npy"):
        read_trace(tmp_path)
    (tmp_path / "trace.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"trace\.json"):
        read_trace(tmp_path)


def test_a_model_directory_nested_too_deeply_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="not a model directory"):
        load_model(tmp_path)


# --- Memory ------------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from pathlib import Path
import torch
from porting.convert import convert_checkpoint
from porting.errors import PortingError

now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (512 << 20),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
source, *configs = sys.argv[1:]
for config in configs:
    try:
        convert_checkpoint(source, Path(config).parent / "out", config=config, dry_run=True)
    except PortingError as error:
        print(len(str(error)))
"""


def test_absurd_configs_take_no_memory(tmp_path: Path) -> None:
    paths = []
    contents = [
        {**SOUND, "num_layers": 1300, "num_decoder_layers": 1300},
        {**SOUND, "num_layers": 10**9},
        {**SWITCH, "num_experts": 60_000},
        {**SOUND, "d_model": 1 << 24, "d_ff": 1 << 24, "vocab_size": 1 << 24},
        {"model_type": "mesh_t5", "vocab_size": 128, "d_model": 40, "decoder": {
            "num_blocks": 4096, "autoregressive": True,
            "layers": [{"kind": "MoE1D", "num_experts": 1 << 24, "d_ff": 1 << 24}],
        }},
    ]  # fmt: skip
    for i, content in enumerate(contents):
        paths.append(tmp_path / f"config-{i}.json")
        paths[-1].write_text(json.dumps(content))
    paths.append(gin(tmp_path, "make_layer_stack.num_layers = 1300\n" + "a = [%b, %b]\nb = [%a]\n" * 2000))
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(DEMO), *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.split()) == len(paths), run.stdout
    assert max(map(int, run.stdout.split())) < 100_000
