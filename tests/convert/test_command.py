"""What `convert-checkpoint` says and does, as it is called: there, back, again, and checked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from porting.checkpoint import open_checkpoint
from porting.cli import convert_checkpoint_command
from porting.convert.unfinished import MARKER

DEMO = Path(__file__).parents[2] / "demo" / "checkpoint"
Convert = Callable[..., Result]


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Convert:
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(convert_checkpoint_command, [str(a) for a in arguments])


def test_a_config_that_was_given_is_given_to_the_comparison(convert: Convert, tmp_path: Path) -> None:
    shutil.copytree(DEMO, tmp_path / "source", ignore=shutil.ignore_patterns("*.gin"))
    shutil.copy(DEMO / "operative_config.gin", tmp_path / "mine.gin")
    done = convert("source", "model", "--config", "mine.gin")
    assert done.stdout.splitlines()[-1] == "Prove it: compare-outputs source model --config mine.gin"


def test_there_and_back_and_there_again(convert: Convert, tmp_path: Path) -> None:
    there = convert(DEMO, "model")
    assert there.exit_code == 0, there.stderr
    assert "Wrote 66 tensors, 602.5 kB, read back and compared with the source, to model" in there.stdout
    assert "Prove it: compare-outputs" in there.stdout
    back = convert("model", "mesh", "--to", "mesh")
    assert back.exit_code == 0, back.stderr
    assert "called as in the checkpoint that the model was made from" in back.stdout
    assert "Prove it: compare-outputs mesh model" in back.stdout
    assert sorted(path.name for path in Path("mesh").iterdir()) == [
        "checkpoint",
        "model.ckpt-1500.data-00000-of-00001",
        "model.ckpt-1500.index",
        "operative_config.gin",
        "porting.json",
    ]
    assert Path("mesh/operative_config.gin").read_text() == (DEMO / "operative_config.gin").read_text()
    first, again = open_checkpoint(DEMO).tensors, open_checkpoint("mesh").tensors
    assert again.keys() == {name for name in first if "_slot_" not in name}
    for name, tensor in again.items():
        assert tensor.read().tobytes() == first[name].read().tobytes()
    assert convert("mesh", "model2").exit_code == 0
    assert Path("model2/model.safetensors").read_bytes() == Path("model/model.safetensors").read_bytes()
    for made in ("model", "mesh", "model2"):
        assert convert("--check", made).exit_code == 0
    assert not list(tmp_path.glob("*.unfinished"))


def test_json_says_how_it_was_done(convert: Convert) -> None:
    content = json.loads(convert(DEMO, "model", "--format", "json", "--no-verify").stdout)
    assert (content["to"], content["begun"], content["kept"]) == ("pytorch", "fresh", 0)
    assert content["verified"] is False
    assert content["bytes_read"] == content["bytes"] == 602_464
    assert content["bytes_ignored"]["global step"] == 8
    assert content["tokenizer"] == {"files": [], "notes": [], "texts_compared": 0}
    assert 0 < content["seconds"] < 600
    assert json.loads(Path("model/porting.json").read_text())["verified"] is False
    assert "no (--no-verify)" in convert("--check", "model").stdout


def test_a_directory_that_was_changed_is_not_intact(convert: Convert) -> None:
    convert(DEMO, "model")
    intact = json.loads(convert("--check", "model", "--format", "json").stdout)
    assert intact["status"] == "intact"
    assert intact["files"] == ["model.safetensors", "config.json", "generation_config.json"]
    weights = Path("model/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = convert("--check", "model")
    assert changed.exit_code == 2
    assert "lm_head.weight in model.safetensors: expected CRC32C" in changed.stderr
    assert convert("--check", DEMO).exit_code == 2


def test_the_next_run_says_that_it_went_on_or_began_again(convert: Convert, tmp_path: Path) -> None:
    convert(DEMO, "whole")
    for damage, begun, said in (
        (b"", "continued", "Went on with an unfinished conversion: 65 of 66 tensors were in their place"),
        (b"more", "restarted", "Began again: what lay unfinished there was another conversion"),
    ):
        for style in ("human", "json"):
            left = tmp_path / "model.unfinished"
            shutil.copytree("whole", left)
            (left / MARKER).touch()
            content = bytearray((left / "model.safetensors").read_bytes())
            content[-100:] = bytes(100)
            (left / "model.safetensors").write_bytes(bytes(content) + damage)
            done = convert(DEMO, "model", "--format", style)
            assert done.exit_code == 0, done.stderr
            if style == "human":
                assert said in done.stdout
            else:
                assert json.loads(done.stdout)["begun"] == begun
            weights = Path("model/model.safetensors").read_bytes()
            assert weights == Path("whole/model.safetensors").read_bytes()
            shutil.rmtree("model")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing argument 'SOURCE'"),
        (("model",), "Missing argument 'OUTPUT_DIR'"),
        (("--check", "model", "more"), "--check takes the directory"),
        ((DEMO, "out", "--to", "mesh"), "is a checkpoint of the original already"),
        ((DEMO, "out", "--to", "onnx"), "Known: mesh"),
        (("model", "out", "--to", "onnx"), "Known: mesh"),
        (("--check", "nowhere"), "holds no porting.json"),
    ],
)
def test_wrong_usage_exits_2_and_writes_nothing(
    convert: Convert, arguments: tuple[Any, ...], said: str
) -> None:
    convert(DEMO, "model")
    result = convert(*arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not Path("out").exists()


def test_a_config_that_was_edited_is_written_for_mesh_as_it_is_now(convert: Convert) -> None:
    convert(DEMO, "model")
    path = Path("model/config.json")
    path.write_text(path.read_text().replace('"dropout_rate": 0.0', '"dropout_rate": 0.25'))
    assert '"dropout_rate": 0.25' in path.read_text()
    assert convert("model", "mesh", "--to", "mesh").exit_code == 0
    text = Path("mesh/operative_config.gin").read_text()
    assert text != (DEMO / "operative_config.gin").read_text()
    assert "0.25" in text


def test_a_manifest_that_fits_no_more_is_said(convert: Convert) -> None:
    convert(DEMO, "model")
    path = Path("model/porting.json")
    manifest = json.loads(path.read_text())
    manifest["original"]["variables"]["decoder/novel/kernel"] = [3, 4]
    path.write_text(json.dumps(manifest))
    refused = convert("model", "mesh", "--to", "mesh")
    assert refused.exit_code == 2
    assert "decoder/novel/kernel" in refused.stderr
    assert "remove porting.json" in " ".join(refused.stderr.split())
    path.unlink()
    assert convert("model", "mesh", "--to", "mesh").exit_code == 0


@pytest.mark.parametrize("step", [1 << 70, -1, 1e400, float("nan"), 1.5, True, "1", None, [1]])
def test_a_step_or_a_size_that_is_none_is_said(convert: Convert, step: object) -> None:
    convert(DEMO, "model")
    path = Path("model/porting.json")
    for place in (("more", "global_step", step), ("variables", "shared/embedding", [step, 3])):
        manifest = json.loads(path.read_text())
        manifest["original"][place[0]][place[1]] = place[2]
        path.write_text(json.dumps(manifest))
        refused = convert("model", "mesh", "--to", "mesh")
        assert refused.exit_code == 2
        assert "porting.json is damaged" in refused.stderr


@pytest.mark.parametrize("equal", [True, False])
def test_a_pytorch_file_with_tables_kept_twice(convert: Convert, equal: bool) -> None:
    """Old files have the tied table under four names; one that differs is no copy, and is never dropped."""
    convert(DEMO, "model")
    state = {
        name: torch.from_numpy(np.array(t.read())) for name, t in open_checkpoint("model").tensors.items()
    }
    config = json.loads(Path("model/config.json").read_text())
    config["tie_word_embeddings"] = True
    del state["lm_head.weight"]
    for name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"):
        state[name] = state["shared.weight"].clone()
    if not equal:
        state["lm_head.weight"][3, 4] += 1e-3
    Path("old").mkdir()
    Path("old/config.json").write_text(json.dumps(config))
    torch.save(state, "old/pytorch_model.bin")
    done = convert("old", "new")
    if equal:
        assert done.exit_code == 0, done.stderr
        assert open_checkpoint("new").tensors.keys() == state.keys() - {
            "encoder.embed_tokens.weight",
            "decoder.embed_tokens.weight",
            "lm_head.weight",
        }
        assert len(json.loads(Path("new/porting.json").read_text())["copies"]) == 3
    else:
        assert done.exit_code == 2
        assert "lm_head.weight: expected the values of shared.weight" in done.stderr
        assert not Path("new").exists()
