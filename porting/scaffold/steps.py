"""The steps of a port, in order. The first that fails is the next to do; those behind it wait for it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from porting.errors import PortingError
from porting.scaffold import checks, forward
from porting.scaffold.settings import PortSettings, settings_of
from porting.scaffold.unfinished import WRITTEN_IN, shown
from porting.scaffold.work import StepFailedError, Work
from porting.testing.cache import ContentCache

DONE, NEXT, WAITING, NOT_APPLICABLE = "done", "next", "waiting", "not applicable"


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: in `port.toml` and in the names of tests.
        title: what is so once it is done.
        file: the file of the port where most of it is written.
        todo: what to do, for a failure that does not say it itself.
        check: raises StepFailedError, or whatever the port raises, unless the step is done.
    """

    name: str
    title: str
    file: str
    todo: str
    check: Callable[[Work], None]


ALL_STEPS = (
    Step(
        "checkpoint",
        "a checkpoint of the original is there, and recognised",
        "rules.py",
        "Let the original's own code write a small checkpoint (make_checkpoint.py, or `checkpoint` in"
        " port.toml), and say in `recognises` what its variables look like.",
        checks.checkpoint,
    ),
    Step(
        "config",
        "the config is read",
        "config.py",
        "Read the original's config into `Config`, and write and read it as config.json.",
        checks.config,
    ),
    Step(
        "variables",
        "every variable is claimed",
        "rules.py",
        "Give every variable one rule: where it goes and what is done to it; or a Drop, with a reason. Once"
        " model.py makes its parameters, `suggest-rules CHECKPOINT NAME` proposes a table.",
        checks.variables,
    ),
    Step(
        "shapes",
        "every parameter is filled, in the right shape",
        "model.py",
        "Make the module's parameters: named as the rules' targets, in the shapes that their ops give.",
        checks.shapes,
    ),
    Step(
        "embeddings",
        "the embeddings agree",
        "model.py",
        "Compute the embeddings as the original does; what differs is named above.",
        forward.embeddings,
    ),
    Step(
        "first_layer",
        "the first layer agrees",
        "model.py",
        "Compute the first layer as the original does. Look at the first divergence, not at the last.",
        forward.first_layer,
    ),
    Step(
        "every_layer",
        "every layer agrees",
        "model.py",
        "Compute the other layers; tap every tensor in between on both sides (taps.py and reference.py).",
        forward.every_layer,
    ),
    Step(
        "logits",
        "the logits agree",
        "model.py",
        "Compute the outputs, and return them from `run` in port.py under the names of their taps.",
        forward.logits,
    ),
    Step(
        "loss",
        "the loss agrees",
        "model.py",
        "Compute the loss as the original does (what is summed, what it is divided by), and return it from"
        " `run`.",
        forward.loss,
    ),
    Step(
        "gradients",
        "the gradients agree",
        "reference.py",
        "Let the original take the gradients of its loss, and keep every parameter of the port in the graph.",
        forward.gradients,
    ),
    Step(
        "generation",
        "generation agrees",
        "decoding.py",
        "Say how the port and the original generate: `Decoding` in decoding.py, `decoding=` in port.py.",
        forward.generation,
    ),
    Step(
        "tokenizer",
        "the tokenizer gives the original's ids",
        "tokenizer.py",
        "Say how the port and the original turn text into ids: `Tokenizer` in tokenizer.py, `tokenizer=`"
        " in port.py.",
        checks.tokenizer,
    ),
    Step(
        "model_card",
        "the model card is written",
        "MODEL_CARD.md",
        "Fill in the model card.",
        checks.model_card,
    ),
)
STEPS = tuple(step.name for step in ALL_STEPS)


@dataclass(frozen=True)
class StepResult:
    """Where one step stands.

    Attributes:
        number: from 1.
        step: the step.
        status: "done", "next", "waiting" or "not applicable".
        message: of the next step, what is wrong and what to do; otherwise why it waits or does not apply.
    """

    number: int
    step: Step
    status: str
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """An entry of `steps` in `new-port --status --format json`."""
        return {
            "number": self.number,
            "name": self.step.name,
            "title": self.step.title,
            "status": self.status,
            "message": self.message,
        }


