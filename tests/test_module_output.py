from __future__ import annotations

from collections import OrderedDict, namedtuple
from types import SimpleNamespace
from typing import Any

import pytest

from porting.module_output import ModuleOutput, module_output

Pair = namedtuple("Pair", ["left", "right"])
MODULES = {"", "a", "a.b", "odd:name"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a.b", ModuleOutput("a.b")),
        ("a@2", ModuleOutput("a", 2)),
        ("a:1", ModuleOutput("a", 0, "1")),
        ("a.b@3:hidden", ModuleOutput("a.b", 3, "hidden")),
        ("odd:name", ModuleOutput("odd:name")),
        ("c", None),
        ("c@1", None),
        ("a@x", None),
    ],
)
def test_names(name: str, meant: ModuleOutput | None) -> None:
    assert module_output(name, MODULES) == meant


@pytest.mark.parametrize(
    ("returned", "output", "picked", "changed"),
    [
        (5, "", 5, 0),
        ((5, 6), "", 5, (0, 6)),
        ((5, 6), "1", 6, (5, 0)),
        ([5, 6], "1", 6, [5, 0]),
        (Pair(5, 6), "right", 6, Pair(5, 0)),
        (Pair(5, 6), "1", 6, Pair(5, 0)),
        (OrderedDict(x=5, y=6), "y", 6, OrderedDict(x=5, y=0)),
        (SimpleNamespace(x=5, y=6), "y", 6, SimpleNamespace(x=5, y=0)),
    ],
)
def test_an_output_is_picked_and_put_back(returned: Any, output: str, picked: Any, changed: Any) -> None:
    place = ModuleOutput("a", 0, output)
    before = repr(returned)
    assert place.pick(returned) == picked
    put = place.put(returned, 0)
    assert put == changed
    assert type(put) is type(changed)
    assert repr(returned) == before


@pytest.mark.parametrize(
    ("returned", "output"), [((5,), "1"), ({"x": 5}, "y"), (SimpleNamespace(), "y"), (5, "1")]
)
def test_what_is_not_returned_is_none(returned: Any, output: str) -> None:
    assert ModuleOutput("a", 0, output).pick(returned) is None
