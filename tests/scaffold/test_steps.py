"""The steps on a port that is done but for what each test takes from it. No original is run here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from porting.cli import new_port_command
from porting.compare import Comparison
from porting.errors import ConfigError
from porting.mapping import Drop, Rule
from porting.ops import Transpose
from porting.ports.t5 import PORT as T5
from porting.scaffold import UnfinishedError, checks, forward, steps
from porting.scaffold.settings import PortSettings, read_settings
from porting.scaffold.steps import ALL_STEPS, STEPS, PortSteps, Step
from porting.scaffold.work import StepFailedError, Work
from porting.testing.cache import ContentCache
from porting.testing.plugin import StepChecker
from tests.conftest import REPOSITORY
from tests.traces import T, TraceMaker

CHECKPOINT = REPOSITORY / "demo" / "checkpoint"


@pytest.fixture
def settings(tmp_path: Path) -> PortSettings:
    """Of T5, as `new-port` would have written them, with a trained checkpoint."""
    (tmp_path / "port").mkdir()
    (tmp_path / "port" / "port.toml").write_text("")
    return replace(read_settings("t5", tmp_path / "port"), checkpoint=CHECKPOINT)


@pytest.fixture
def work(settings: PortSettings, tmp_path: Path) -> Work:
    return Work(settings, ContentCache(tmp_path / "cache"))


def with_port(work: Work, **changed: Any) -> Work:
    work.__dict__["port"] = replace(T5, **changed)
    return work


def test_a_right_port_passes_what_needs_no_original(work: Work) -> None:
    for check in (checks.checkpoint, checks.config, checks.variables, checks.shapes):
        check(work)


def test_a_checkpoint_that_is_not_recognised_shows_its_variables(work: Work) -> None:
    with pytest.raises(StepFailedError, match="says no to the checkpoint's variables: decoder/"):
        checks.checkpoint(with_port(work, recognises=lambda _shapes: False))


def test_a_checkpoint_that_another_port_takes_names_it(work: Work) -> None:
    with pytest.raises(StepFailedError, match="The port t5 recognises this checkpoint, too"):
        checks.checkpoint(with_port(work, name="mine", recognises=lambda _shapes: True))


def test_a_config_that_does_not_come_back_is_shown(work: Work) -> None:
    def forgets(content: Mapping[str, Any]) -> Any:
        return T5.config_from_json({**content, "layer_norm_epsilon": 0.5})

    with pytest.raises(StepFailedError, match="another one after config"):
        checks.config(with_port(work, config_from_json=forgets))


def test_where_no_config_file_is_found_what_there_is_is_listed(work: Work) -> None:
    def unwritten(_shapes: object) -> Any:
        raise UnfinishedError("name the config file, or read sizes off the shapes")

    with_port(work, config_files=("settings.yaml",), infer_config=unwritten)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("porting.source.port_for_variables", lambda _shapes: work.port)
        with pytest.raises(
            StepFailedError, match=r"names settings\.yaml; beside.*are .*operative_config"
        ) as error:
            checks.config(work)
    assert error.value.where.startswith("tests/scaffold/test_steps.py:")
    assert error.value.todo == "name the config file, or read sizes off the shapes"


def test_a_port_that_cannot_be_imported_is_what_the_first_step_says(
    settings: PortSettings, tmp_path: Path
) -> None:
    work = Work(replace(settings, name="nowhere"), ContentCache(tmp_path / "cache"))
    with pytest.raises(StepFailedError, match="no port named 'nowhere'") as error:
        checks.checkpoint(work)
    assert error.value.todo == "Mend what is named above: the port cannot be imported."
    assert not checks.contradicts("generation", work)


def test_a_config_without_the_ports_model_type_is_shown(work: Work) -> None:
    with pytest.raises(StepFailedError, match="gives model_type 't5'"):
        checks.config(with_port(work, model_types=("bert",)))


RULES = (
    Rule("w", "w", (Transpose(),)),
    Rule("part_(?P<stack>a|b)", "joined", stack=("a", "b")),
    Drop("global_step", "global step"),
)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"w": (2, 3), "part_a": (1, 4), "part_b": (2, 4), "global_step": ()}, ""),
        (
            {"w": (2, 3), "part_a": (1, 4), "part_b": (2, 4), "bias": (3,)},
            "bias: expected a rule that claims it",
        ),
        ({"w": (6,), "part_a": (1, 4), "part_b": (2, 4)}, "w: expected a shape that fits w"),
        ({"w": (2, 3), "part_a": (1, 4)}, "joined: expected one each of a, b"),
    ],
    ids=["right", "unclaimed", "an op that does not fit", "half of a stack"],
)
def test_every_variable_is_claimed_without_a_model(variables: Mapping[str, Any], said: str) -> None:
    def plan() -> object:
        return checks.make_plan(RULES, variables, checks._targets(RULES, variables))

    if not said:
        plan()
        return
    with pytest.raises(Exception, match=said):
        plan()


def test_a_made_checkpoint_must_be_random_everywhere(work: Work, settings: PortSettings) -> None:
    work.settings = replace(settings, checkpoint=None)
    work.__dict__["checkpoint"] = checkpoint = Work(settings, work.cache).checkpoint
    checks.variables(work)  # a trained one is
    name = "encoder/block_000/layer_000/rms_norm/scale"
    name = name if name in checkpoint.tensors else next(n for n in checkpoint.tensors if n.endswith("scale"))
    constant = replace(checkpoint.tensors[name], load=lambda: checkpoint.tensors[name].load() * 0 + 1)
    work.__dict__["checkpoint"] = replace(checkpoint, tensors={**checkpoint.tensors, name: constant})
    with pytest.raises(StepFailedError, match=f"1 variables hold one number everywhere: {name}") as error:
        checks.variables(work)
    assert "make_checkpoint.py" in error.value.where


CARD = "# t5\n\n## What it is\n\nA model.\n"


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        (CARD, "", ""),
        (CARD + "\n## The original\n\nFILL IN: where.\n", "1 places are still to be filled in", ":9"),
        (CARD + "\n## The original\n\n", "nothing under: The original", ""),
        ("# t5\n", "nothing under: any heading", ""),
        (None, "There is no", ""),
    ],
)
def test_a_model_card_says_something_under_every_heading(
    work: Work, text: str | None, said: str, line: str
) -> None:
    if text is not None:
        work.settings.model_card.write_text(text)
    if not said:
        checks.model_card(work)
        return
    with pytest.raises(StepFailedError, match=said) as error:
        checks.model_card(work)
    assert error.value.where.endswith(f"MODEL_CARD.md{line}")


def test_a_function_that_no_step_calls_is_found_at_the_end(work: Work) -> None:
    work.settings.model_card.write_text(CARD)
    (work.settings.directory / "extra.py").write_text("def f():\n    raise UnfinishedError('later')\n")
    with pytest.raises(StepFailedError, match="still to be written") as error:
        checks.model_card(work)
    assert error.value.where.endswith("extra.py:2")


def test_an_unfinished_function_says_where_it_is() -> None:
    try:
        raise UnfinishedError("Write this.")
    except UnfinishedError as error:
        assert str(error).startswith("Write this.\nTo be written in ")
        assert error.where.partition(":")[0].endswith("test_steps.py")


# Stages of a comparison


@pytest.fixture
def compared(traces: TraceMaker) -> Comparison:
    """Right embeddings, a wrong first layer, a tap that the port lacks behind it, a right loss."""
    reference = [T("embed", [1.0, 2.0]), T("layer.0", [3.0, 4.0]), T("layer.1", [5.0, 6.0]), T("loss", [0.5])]
    port = [T("embed", [1.0, 2.0]), T("layer.0", [3.0, 9.0]), T("loss", [0.5])]
    return traces.compare(reference, port)


@pytest.mark.parametrize(
    ("names", "status"),
    [
        ({"embed"}, "match"),
        ({"embed", "layer.0"}, "diverged"),
        ({"embed", "layer.1"}, "incomplete"),
        ({"nothing"}, "incomplete"),
    ],
)
def test_a_comparison_is_looked_at_as_far_as_a_step_goes(
    compared: Comparison, names: set[str], status: str
) -> None:
    limited = forward._limited(compared, lambda name: name in names)
    assert limited.status == status
    assert {row.name for row in limited.tensors} <= names


def test_what_cannot_be_trusted_is_no_match_at_any_step(compared: Comparison) -> None:
    untrusted = replace(compared, status="invalid", reasons=("it does not repeat itself",))
    assert forward._limited(untrusted, lambda name: name == "embed").status == "invalid"


# Results


def steps_of(
    settings: PortSettings, monkeypatch: pytest.MonkeyPatch, fails: Mapping[str, Exception]
) -> PortSteps:
    def check(step: Step) -> Callable[[Work], None]:
        def run(_work: Work) -> None:
            if step.name in fails:
                raise fails[step.name]

        return run

    monkeypatch.setattr(steps, "ALL_STEPS", tuple(replace(step, check=check(step)) for step in ALL_STEPS))
    found = PortSteps("t5", ContentCache(settings.directory / "cache"))
    found.__dict__["settings"] = settings
    return found


def test_the_first_failure_is_next_and_the_rest_waits(
    settings: PortSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = steps_of(settings, monkeypatch, {"shapes": ValueError("no"), "loss": ValueError("no")}).all()
    assert [r.status for r in results] == ["done"] * 3 + ["next"] + ["waiting"] * 9
    assert results[8].message == "waits for step 4, shapes"


def test_what_a_port_raises_is_told_with_the_step_and_its_file(
    settings: PortSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = steps_of(settings, monkeypatch, {"shapes": KeyError("n_embd")}).all()[3].message
    assert "Step 4 of 13, shapes: every parameter is filled, in the right shape? Not yet." in message
    assert "KeyError: 'n_embd'" in message
    assert f"Where: {settings.directory / 'model.py'}" in message and "Next: Make the module's" in message


def test_a_step_that_does_not_apply_is_declared_and_not_passed(
    settings: PortSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("porting.scaffold.work.port_named", lambda _name: replace(T5, tokenizer=None))
    settings = replace(settings, not_applicable={"tokenizer": "it reads pixels"})
    result = steps_of(settings, monkeypatch, {}).result("tokenizer")
    assert (result.status, result.message) == ("not applicable", "it reads pixels")


def test_what_is_declared_missing_and_is_there_fails(
    settings: PortSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(settings, not_applicable={"generation": "an encoder says nothing"})
    result = steps_of(settings, monkeypatch, {}).result("generation")  # T5 generates
    assert result.status == "next"
    assert "port.toml says that there is no generation, and port.py has one" in result.message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("embeding = ['x']", "embeding: expected one of checkpoint"),
        ("embeddings = 'x'", "embeddings: expected a list of names"),
        ("[not_applicable]\nshapes = 'none'", "not_applicable.shapes: expected one of loss"),
        ("[not_applicable]\nloss = ' '", "not_applicable.loss: expected a reason"),
        ("embeddings = [", "cannot be read"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "port.toml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_settings("mine", tmp_path)


def test_where_the_original_is_not_installed_the_tests_are_skipped_by_name(
    settings: PortSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps_here = steps_of(replace(settings, original=("json", "no_such_framework")), monkeypatch, {})
    with pytest.raises(pytest.skip.Exception, match=r"not installed: no_such_framework$"):
        StepChecker(steps_here).check("checkpoint")
    assert replace(settings, original=("json",)).missing() == []


def test_a_port_without_settings_says_so() -> None:
    result = CliRunner().invoke(new_port_command, ["--status", "t5", "--format", "json"])
    assert result.exit_code == 2
    assert "port.toml" in json.loads(result.stdout)["error"]["message"]


def test_every_step_is_named_once() -> None:
    assert len(set(STEPS)) == len(STEPS) == 13
