"""An input that fails -> a pytest file that fails with it until the port is right."""

from __future__ import annotations

import re
from pathlib import Path

from porting.errors import OutputError
from porting.search.search import Failure

_TEMPLATE = '''"""Fails until the port computes what the original does. First divergence:
{what}

Found by compare-outputs --search ({label}),
and cut down to the smallest input that was seen to fail. Run it where the command ran, or say where things
are: PORTING_SOURCE, PORTING_MODEL_DIR.
"""

import os

from porting import compare_outputs

SOURCE = os.environ.get("PORTING_SOURCE", {source!r})
MODEL_DIR = os.environ.get("PORTING_MODEL_DIR", {model_dir!r})
CONFIG = {config!r}
INPUTS = {{
{inputs}}}


def test_the_port_computes_what_the_original_does():
    comparison = compare_outputs(SOURCE, MODEL_DIR, INPUTS, atol={atol!r}, config=CONFIG)
    assert comparison.status == "match", comparison.first_divergence
    assert not comparison.faults, comparison.faults
'''


def write_test(
    failure: Failure,
    directory: Path,
    name: str,
    *,
    source: str,
    model_dir: str,
    config: str | None = None,
    atol: float = 1e-3,
) -> Path:
    """Write `<name>_reproduce_test.py` and return its path.

    Args:
        failure: what to reproduce.
        directory: where to write.
        name: of the comparison; characters that no module name can have are replaced.
        source, model_dir, config: as they were given; relative paths stay relative.
        atol: the tolerance.

    Raises:
        OutputError: it cannot be written.
    """
    # pytest imports the file under its name: a dot there would mean a package.
    stem = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "comparison"
    path = directory / f"{stem}_reproduce_test.py"
    partial = directory / f".{path.name}.partial"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        partial.write_text(
            _TEMPLATE.format(
                what=_what(failure),
                label=failure.label,
                source=source,
                model_dir=model_dir,
                config=config,
                atol=atol,
                inputs="".join(
                    f"    {name!r}: {array.tolist()},\n" for name, array in failure.inputs.arrays().items()
                ),
            ),
            encoding="utf-8",
        )
        partial.replace(path)
    except OSError as error:
        if directory.is_dir():
            partial.unlink(missing_ok=True)
        raise OutputError(
            f"The test cannot be written in {directory}: {error}", remedy="Choose another --report-dir."
        ) from error
    return path


def _what(failure: Failure) -> str:
    first = failure.first_divergence
    if first:
        return first.name
    if failure.fault:
        return f"none; rounding does not explain {failure.fault}"
    # What the port raised may hold anything, and is quoted in a docstring.
    return (failure.error or failure.status).splitlines()[0].replace("\\", "/").replace('"', "'")
