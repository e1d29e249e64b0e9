from __future__ import annotations

from pathlib import Path

import pytest

from porting.testing.sources import code_digest, source_files

FILES = {
    "ported_thing/__init__.py": "from ported_thing.port import PORT\n",
    "ported_thing/port.py": "def build():\n    from ported_thing.model import Model\n",
    "ported_thing/model.py": "import torch\n",
    "ported_thing/config.py": "WIDTH = 3\n",
    "ported_thing/deep/__init__.py": "",
    "ported_thing/deep/taps.py": "from .. import config\nimport numpy\n",
    "ported_thing/reference.py": "from typing import TYPE_CHECKING\n"
    "from .deep import taps\n"
    "from porting.trace import TraceWriter\n"
    "if TYPE_CHECKING:\n    from ported_thing.model import Model\n"
    "def run(request):\n    import original_thing\n",
    "original_thing.py": "def forward(): ...\n",
}


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_imports_are_followed_into_the_port_into_porting_and_into_plain_directories(code: Path) -> None:
    found = source_files("ported_thing.reference")
    ours = {name for name, path in found.items() if path.is_relative_to(code)}
    assert ours == {
        "ported_thing.reference",
        "ported_thing.deep.taps",
        "ported_thing.config",
        "original_thing",
    }
    assert {"porting.trace", "porting.inputs", "porting.errors"} <= set(found)
    assert not {"numpy", "json", "typing"} & set(found)


def edited(code: Path, name: str) -> bool:
    """Whether an edit of the file is another digest."""
    before = code_digest("ported_thing.reference")
    (code / name).write_text(FILES[name] + "# edited\n")
    return before != code_digest("ported_thing.reference")


@pytest.mark.parametrize("name", ["reference.py", "deep/taps.py", "config.py"])
def test_an_edit_of_what_the_original_runs_through_counts(code: Path, name: str) -> None:
    assert edited(code, f"ported_thing/{name}")


def test_an_edit_of_the_original_in_a_plain_directory_counts(code: Path) -> None:
    assert edited(code, "original_thing.py")


@pytest.mark.parametrize("name", ["model.py", "port.py", "__init__.py"])
def test_an_edit_of_the_port_alone_does_not(code: Path, name: str) -> None:
    assert not edited(code, f"ported_thing/{name}")


def test_a_file_with_a_syntax_error_counts_as_it_is(code: Path) -> None:
    (code / "ported_thing/config.py").write_text("def (\n")
    assert "ported_thing.config" in source_files("ported_thing.reference")
