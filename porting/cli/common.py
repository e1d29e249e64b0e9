"""What every command takes, and how every command fails."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from porting import __version__
from porting.errors import EXIT_UNTRUSTED, PortingError
from porting.output import FORMATS, Output

Command = TypeVar("Command", bound=Callable[..., Any])
_INTERRUPTED = 130  # as shells say SIGINT
_BROKEN_PIPE = 141  # as shells say SIGPIPE


def common_options(command: Command) -> Command:
    """Options that every command takes."""
    for option in (
        click.version_option(__version__, "--version", prog_name="porting"),
        click.option("--debug", is_flag=True, help="Show the traceback of an error."),
        click.option(
            "--format",
            "style",
            type=click.Choice(FORMATS),
            default="human",
            show_default=True,
            help="What to print: text, one JSON object, or nothing.",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def reporting_errors(output: Output, debug: bool) -> Iterator[None]:
    """Our own errors become one message and their exit code; anything else is a bug, and is no verdict."""
    try:
        yield
    except PortingError as error:
        if debug:
            traceback.print_exc()
        output.error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        output.hint("Interrupted; nothing was left half-written.")
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has read enough: `convert-checkpoint ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_BROKEN_PIPE)
    except Exception as error:
        if debug:
            traceback.print_exc()
        name = type(error).__name__
        output.error(
            PortingError(
                f"This is a bug in porting: {name}: {error}",
                remedy="Please report it with the output of the same command and --debug.",
            )
        )
        sys.exit(EXIT_UNTRUSTED)
    finally:
        _hint_at_unusable_ports(output)


def _hint_at_unusable_ports(output: Output) -> None:
    """Ports that were left out, once they have been looked for."""
    discovery = sys.modules.get("porting.port")
    for name, reason in discovery.unusable_ports().items() if discovery else ():
        output.hint(f"The port {name} was left out: {reason}")
