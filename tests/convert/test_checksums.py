"""A checksum of joined bytes follows from those of the parts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from porting.convert.checksums import file_crc32c, file_sha256, joined_crc32c
from porting.errors import CheckpointError


@given(st.lists(st.binary(max_size=3000), max_size=6))
def test_joined_is_what_the_whole_has(parts: list[bytes]) -> None:
    pieces = [(google_crc32c.value(part), len(part)) for part in parts]
    assert joined_crc32c(pieces) == google_crc32c.value(b"".join(parts))


def test_long_parts(tmp_path: Path) -> None:
    parts = [bytes(range(256)) * 20_000, b"", b"x" * 3_000_001]
    path = tmp_path / "f"
    path.write_bytes(b"".join(parts))
    assert joined_crc32c((google_crc32c.value(p), len(p)) for p in parts) == file_crc32c(path)
    assert file_crc32c(path, len(parts[0]), 1000) == google_crc32c.value(b"x" * 1000)
    assert file_crc32c(path, path.stat().st_size - 5, 100) == google_crc32c.value(b"x" * 5)
    assert file_sha256(path) == hashlib.sha256(b"".join(parts)).hexdigest()
    with pytest.raises(CheckpointError, match="none"):
        file_crc32c(tmp_path / "none")
