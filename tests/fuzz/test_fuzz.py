"""Every target on mutated seeds and on bytes of no kind: the same inputs each time."""

from __future__ import annotations

import gc
import resource
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import harness
from tests.fuzz.targets import TARGETS

MORE_MEMORY = 1 << 30
EXAMPLES = 300

_bytes = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, *b'"[]{}\\%@/']))
_edits = st.lists(
    st.tuples(
        st.sampled_from(["set", "flip", "insert", "delete", "cut", "repeat"]),
        st.integers(0, 1 << 16),
        _bytes,
        st.integers(1, 40),
    ),
    max_size=5,
)


def mutated(seed: bytes, edits: list[tuple[str, int, int, int]]) -> bytes:
    out = bytearray(seed)
    for kind, where, value, size in edits:
        at = where % (len(out) + 1)
        if kind == "insert":
            out[at:at] = bytes([value])
        elif kind == "delete":
            del out[at : at + size]
        elif kind == "cut":
            del out[at:]
        elif kind == "repeat":
            out[at:at] = out[at : at + size] * (1 + value)
        elif at < len(out):
            out[at] = value if kind == "set" else out[at] ^ 1 << value % 8
    return bytes(out)


@pytest.fixture(scope="module", autouse=True)
def _bounded_memory() -> Iterator[None]:
    """At most so much address space more than there is before the first input, and no garbage of others."""
    import torch  # its libraries take much address space

    assert torch.__version__
    # Temporary directories of earlier tests go with the objects that hold them: not while files are watched.
    gc.collect()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:  # noqa: PTH123
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MORE_MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_our_own_errors_comes_out(name: str) -> None:
    target = TARGETS[name]
    seeds = list(target.seeds())
    harness.OUTCOMES.clear()
    for seed in seeds:
        target.run(seed)
    assert harness.OUTCOMES["read"], "no seed is sound"

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(seeds), _edits, st.binary(max_size=60), st.integers(0, 3))
    def fuzz(seed: bytes, edits: list[tuple[str, int, int, int]], other: bytes, kind: int) -> None:
        target.run(other if kind == 0 else mutated(seed, edits))

    fuzz()