class PortSteps:
    """The steps of one port, each looked at once.

    Example:
        steps = PortSteps("gpt2")
        [result.status for result in steps.all()]     # ["done", "done", "next", "waiting", ...]
    """

    def __init__(
        self,
        name: str,
        cache: ContentCache | None = None,
        on_step: Callable[[Step], None] = lambda _step: None,
    ) -> None:
        """Nothing is looked at yet.

        Args:
            name: of the port.
            cache: keeps the checkpoint that was made, and traces of the original; by default where the
                port's own tests keep them.
            on_step: called with each step before it is looked at, for progress.
        """
        self.name, self._cache, self._on_step = name, cache, on_step
        self._results: list[StepResult] = []

    @cached_property
    def settings(self) -> PortSettings:
        """Of the port. Raises ConfigError."""
        return settings_of(self.name)

    @cached_property
    def _work(self) -> Work:
        return Work(self.settings, self._cache or ContentCache(self.settings.cache_directory))

    @property
    def checkpoint(self) -> str | None:
        """The path of the original's checkpoint, once the first step is done."""
        done = self.result(STEPS[0]).status == DONE
        return str(self._work.checkpoint.path) if done else None

    def all(self) -> Sequence[StepResult]:
        """Every step, in order."""
        return [self.result(name) for name in STEPS]

    def result(self, name: str) -> StepResult:
        """Where a step stands; the steps before it are looked at first."""
        wanted = STEPS.index(name)
        while len(self._results) <= wanted:
            self._results.append(self._look(len(self._results)))
        return self._results[wanted]

    def _look(self, index: int) -> StepResult:
        step, number = ALL_STEPS[index], index + 1
        reason = self.settings.not_applicable.get(step.name)
        if reason and not checks.contradicts(step.name, self._work):
            return StepResult(number, step, NOT_APPLICABLE, reason)
        missing = next((result for result in self._results if result.status == NEXT), None)
        if missing:
            return StepResult(number, step, WAITING, f"waits for step {missing.number}, {missing.step.name}")
        self._on_step(step)
        try:
            if reason:
                raise StepFailedError(
                    f"port.toml says that there is no {step.name}, and port.py has one.",
                    self.settings.file,
                    f"Take one of them away: not_applicable.{step.name}, or {step.name} in port.py.",
                )
            step.check(self._work)
        except Exception as error:
            return StepResult(number, step, NEXT, _message(number, step, error, self.settings))
        return StepResult(number, step, DONE)


def _message(number: int, step: Step, error: Exception, settings: PortSettings) -> str:
    """What is wrong, where, and what to do."""
    where, todo = shown(settings.directory / step.file), step.todo
    if step.file == "MODEL_CARD.md":
        where = shown(settings.model_card)
    what = str(error)
    if isinstance(error, StepFailedError):
        where, todo = error.where or where, error.todo or todo
    elif isinstance(error, PortingError) and error.remedy.startswith(WRITTEN_IN):
        # It may have been raised in the reference process: its type is lost there, and its remedy is not.
        what, where = error.message, error.remedy.removeprefix(WRITTEN_IN)
    elif not isinstance(error, PortingError):
        what = f"{type(error).__name__}: {error}"
        where = place_of(error, settings.directory) or where
    head = f"Step {number} of {len(ALL_STEPS)}, {step.name}: {step.title}? Not yet."
    return "\n".join((head, what, f"Where: {where}", f"Next: {todo}"))


def place_of(error: BaseException, directory: Path) -> str:
    """`path:line` of the last line below a directory that an error came through; "" if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).resolve().is_relative_to(directory.resolve())]
    return f"{shown(Path(own[-1].filename))}:{own[-1].lineno}" if own else ""
