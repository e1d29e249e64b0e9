"""The process that stays up: requests, answers, prints, errors, deaths. No framework is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from porting.errors import InputError, ReferenceRunError
from porting.references.process import ReferenceProcess, run_in_process

REPOSITORY = Path(__file__).parents[1]
HERE = "tests.test_reference_process"


def count(request: Mapping[str, Any]) -> None:
    """Runs in the process: how many requests it has had, its id, and much noise on both streams."""
    count.calls = getattr(count, "calls", 0) + 1
    print('{"error": {"message": "printed, not answered", "remedy": ""}}', flush=True)
    os.write(1, b"from C++\n" * 20000)
    Path(request["output"]).write_text(f"{count.calls} {os.getpid()}")


def refuse(request: Mapping[str, Any]) -> None:
    if request["how"] == "ours":
        raise InputError("no such ids", remedy="Give others.")
    if request["how"] == "exit":
        sys.stderr.write("last words\n")
        os._exit(7)
    raise RuntimeError("a bug in there")


def sleep(request: Mapping[str, Any]) -> None:
    Path(request["output"]).write_text(str(os.getpid()))
    time.sleep(60)


def read(path: Path) -> tuple[int, int]:
    calls, pid = path.read_text().split()
    return int(calls), int(pid)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until_gone(pid: int) -> bool:
    deadline = time.monotonic() + 15
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not is_running(pid)


def test_one_process_answers_many_requests_whatever_it_prints(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with ReferenceProcess(f"{HERE}:count", cwd=REPOSITORY) as process:
        answers = []
        for _ in range(3):
            process.call({"output": str(output)})
            answers.append(read(output))
    assert [calls for calls, _ in answers] == [1, 2, 3]
    assert len({pid for _, pid in answers}) == 1
    assert wait_until_gone(answers[0][1])


def test_an_error_of_ours_comes_through_and_the_process_goes_on() -> None:
    with ReferenceProcess(f"{HERE}:refuse", cwd=REPOSITORY) as process:
        for _ in range(2):
            with pytest.raises(ReferenceRunError, match="no such ids") as error:
                process.call({"how": "ours"})
            assert error.value.remedy == "Give others."


@pytest.mark.parametrize(("how", "said"), [("exit", "exit code 7.*last words"), ("bug", "a bug in there")])
def test_a_process_that_dies_says_what_it_printed_last_and_starts_again(how: str, said: str) -> None:
    with ReferenceProcess(f"{HERE}:refuse", cwd=REPOSITORY) as process:
        with pytest.raises(ReferenceRunError, match=f"(?s){said}"):
            process.call({"how": how})
        with pytest.raises(ReferenceRunError, match="no such ids"):
            process.call({"how": "ours"})


def test_one_request_alone(tmp_path: Path) -> None:
    run_in_process(f"{HERE}:count", {"output": str(tmp_path / "output")}, cwd=REPOSITORY)
    assert read(tmp_path / "output")[0] == 1


def test_the_process_dies_with_its_parent_even_while_it_works(tmp_path: Path) -> None:
    output = tmp_path / "pid"
    code = (
        "from porting.references.process import ReferenceProcess\n"
        f"ReferenceProcess('{HERE}:sleep').call({{'output': {str(output)!r}}})"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, env=environment)
    try:
        deadline = time.monotonic() + 30
        while not (output.exists() and output.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        parent.kill()
        parent.wait()
    assert wait_until_gone(int(output.read_text()))
