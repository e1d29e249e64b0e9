"""What new-port writes, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from porting.cli import new_port_command
from porting.errors import InputError, OutputError
from porting.scaffold import write
from porting.scaffold.steps import STEPS
from porting.scaffold.write import new_in_tree, new_package
from tests.conftest import REPOSITORY


def run(*arguments: str) -> Result:
    return CliRunner().invoke(new_port_command, list(arguments))


def text_of(folder: Path) -> str:
    return "\n".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_a_package_of_its_own_is_complete(tmp_path: Path) -> None:
    result = run("gpt2", "--to", str(tmp_path / "gpt2"), "--format", "json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["status"] == "written" and content["package"] == "porting_gpt2"
    written = {path.relative_to(tmp_path / "gpt2") for path in map(Path, content["files"])}
    assert written == {p.relative_to(tmp_path / "gpt2") for p in tmp_path.rglob("*") if p.is_file()}
    port = {"config", "rules", "model", "taps", "reference", "decoding", "tokenizer", "port", "__init__"}
    assert {path.stem for path in written if path.parent.name == "porting_gpt2"} == port
    project = tomllib.loads((tmp_path / "gpt2" / "pyproject.toml").read_text())
    entry = project["project"]["entry-points"]["porting.ports"]
    assert entry == {"gpt2": "porting_gpt2.port:PORT"}


def test_no_placeholder_is_left_and_every_step_is_in_the_readme(tmp_path: Path) -> None:
    new_package("gpt2", tmp_path / "gpt2")
    assert not re.search("PORT_[A-Z]", text_of(tmp_path / "gpt2"))
    readme = (tmp_path / "gpt2" / "README.md").read_text()
    listed = [
        line.split("|")[1].split()
        for line in readme.splitlines()
        if line.startswith("| 1") or line[2:3].isdigit()
    ]
    assert [entry[1] for entry in listed] == list(STEPS)


def test_what_is_written_is_formatted_as_this_project_is(tmp_path: Path) -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed (see pyproject.toml, dev)")
    new_package("gpt2", tmp_path / "gpt2")
    for arguments in (("check", "--ignore", "ARG,D1,I001"), ("format", "--check")):
        result = subprocess.run(
            [str(ruff), *arguments, "--config", str(REPOSITORY / "pyproject.toml"), str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """As much of this repository as a new port needs."""
    (tmp_path / "porting" / "ports" / "t5").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text())
    return tmp_path


def test_into_this_tree_with_its_entry_point(tree: Path) -> None:
    result = run("gpt2", "--in-tree", "--to", str(tree))
    assert result.exit_code == 0, result.output
    home, tests = tree / "porting" / "ports" / "gpt2", tree / "tests" / "ports" / "gpt2"
    assert (home / "MODEL_CARD.md").is_file() and (home / "port.py").is_file()
    assert {path.name for path in tests.iterdir()} == {"__init__.py", "make_checkpoint.py", "test_steps.py"}
    before = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    after = tomllib.loads((tree / "pyproject.toml").read_text())
    added = after["project"]["entry-points"]["porting.ports"].pop("gpt2")
    assert added == "porting.ports.gpt2.port:PORT" and after == before
    settings = tomllib.loads((home / "port.toml").read_text())
    assert (home / settings["tests"]).resolve() == tests and (home / settings["model_card"]).is_file()


def test_in_tree_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not the repository of porting"):
        new_in_tree("gpt2", tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["GPT2", "gpt-2", "2gpt", "class", "", "a.b", "../x"])
def test_a_name_that_cannot_be_used_is_refused(name: str, tmp_path: Path) -> None:
    result = run(name, "--to", str(tmp_path / "new"))
    assert result.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    result = run("t5", "--to", str(tmp_path / "new"))
    assert result.exit_code == 2
    assert "There is a port named t5 already" in result.stderr


def test_a_module_of_that_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "porting_gpt2.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="a module named porting_gpt2"):
        new_package("gpt2", tmp_path / "new")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "mine.txt").write_text("mine")
    result = run("gpt2", "--to", str(tmp_path / "gpt2"))
    assert result.exit_code == 2 and "Nothing is overwritten" in result.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["gpt2", "mine.txt"]


def test_a_failure_half_way_leaves_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (tree / "pyproject.toml").read_text()
    written = Path.write_text

    def fails(self: Path, *arguments: str, **options: str) -> int:
        if self.name == "test_steps.py":
            raise OSError("no space left")
        return written(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(OutputError, match="no space left"):
        new_in_tree("gpt2", tree)
    assert not list(tree.rglob("*gpt2*")) and (tree / "pyproject.toml").read_text() == before


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    assert run("--status", "t5", "--to", str(tmp_path)).exit_code == 2
    assert run("gpt2", "--cache", str(tmp_path)).exit_code == 2
    assert run("--status", "gpt2").exit_code == 2


def test_a_missing_template_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "__file__", str(tmp_path / "porting" / "scaffold" / "write.py"))
    with pytest.raises(OutputError, match="Install porting again"):
        new_package("gpt2", tmp_path / "gpt2")


def test_a_built_wheel_brings_the_template_along(tmp_path: Path) -> None:
    """Built from a copy, so that nothing is left in the repository."""
    source = tmp_path / "source"
    for name in ("porting", "templates"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    build = (
        "from setuptools import build_meta; import sys;"
        " print(build_meta.build_wheel(sys.argv[1]), build_meta.build_sdist(sys.argv[1]))"
    )
    result = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    wheel = next(tmp_path.glob("*.whl"))
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    kept = {p.relative_to(REPOSITORY) for p in (REPOSITORY / "templates").rglob("*") if p.is_file()}
    kept = {path for path in kept if "__pycache__" not in path.parts}
    assert {path for path in kept if (unpacked / "porting" / path).is_file()} == kept
    code = (
        "import porting; from pathlib import Path; from porting.scaffold.write import new_package;"
        " assert 'unpacked' in porting.__file__, porting.__file__; new_package('gpt2', Path('made'))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "made" / "porting_gpt2" / "port.toml").is_file()
