"""Ports are found through entry points; one that is broken is left out, named, and breaks no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from porting import port as discovery
from porting.cli import convert_checkpoint_command
from porting.errors import ConfigError
from porting.port import installed_ports, port_for_model_type, port_for_variables, port_named, unusable_ports
from tests.conftest import REPOSITORY

MODULES = {
    "broken_port": "def (\n",
    "exiting_port": "import sys\nsys.exit('no framework here')\n",
    "other_thing": "PORT = 'text'\n",
    "unsure_port": "from dataclasses import replace\n"
    "from porting.ports.t5 import PORT as T5\n"
    "from porting.scaffold import UnfinishedError\n"
    "def recognises(shapes):\n    raise UnfinishedError('say what tells it apart')\n"
    "PORT = replace(T5, name='unsure', recognises=recognises, model_types=('unsure',))\n",
}
ENTRIES = {
    "a_broken": "broken_port:PORT",
    "a_exiting": "exiting_port:PORT",
    "a_missing": "no_such_module:PORT",
    "a_other": "other_thing:PORT",
    "a_unsure": "unsure_port:PORT",
}


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Five ports that cannot be used are installed, and asked before T5."""
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
    info = tmp_path / "others-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1\n")
    lines = "\n".join(f"{name} = {value}" for name, value in ENTRIES.items())
    (info / "entry_points.txt").write_text(f"[porting.ports]\n{lines}\n")
    monkeypatch.syspath_prepend(tmp_path)
    discovery._load_ports.cache_clear()
    discovery._failed_to_recognise.clear()
    yield
    discovery._load_ports.cache_clear()
    discovery._failed_to_recognise.clear()


pytestmark = pytest.mark.usefixtures("others")
T5_VARIABLES = {"shared/embedding": (8, 4), "encoder/block_000/layer_000/SelfAttention/q": (4, 4)}


def test_t5_is_found_and_works_beside_broken_ports() -> None:
    assert port_for_variables(T5_VARIABLES).name == "t5"
    assert port_for_model_type("t5").name == "t5"
    assert {name for name in installed_ports() if name.startswith("a_")} == {"a_unsure"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a_broken", "SyntaxError"),
        ("a_exiting", "no framework here"),
        ("a_missing", "no_such_module"),
        ("a_other", "is not a Port, but a str"),
    ],
)
def test_a_broken_port_says_why_when_it_is_asked_for(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' cannot be used: .*{why}"):
        port_named(name)


def test_a_port_that_raises_while_it_is_loaded_says_where() -> None:
    with pytest.raises(ConfigError, match=r"no framework here \(.*exiting_port\.py:\d+\)"):
        port_named("a_exiting")


def test_a_port_that_cannot_say_what_it_recognises_is_left_out_and_named() -> None:
    port_for_variables(T5_VARIABLES)
    assert "say what tells it apart" in unusable_ports()["a_unsure"]
    assert port_named("a_unsure").name == "unsure", "asked for by name it is there"


@pytest.mark.parametrize(
    "ask",
    [lambda: port_for_variables({"x": (1,)}), lambda: port_named("x"), lambda: port_for_model_type("x")],
)
def test_where_none_is_found_the_message_names_those_left_out(ask: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=r"left out, because they cannot be used: a_broken, .*a_other"):
        ask()


def test_a_command_hints_at_ports_that_were_left_out(tmp_path: Path) -> None:
    from click.testing import CliRunner

    arguments = [str(REPOSITORY / "demo" / "checkpoint"), str(tmp_path / "model"), "--dry-run"]
    result = CliRunner().invoke(convert_checkpoint_command, arguments)
    assert result.exit_code == 0, result.output
    assert "The port a_broken was left out: broken_port:PORT cannot be loaded: SyntaxError" in result.stderr
    assert "left out" not in result.stdout.replace("Left out", "")
    quiet = CliRunner().invoke(convert_checkpoint_command, [*arguments, "--format", "json"])
    assert "a_broken" not in quiet.output
