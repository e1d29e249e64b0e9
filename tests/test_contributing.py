"""Every command of CONTRIBUTING.md runs, as it stands there, on the port that is its example.

In an environment of its own, where pip makes the port known. The original is TensorFlow 1 code, and runs:
without TensorFlow these tests are skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.scaffold.filling import FIRST, KNOWN, staged

TEXT = (REPOSITORY / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
# What the newcomer has written by then, for the second block.
MODULE = """
from porting_tiny.config import Config
from porting_tiny.model import Model


def build():
    return Model(Config(37, 32, 12, 3, 5, 2))
"""


@dataclass(frozen=True)
class Ran:
    """One command: how it ended, and what it said on both streams."""

    command: str
    code: int
    said: str


class Newcomer:
    """A directory to work in, and a fresh environment that has this project and what it needs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder / "work", folder / "venv" / "bin"
        self.folder.mkdir()
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        here = sysconfig.get_paths(vars={"base": str(folder / "venv")})["purelib"]
        (Path(here) / "around.pth").write_text(f"{REPOSITORY}\n{sysconfig.get_path('purelib')}\n")
        scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
        for name, target in scripts.items():
            self._script(name, *target.split(":"))
        self._script("pytest", "pytest", "main")
        self.environment = {
            **os.environ,
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            # The original's own code, which a newcomer has installed.
            "PYTHONPATH": str(KNOWN / "original"),
            # From what is here: the network is not what is tested.
            **{"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"},
        }

    def _script(self, name: str, module: str, function: str) -> None:
        text = f"#!{self.bin / 'python'}\nfrom {module} import {function}\nraise SystemExit({function}())\n"
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def fill_in(self) -> None:
        """All that the steps ask for."""
        for name in FIRST:
            target = self.folder / "tiny" / name.replace("package/", "porting_tiny/")
            target.write_text(staged((KNOWN / name).read_text(), "", len(FIRST) + 100))
        (self.folder / "tiny" / "tests" / "module.py").write_text(MODULE)

    def run(self, block: str) -> list[Ran]:
        """Each command of a block, in one shell."""
        lines = [line for line in block.splitlines() if line.strip()]
        script = "\n".join(f'{line}\ncode=$?; echo; echo "<<<$code>>>"' for line in lines)
        done = subprocess.run(
            ["bash", "-c", f"exec 2>&1\n{script}"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        parts = re.split(r"\n<<<(\d+)>>>\n", done.stdout)
        return [Ran(line, int(parts[2 * i + 1]), parts[2 * i]) for i, line in enumerate(lines)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> list[list[Ran]]:
    """Every block, in the order of the page, with what its reader does between them."""
    if not find_spec("tensorflow"):
        pytest.skip("the original is TensorFlow code")
    newcomer = Newcomer(tmp_path_factory.mktemp("newcomer"))
    blocks = [newcomer.run(BLOCKS[0])]
    newcomer.fill_in()
    given = next(line for line in BLOCKS[2].splitlines() if line.startswith("CHECKPOINT="))
    blocks.append(newcomer.run(f"{given}\n{BLOCKS[1]}")[1:])
    blocks.append(newcomer.run(BLOCKS[2]))
    blocks.append(newcomer.run(f"{given}\n{BLOCKS[3]}")[1:])
    return blocks


def test_the_page_has_the_blocks_that_are_run() -> None:
    assert len(BLOCKS) == 4


@pytest.mark.parametrize("number", range(4))
def test_every_command_ends_as_the_page_says(ran: list[list[Ran]], number: int) -> None:
    for command in ran[number]:
        assert command.code == ("# fails" in command.command), f"{command.command}\n{command.said}"


def test_the_first_run_says_what_to_do(ran: list[list[Ran]]) -> None:
    tests, status = ran[0][2], ran[0][3]
    assert "Step 1 of 13, checkpoint" in tests.said and "Where: " in tests.said
    assert "make_checkpoint.py" in status.said


def test_the_commands_say_what_the_page_promises(ran: list[list[Ran]]) -> None:
    assert "suggested_rules.py" in ran[1][0].said
    dry, _, compared, again, changes = ran[2][1:]
    assert "Would write" in dry.said
    assert "MATCH" in compared.said and "MATCH" in again.said and ".html" in again.said
    assert "worse" in changes.said
    assert all("MATCH" in command.said for command in ran[3][-2:])


def test_what_make_is_asked_for_is_there() -> None:
    targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    asked = set(re.findall(r"`make ([\w-]+)`", TEXT))
    assert asked and asked <= set(targets)
