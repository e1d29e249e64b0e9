from __future__ import annotations

import time
from pathlib import Path

import cramjam
import pytest
from bundle_writer import block_contents, footer, masked_crc, stored_block, table, table_of_blocks, varint

from porting.checkpoint import leveldb_table
from porting.checkpoint.leveldb_table import parse_table, read_table
from porting.checkpoint.protobuf_wire import Message, read_varint
from porting.errors import CheckpointError

ENTRIES = {f"layer_{i:03d}/kernel".encode(): f"value {i}".encode() * (i % 5) for i in range(100)}


@pytest.mark.parametrize("per_block", [1, 7, 1000])
@pytest.mark.parametrize("snappy", [False, True])
def test_reads_entries_of_plain_and_snappy_blocks(snappy: bool, per_block: int) -> None:
    assert list(parse_table(table(ENTRIES, snappy=snappy, per_block=per_block), "t").items()) == list(
        ENTRIES.items()
    )


def test_reads_a_table_without_entries() -> None:
    assert parse_table(table({}), "t") == {}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "an empty file"),
        (b"short", "5 bytes"),
        (b"x" * 100, "100 bytes that end in 78787878"),
        (table(ENTRIES)[:-1], "truncated or another kind of file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_says_what_is_not_a_table(data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        parse_table(data, "dir/model.index")
    assert "dir/model.index" in str(caught.value)


@pytest.mark.parametrize("at", [3, -60], ids=["data block", "index block"])
def test_a_flipped_bit_is_a_checksum_error(at: int) -> None:
    broken = bytearray(table(ENTRIES))
    broken[at] ^= 4
    with pytest.raises(CheckpointError, match="expected CRC32C 0x"):
        parse_table(bytes(broken), "t")


def test_cut_out_middle_is_an_error() -> None:
    whole = table(ENTRIES, per_block=10)
    with pytest.raises(CheckpointError, match="corrupt"):
        parse_table(whole[:500] + whole[900:], "t")


@pytest.mark.parametrize("kind", [2, 255])
def test_unknown_compression_is_named(kind: int) -> None:
    contents = block_contents(ENTRIES.items())
    typed = contents + bytes([kind])
    block = typed + stored_block(contents)[-4:]
    with pytest.raises(CheckpointError, match="CRC32C"):
        parse_table(table_of_blocks([(b"z", block)]), "t")
    with pytest.raises(CheckpointError, match=f"Snappy-compressed .1., found type {kind}"):
        parse_table(table_of_blocks([(b"z", typed + masked_crc(typed))]), "t")


def snappy_block(raw: bytes) -> bytes:
    return raw + b"\1" + masked_crc(raw + b"\1")


def test_snappy_block_that_claims_gigabytes_is_refused_before_decompressing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def never(_: bytes) -> bytes:
        raise AssertionError("decompressed")

    monkeypatch.setattr(cramjam.snappy, "decompress_raw", never)
    with pytest.raises(CheckpointError, match="4294967295 bytes claimed"):
        parse_table(table_of_blocks([(b"z", snappy_block(varint(0xFFFFFFFF) + b"abcdefgh"))]), "t")


def test_snappy_at_its_densest_is_accepted() -> None:
    entries = {b"key": bytes(1 << 20)}
    assert parse_table(table(entries, snappy=True), "t") == entries


@pytest.mark.parametrize("raw", [b"", b"\x05", b"\x05\x10abcdefg", b"\x02\x00a"])
def test_broken_snappy_data_is_an_error(raw: bytes) -> None:
    with pytest.raises(CheckpointError, match="corrupt"):
        parse_table(table_of_blocks([(b"z", snappy_block(raw))]), "t")


def one_block(contents: bytes) -> bytes:
    return table_of_blocks([(b"z", stored_block(contents))])


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "0 restart points, found 0 bytes"),
        (b"\xff\xff\xff\xff", "4294967295 restart points"),
        (b"\x01\x01\x00a" + bytes(4), "inside of the block"),  # shares with a key that is not there
        (b"\x00\x05\x00a" + bytes(4), "inside of the block"),
        (b"\x00\x01\x09a" + bytes(4), "inside of the block"),
        (b"\xff\xff\xff\xff\xff\x01" + bytes(4), "at most 32 bits"),
        (b"\x00\x01\x00b\x00\x01\x00a" + bytes(4), "ascending"),
        (b"\x00\x01\x00b\x00\x01\x00b" + bytes(4), "ascending"),
    ],
)
def test_broken_blocks_with_right_checksums_are_errors(contents: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        parse_table(one_block(contents), "t")


def test_keys_must_ascend_from_block_to_block() -> None:
    blocks = [(key, stored_block(block_contents([(key, b"")]))) for key in (b"b", b"a")]
    with pytest.raises(CheckpointError, match="ascending"):
        parse_table(table_of_blocks(blocks), "t")


def test_overlapping_blocks_are_refused() -> None:
    block = stored_block(block_contents([(b"a", b"")]))
    handle = varint(0) + varint(len(block) - 5)
    index = stored_block(block_contents([(b"a", handle), (b"b", handle)], restart_interval=1))
    with pytest.raises(CheckpointError, match="data blocks in order"):
        parse_table(block + index + footer(len(block), len(index) - 5), "t")


@pytest.mark.parametrize("offset", [1 << 40, (1 << 64) - 1])
def test_handles_beyond_the_file_are_errors(offset: int) -> None:
    with pytest.raises(CheckpointError, match="found 0 bytes of blocks"):
        parse_table(footer(offset, 100), "t")


def test_prefix_compression_cannot_expand_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    long_key = bytes(20_000)
    # The last key is out of order: to be told of it would mean that all keys before it were restored.
    keys = [*(long_key + bytes([last]) for last in range(100)), b"\0"]
    bomb = one_block(block_contents([(key, b"") for key in keys], restart_interval=1 << 30))
    monkeypatch.setattr(leveldb_table, "MAX_EXPANDED_BYTES", 1 << 20)
    assert len(bomb) < 21_000
    with pytest.raises(CheckpointError, match="at most 1048576 bytes of names and entries"):
        parse_table(bomb, "t")


def test_files_far_too_large_for_an_index_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.index"
    path.write_bytes(table(ENTRIES))
    monkeypatch.setattr(leveldb_table, "MAX_FILE_BYTES", path.stat().st_size)
    assert read_table(path) == ENTRIES
    monkeypatch.setattr(leveldb_table, "MAX_FILE_BYTES", path.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="too large to be what its name says"):
        read_table(path)


def test_number_of_entries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leveldb_table, "MAX_ENTRIES", len(ENTRIES))
    assert len(parse_table(table(ENTRIES), "t")) == len(ENTRIES)
    with pytest.raises(CheckpointError, match="at most 100 entries"):
        parse_table(table({**ENTRIES, b"more": b""}), "t")


