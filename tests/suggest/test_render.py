"""The file that is written: valid Python that imports, says how sure it is, and is a plan when complete."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from porting.cli import suggest_rules_command
from porting.mapping import make_plan
from porting.suggest.render import python_file
from porting.suggest.sides import Side
from porting.suggest.suggest import suggest
from tests.conftest import RunPython

DEMO = Path(__file__).parents[2] / "demo" / "checkpoint"
SOURCES = {
    "model/wte": (70, 24),
    **{f"layer_{i}/{name}/kernel": (24, 24) for i in range(2) for name in ("query", "key", "value")},
    **{f"layer_{i}/ffn/kernel": (24, 40) for i in range(2)},
    "odd/thing": (3, 5),
    "global_step": (),
}
TARGETS = {
    "wte.weight": (70, 24),
    "lm_head.weight": (70, 24),
    **{f"layers.{i}.attn.in_proj_weight": (72, 24) for i in range(2)},
    **{f"layers.{i}.ffn.weight": (40, 24) for i in range(2)},
    "other.bias": (11,),
}


def imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("suggested_rules", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_imports_and_holds_the_same_rules(tmp_path: Path) -> None:
    suggestion = suggest(Side(SOURCES), Side(TARGETS, owners={"wte.weight": "Embedding"}))
    path = tmp_path / "rules.py"
    path.write_text(python_file(suggestion, "ckpt", "m.py:build"))
    module = imported(path)
    assert list(module.RULES) == suggestion.table
    assert module.rules(None, ()) == module.RULES
    assert any(rule.stack for rule in module.RULES if hasattr(rule, "stack"))
    assert any(rule.also for rule in module.RULES if hasattr(rule, "also"))


def test_every_rule_says_how_sure_it_is_and_what_is_left_is_to_do() -> None:
    suggestion = suggest(Side(SOURCES), Side(TARGETS, owners={"wte.weight": "Embedding"}))
    text = python_file(suggestion, "ckpt", "m.py:build")
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if line.startswith(("    Rule(", "    Drop(")):
            comment = next(above for above in reversed(lines[:i]) if not above.startswith("    #  "))
            assert comment.startswith("    # ")
    for found in suggestion.rules:
        marked = (
            f"# CHECK {found.confidence:.2f}: " if found.confidence < 0.9 else f"# {found.confidence:.2f}: "
        )
        assert marked in text
    assert "# TODO odd/thing 3x5; nearest: " in text
    assert "# TODO other.bias 11; nearest: " in text
    assert max(map(len, lines)) <= 110


def test_the_demonstration_s_rules_are_right_and_a_plan(tmp_path: Path) -> None:
    """The same plan as the T5 port's own rules make."""
    from porting.checkpoint import open_checkpoint
    from porting.source import plan_original, resolve_config

    path = tmp_path / "rules.py"
    result = CliRunner().invoke(suggest_rules_command, [str(DEMO), "t5", "-o", str(path)])
    assert result.exit_code == 0, result.stderr
    assert f"Wrote {path}" in result.stdout
    assert "Nothing was converted" in result.stdout
    checkpoint = open_checkpoint(DEMO)
    port, resolved = resolve_config(checkpoint, None)
    own = plan_original(port, resolved.config, checkpoint)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    targets = {entry.target: entry.target_shape for entry in own.entries}
    assert make_plan(imported(path).RULES, shapes, targets).entries == own.entries


def test_json_has_all_of_it() -> None:
    result = CliRunner().invoke(suggest_rules_command, [str(DEMO), "t5", "--format", "json"])
    content = json.loads(result.stdout)
    assert (content["schema_version"], content["status"]) == (1, "complete")
    rule = content["rules"][0]
    assert {*rule} == {
        "pattern", "target", "ops", "also", "stack", "confidence", "reasons", "sources", "targets",
    }  # fmt: skip
    assert sum(len(drop["sources"]) for drop in content["drops"]) == 116


def test_it_prints_python_and_nothing_else_on_stdout() -> None:
    result = CliRunner().invoke(suggest_rules_command, [str(DEMO), "t5"])
    compile(result.stdout, "rules.py", "exec")
    assert "Nothing was converted" in result.stderr


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rules.py"
    path.write_text("# edited\n")
    refused = CliRunner().invoke(suggest_rules_command, [str(DEMO), "t5", "-o", str(path)])
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert path.read_text() == "# edited\n"
    replaced = CliRunner().invoke(suggest_rules_command, [str(DEMO), "t5", "-o", str(path), "--force"])
    assert replaced.exit_code == 0
    assert "RULES" in path.read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["rules.py"]


@pytest.mark.parametrize(
    ("factory", "said"),
    [
        ("nothing", "names no factory"),
        ("no.such.module:build", "cannot be imported"),
        ("{tmp}/f.py:absent", "has no callable"),
        ("{tmp}/f.py:number", "returned int"),
        ("{tmp}/f.py:fails", "ValueError: why not"),
        ("{tmp}/none.py:build", "cannot be imported"),
    ],
)
def test_a_factory_that_cannot_be_used(factory: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(
        "def number():\n    return 3\n\ndef fails():\n    raise ValueError('why not')\n"
    )
    arguments = [str(DEMO), factory.format(tmp=tmp_path), "-o", str(tmp_path / "r.py")]
    result = CliRunner().invoke(suggest_rules_command, arguments)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "r.py").exists()


def test_weights_of_another_module_are_refused_with_all_that_is_wrong(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"a.weight": torch.zeros(2, 3)}, tmp_path / "w.safetensors")
    (tmp_path / "f.py").write_text(
        "import torch\n"
        "def build():\n    return torch.nn.ModuleDict({n: torch.nn.Linear(3, 4) for n in 'ab'})\n"
    )
    arguments = [str(DEMO), f"{tmp_path}/f.py:build", "--weights", str(tmp_path / "w.safetensors")]
    result = CliRunner().invoke(suggest_rules_command, arguments)
    assert result.exit_code == 2
    for name in ("a.weight: expected a tensor of shape (4, 3), found (2, 3)", "a.bias", "b.weight", "b.bias"):
        assert name in result.stderr


def test_help_imports_no_framework(run_python: RunPython) -> None:
    code = (
        "import sys\nfrom porting.cli import suggest_rules_command as c\n"
        "try:\n    c.main(['--help'], prog_name='suggest-rules')\n"
        "finally:\n    print('imported:', sorted({'torch', 'tensorflow', 'numpy'} & {*sys.modules}))"
    )
    result = run_python("-c", code)
    assert "Examples:" in result.stdout
    assert "imported: []" in result.stdout
