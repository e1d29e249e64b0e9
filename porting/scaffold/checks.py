"""What each step asks of a port; those that compare tensors are in forward.py."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from porting.mapping import Drop, Plan, Rule, Shape, make_plan
from porting.model_dir import load_model
from porting.port import ResolvedConfig, port_for_variables
from porting.scaffold.unfinished import UnfinishedError, shown
from porting.scaffold.work import MAKER, StepFailedError, Work
from porting.source import find_config, plan_original, variable_shapes
from porting.tokenizer import compare_tokenizer

_SHOWN_NAMES = 8
FILL_IN = "FILL IN"
_HEADING = re.compile(r"^##+ (.+)$", re.MULTILINE)  # the title may stand alone


def contradicts(step: str, work: Work) -> bool:
    """Whether the port has what `port.toml` says that it does not have."""
    try:
        has = {"generation": work.port.decoding, "tokenizer": work.port.tokenizer}
    except StepFailedError:  # the port cannot be loaded: the first step says so
        return False
    return has.get(step) is not None


def checkpoint(work: Work) -> None:
    """The port loads, a checkpoint is there, and of all ports this one knows it."""
    port, shapes = work.port, variable_shapes(work.checkpoint)
    if not port.recognises(shapes):
        raise StepFailedError(f"`recognises` says no to the checkpoint's variables: {_some(list(shapes))}")
    found = port_for_variables(shapes)
    if found.name != port.name:
        raise StepFailedError(
            f"The port {found.name} recognises this checkpoint, too, and is asked first."
            f" Its variables: {_some(list(shapes))}",
            todo=f"Find what tells the two apart; if {found.name} takes too much, mend it there.",
        )


def config(work: Work) -> None:
    """The config is read, and config.json says all of it."""
    port, found = work.port, _resolved(work).config
    content = json.loads(json.dumps(port.config_to_json(found)))
    if content.get("model_type") not in port.model_types:
        raise StepFailedError(
            f"`config_to_json` gives model_type {content.get('model_type')!r}; the port's model_types are"
            f" {list(port.model_types)}.",
            todo="Give config.json a model_type, and list it in port.py: load_model finds the port by it.",
        )
    again = port.config_from_json(content)
    # A port may have several types of config that mean the same; one type must come back equal.
    same = again == found or (type(again) is not type(found) and port.config_to_json(again) == content)
    if not same:
        raise StepFailedError(
            f"The config is another one after config.json:\n  before: {found}\n  after:  {again}",
            todo="Let `config_to_json` write every field, and `config_from_json` read it.",
        )


def _resolved(work: Work) -> ResolvedConfig:
    """The config; where none was found, what there is instead is said."""
    try:
        return work.resolved
    except UnfinishedError as error:
        if find_config(work.checkpoint, work.port) is not None:
            raise
        beside = sorted(path.name for path in work.checkpoint.path.parent.iterdir())
        raise StepFailedError(
            f"CONFIG_FILES names {', '.join(work.port.config_files)}; beside the checkpoint there are"
            f" {', '.join(beside)}.",
            error.where,
            error.message,
        ) from error


def variables(work: Work) -> None:
    """One rule or Drop for each variable. What is made for this purpose is random everywhere."""
    rules = work.port.rules(work.resolved.config, list(work.checkpoint.tensors))
    shapes = variable_shapes(work.checkpoint)
    # The model that these rules are right for: only the variables' side can fail.
    plan = make_plan(rules, shapes, _targets(rules, shapes))
    if work.settings.checkpoint is None:
        _all_random(plan, work)


def _targets(rules: Sequence[Rule | Drop], shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The parameters that rules fill, in the shapes that they give."""
    targets: dict[str, Shape] = {}
    for name, shape in shapes.items():
        for rule in rules:
            match = rule.regex.fullmatch(name)
            if match is None or isinstance(rule, Drop):
                continue
            for target, ops in rule.targets_for(match):
                after = shape
                with suppress(ValueError):  # ops that do not fit are the plan's to tell
                    for op in ops:
                        after = op.output_shape(after)
                joined = rule.stack and target in targets and after
                targets[target] = (targets[target][0] + after[0], *after[1:]) if joined else after
    return targets


def _all_random(plan: Plan, work: Work) -> None:
    names = sorted({name for entry in plan.entries for name in entry.sources})
    tensors = [work.checkpoint.tensors[name] for name in names]
    constant = [t.name for t in tensors if np.prod(t.shape) > 1 and np.ptp(t.read().astype(np.float32)) == 0]
    if constant:
        raise StepFailedError(
            f"{len(constant)} variables hold one number everywhere: {_some(constant)}",
            work.settings.tests / MAKER,
            "Make them random, norm scales and biases included: a port that leaves out a scale of 1 or a bias"
            " of 0 would pass.",
        )


def shapes(work: Work) -> None:
    """The plan is total, the checkpoint converts, and the model directory loads."""
    plan_original(work.port, work.resolved.config, work.checkpoint)
    load_model(work.model_dir)


def tokenizer(work: Work) -> None:
    """The port's ids are the original's, for texts that are awkward."""
    found = work.port.tokenizer
    if found is None:
        raise StepFailedError(
            "The port has no tokenizer.",
            work.settings.directory / "port.py",
            "Fill in tokenizer.py and give the Port tokenizer=TOKENIZER; or say in port.toml, under"
            " [not_applicable], why there is none: tokenizer = ...",
        )
    different = compare_tokenizer(found, work.checkpoint.path)
    if different:
        first = different[0]
        raise StepFailedError(
            f"{len(different)} texts have other ids than in the original, the first of them {first.text!r}:\n"
            f"  original: {list(first.reference)}\n  port:     {list(first.port)}\n"
            f"  the first difference is at {first.index}"
        )


def model_card(work: Work) -> None:
    """Every heading has text under it, and nothing is left to fill in, nor to write."""
    for source in sorted(work.settings.directory.rglob("*.py")):
        for number, line in enumerate(source.read_text(encoding="utf-8").splitlines(), 1):
            if "UnfinishedError(" in line:
                raise StepFailedError(
                    "A function that no step calls is still to be written.",
                    f"{shown(source)}:{number}",
                    "Write it, or delete it with its file if the architecture has no such thing.",
                )
    path = work.settings.model_card
    if not path.is_file():
        raise StepFailedError(f"There is no {shown(path)}.", path)
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    open_places = [number for number, line in enumerate(lines, 1) if FILL_IN in line]
    if open_places:
        number = open_places[0]
        raise StepFailedError(
            f"{len(open_places)} places are still to be filled in, the first of them: {lines[number - 1]}",
            f"{shown(path)}:{number}",
        )
    empty = [heading for heading, body in _sections(text) if not body.strip()]
    if empty or not _sections(text):
        raise StepFailedError(f"There is nothing under: {', '.join(empty) or 'any heading'}.", path)


def _sections(text: str) -> list[tuple[str, str]]:
    """Heading and what stands under it."""
    parts = _HEADING.split(text)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def _some(names: list[str]) -> str:
    more = f", and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(names[:_SHOWN_NAMES]) + more
