"""A port begun with new-port, filled in one step at a time from `known_model/`, its tests run each time.

The files there are finished. Comments in them say from which step on a part is there:

    # step 6: unfinished before    until then what the template raises in that function stands there
    # step 9: absent before        until then nothing does
    # done                         ends such a part, as the next such comment does
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from porting.scaffold.write import new_package
from tests.conftest import REPOSITORY

KNOWN = Path(__file__).parent / "known_model"
# The step at which a file is first taken from the known model; until then it is the template's.
FIRST = {
    "tests/make_checkpoint.py": 1,
    "package/rules.py": 1,
    "package/config.py": 2,
    "package/model.py": 4,
    "package/taps.py": 5,
    "package/reference.py": 5,
    "package/port.py": 5,
    "package/port.toml": 5,
    "package/decoding.py": 11,
    "package/tokenizer.py": 12,
    "MODEL_CARD.md": 13,
}
_MARK = re.compile(r"\s*# (?:step (?P<step>\d+): (?P<how>unfinished|absent) before|done)$")


# A run of pytest must not see what an earlier one imported of the port, and none has to load PyTorch again.
_SERVER = """
import json, os, sys
import pytest, torch
import porting.analysis.explain, porting.capture, porting.scaffold.steps, porting.workbench
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        output = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1), os.dup2(output, 2)
        os._exit(pytest.main(["-q", *json.loads(line)]))
    os.waitpid(child, 0)
    print("done", flush=True)
"""


@dataclass(frozen=True)
class Outcome:
    """Of one step's test: "passed", "failed" or "skipped", and what it said."""

    result: str
    message: str


class Filling:
    """A port named `tiny` in a directory of its own, known to Python as an installed one is."""

    def __init__(self, folder: Path) -> None:
        self.port = new_package("tiny", folder / "tiny")
        self.directory = self.port.directory
        places = (REPOSITORY, self.directory, KNOWN / "original")
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, places)),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._server: subprocess.Popen[str] | None = None
        self.templates = {name: self.target(name).read_text() for name in FIRST if self.target(name).exists()}
        # What pip install --editable makes of pyproject.toml, without an environment to change.
        self.run("-c", "from setuptools import setup; setup()", "-q", "egg_info")

    def target(self, name: str) -> Path:
        return self.directory / name.replace("package/", "porting_tiny/")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def _pytest(self, *arguments: str) -> None:
        """Run pytest in a process of its own, forked from one that has loaded what is heavy already."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-c", _SERVER],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._server.stdin and self._server.stdout
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        self._server.stdout.readline()

    def close(self) -> None:
        """End the process that the runs are forked from."""
        if self._server is not None:
            self._server.communicate()

    def fill(self, step: int) -> None:
        """Everything that is written once this step is done."""
        for name, first in FIRST.items():
            if first <= step:
                text = staged((KNOWN / name).read_text(), self.templates[name], step)
                self.target(name).write_text(text)

    def outcomes(self) -> dict[str, Outcome]:
        """Of the port's tests, by step."""
        found = self.directory / "found.xml"
        self._pytest(f"--junitxml={found}")
        assert found.exists(), (self.directory / "output.txt").read_text()
        outcomes = {}
        for case in ElementTree.parse(found).getroot().iter("testcase"):
            step = case.attrib["name"].removeprefix("test_step[").removesuffix("]")
            told = next((child for child in case if child.tag in ("failure", "skipped", "error")), None)
            if told is None:
                outcomes[step] = Outcome("passed", "")
            else:
                kind = "skipped" if told.tag == "skipped" else "failed"
                outcomes[step] = Outcome(kind, told.attrib.get("message", "") + (told.text or ""))
        found.unlink()
        return outcomes


def staged(text: str, template: str, step: int) -> str:
    """A finished file as it is after a step: parts of later steps are absent, or raise as in the template."""
    lines: list[str] = []
    raising, skipping = False, False
    for number, line in enumerate(text.splitlines(), 1):
        mark = _MARK.match(line)
        if mark is None:
            lines += [] if skipping else [line]
            continue
        later = mark["step"] is not None and int(mark["step"]) > step
        if later and mark["how"] == "unfinished" and not skipping:
            raising = True
            indent = line[: len(line) - len(line.lstrip())]
            lines += textwrap.indent(_raise_of(template, _function_at(text, number)), indent).splitlines()
        skipping = later or (raising and mark["step"] is not None)
        raising = raising and skipping
    result = "\n".join(lines) + "\n"
    if "raise UnfinishedError" in result and "import UnfinishedError" not in result:
        result = result.replace(
            "from .config import", "from porting.scaffold import UnfinishedError\n\nfrom .config import"
        )
    return result


def _function_at(text: str, line: int) -> str:
    return next(
        node.name
        for node in reversed(list(ast.walk(ast.parse(text))))
        if isinstance(node, ast.FunctionDef) and node.lineno <= line <= (node.end_lineno or 0) + 1
    )


def _raise_of(template: str, function: str) -> str:
    nodes = [
        node
        for node in ast.walk(ast.parse(template))
        if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    raised = next(node for node in ast.walk(nodes[0]) if isinstance(node, ast.Raise))
    return ast.unparse(raised)