def test_thousands_of_entries_take_little_time() -> None:
    data = table({f"scope/{i:06d}".encode(): bytes(30) for i in range(20_000)}, per_block=1000)
    begin = time.perf_counter()
    assert len(parse_table(data, "t")) == 20_000
    assert time.perf_counter() - begin < 2


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, (1 << 32) - 1, (1 << 64) - 1])
def test_varints_come_back(value: int) -> None:
    assert read_varint(b"x" + varint(value) + b"x", 1, "v") == (value, 1 + len(varint(value)))


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff" * 20, b"\xff" * 9 + b"\x02"])
def test_endless_varints_are_errors(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="varint"):
        read_varint(data, 0, "v")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x01", "field number above 0"),
        (b"\x0b", "wire type 0, 1, 2 or 5, found 3"),
        (b"\x0a\x05abc", "field 1 of 5 bytes"),
        (b"\x0d\x01\x02", "field 1 of 4 bytes"),
    ],
)
def test_malformed_messages_are_errors(data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Message.parse(data, "m")


def test_fields_are_read_as_proto3_says() -> None:
    message = Message.parse(
        b"\x08\x01\x08" + varint(-7) + b"\x12\x02\x08\x05\x12\x02\x10\x06\x99\x01" + bytes(8), "m"
    )
    assert message.integer(1) == -7  # the last one, signed
    assert message.integer(9) == 0 == message.fixed32(9)
    merged = message.message(2)
    assert (merged.integer(1), merged.integer(2)) == (5, 6)
    assert [part.integer(2) for part in message.messages(2)] == [0, 6]
    for accessor in (message.fixed32, message.message, message.messages):
        with pytest.raises(CheckpointError, match="field 1"):
            accessor(1)
    with pytest.raises(CheckpointError, match="field 2 as a varint, found bytes"):
        message.integer(2)
