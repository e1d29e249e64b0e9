"""docs/from-t5x.md: every command runs as it stands there, and does what is said of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from porting import convert_checkpoint
from porting.checkpoint import open_checkpoint
from tests.conftest import REPOSITORY, SHARED_DATA

pytest.importorskip("tensorstore", reason="not installed: tensorstore (the extra t5x)")
TEXT = (REPOSITORY / "docs" / "from-t5x.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]
# In the place of Google's: what it would fetch lies in $STORE.
GSUTIL = """#!/bin/sh
mkdir -p "$5" && cp -r "$STORE/$(basename "$4")" "$5"
"""


class Reader:
    """A person with a shell, who does what the page says."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.store = folder / "work", folder / "bin", folder / "store"
        for made in (self.folder, self.bin, self.store):
            made.mkdir()
        scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
        for name, target in scripts.items():
            module, function = target.split(":")
            self._script(name, f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
        self._script("gsutil", GSUTIL)

    def _script(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def run(self, command: str) -> str:
        environment = {
            **os.environ,
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "STORE": str(self.store),
        }
        shell = ["sh", "-c", command]
        ran = subprocess.run(
            shell, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
        return ran.stdout + ran.stderr


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path)


def in_store(reader: Reader, folder: Path) -> None:
    """A checkpoint of ours where the public one would be."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "d_model": 12, "d_kv": 5, "d_ff": 20, "num_layers": 3, "num_heads": 3}
    settings = {"tie_word_embeddings": False, "feed_forward_proj": "gated-gelu"}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, **settings))
    model.save_pretrained(folder / "saved")
    convert_checkpoint(folder / "saved", folder / "t5x", to="t5x")
    shutil.copytree(folder / "t5x" / "checkpoint_0", reader.store / "checkpoint_1000000")


def is_run_here(command: str) -> bool:
    return not command.startswith(("pip install", "compare-outputs"))


def test_the_extra_that_it_names_is_there() -> None:
    (install,) = [command for command in COMMANDS if command.startswith("pip install")]
    extra = re.findall(r"\[(.+)\]", install)[0]
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {re.split(r"[<>=]", wanted)[0] for wanted in extras[extra]} == {"tensorstore", "msgpack"}


def test_every_command_runs_one_after_the_other(reader: Reader, tmp_path: Path) -> None:
    in_store(reader, tmp_path)
    said = {command: reader.run(command) for command in COMMANDS if is_run_here(command)}
    assert len(said) == 10
    work = reader.folder
    (dry,) = [text for command, text in said.items() if "--dry-run" in command]
    (row,) = re.findall(r"8  (target\S+) +512x384", TEXT)
    assert row.replace("{0..7}", "{0..2}") in dry
    plain = said["convert-checkpoint t5_1_1_small/ converted/t5_1_1_small"]
    assert '{"encoder_attention_type": "local", "local_radius": 127}' in plain
    silu = (work / "converted" / "with-silu" / "config.json").read_text()
    assert '"gated-silu"' in silu
    assert transformers.T5ForConditionalGeneration.from_pretrained(work / "converted" / "t5_1_1_small")
    first, back = open_checkpoint(work / "t5_1_1_small"), open_checkpoint(work / "back" / "t5x")
    assert {*first.tensors} == {*back.tensors}
    for name, tensor in first.tensors.items():
        np.testing.assert_array_equal(tensor.read(), back.tensors[name].read())
    for folder in ("scanned", "mesh"):
        convert_checkpoint(work / "back" / folder, tmp_path / folder)
        again = load_file(tmp_path / folder / "model.safetensors")
        known = load_file(work / "converted" / "t5_1_1_small" / "model.safetensors")
        assert {*known} <= {*again}
        assert all(np.array_equal(again[name], value) for name, value in known.items())


def test_the_comparison_runs_on_a_recorded_run(reader: Reader) -> None:
    original = SHARED_DATA / "t5x" / "v1_1"
    if not original.is_dir():
        pytest.skip("the recorded run t5x/v1_1 is not beside this repository")
    shutil.copytree(original, reader.folder / "t5_1_1_small")
    reader.run("convert-checkpoint t5_1_1_small/ converted/t5_1_1_small")
    (compare,) = [command for command in COMMANDS if command.startswith("compare-outputs")]
    assert "MATCH" in reader.run(compare)


def test_the_files_that_it_links_to_are_there() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", TEXT):
        assert (REPOSITORY / "docs" / target).exists(), target
