"""Protocol Buffers' wire format, as much of it as checkpoint indexes use.

Source: https://protobuf.dev/programming-guides/encoding/. A message is taken apart without its schema;
the caller asks for fields by number and kind. Groups, long deprecated, are refused. The last two functions
write: fields one after another are a message.
"""

from __future__ import annotations

from dataclasses import dataclass

from porting.errors import CheckpointError, Problem

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_WIRE_NAMES = {_VARINT: "a varint", _FIXED64: "8 fixed bytes", _BYTES: "bytes", _FIXED32: "4 fixed bytes"}


def read_varint(data: bytes, position: int, where: str, bits: int = 64) -> tuple[int, int]:
    """Decode one base-128 varint.

    Args:
        data: the bytes around it.
        position: where it begins.
        where: what is being read, for the error.
        bits: the largest width that is accepted; 64 means at most ten bytes.

    Returns:
        The unsigned value, and the position behind it.

    Raises:
        CheckpointError: it runs past the end, or is wider than `bits`.
    """
    # Most varints in an index are one byte.
    if position < len(data) and data[position] < 0x80:
        return data[position], position + 1
    value = 0
    for shift in range(0, bits, 7):
        if position >= len(data):
            raise _malformed(where, "a complete varint", "the end of the data")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> bits:
                break
            return value, position
    raise _malformed(where, f"a varint of at most {bits} bits", "a longer one")


@dataclass(frozen=True)
class Message:
    """A message taken apart: for each field number the values seen, in order, with their wire types.

    Every accessor returns proto3's default where the field is absent, and raises CheckpointError where it
    has another wire type than asked for.
    """

    where: str
    fields: dict[int, list[tuple[int, int | bytes]]]

    @classmethod
    def parse(cls, data: bytes, where: str) -> Message:
        """Take `data` apart.

        Args:
            data: the encoded message.
            where: what it belongs to, for errors.

        Raises:
            CheckpointError: it is malformed.
        """
        fields: dict[int, list[tuple[int, int | bytes]]] = {}
        position = 0
        value: int | bytes
        while position < len(data):
            tag, position = read_varint(data, position, where, bits=32)
            number, wire_type = tag >> 3, tag & 7
            if not number:
                raise _malformed(where, "a field number above 0", "0")
            if wire_type == _VARINT:
                value, position = read_varint(data, position, where)
            else:
                if wire_type == _BYTES:
                    size, position = read_varint(data, position, where, bits=32)
                elif wire_type in _FIXED_SIZES:
                    size = _FIXED_SIZES[wire_type]
                else:
                    raise _malformed(where, "wire type 0, 1, 2 or 5", str(wire_type))
                value = data[position : position + size]
                position += size
                if position > len(data):
                    raise _malformed(where, f"field {number} of {size} bytes", "the end of the data")
                if wire_type != _BYTES:
                    value = int.from_bytes(value, "little")
            fields.setdefault(number, []).append((wire_type, value))
        return cls(where, fields)

    def count(self, number: int) -> int:
        """How often a field occurs."""
        return len(self.fields.get(number, ()))

    def integer(self, number: int) -> int:
        """Value of an int32, int64, bool or enum field: signed, the last one if it is there repeatedly."""
        value = self._last_number(number, _VARINT)
        return value - (1 << 64) if value >> 63 else value

    def fixed32(self, number: int) -> int:
        """Value of a fixed32 field, unsigned."""
        return self._last_number(number, _FIXED32)

    def bytes_of(self, number: int) -> bytes:
        """Value of a singular string or bytes field: the last one if it is there repeatedly."""
        found = self._all_bytes(number)
        return found[-1] if found else b""

    def all_bytes_of(self, number: int) -> list[bytes]:
        """Values of a repeated string, bytes or message field."""
        return self._all_bytes(number)

    def message(self, number: int) -> Message:
        """Value of a singular message field; empty if absent.

        Protocol Buffers merges the occurrences of such a field, and joining their bytes is what merges.
        """
        return Message.parse(b"".join(self._all_bytes(number)), self.where)

    def messages(self, number: int) -> list[Message]:
        """Values of a repeated message field."""
        return [Message.parse(data, self.where) for data in self._all_bytes(number)]

    def _last_number(self, number: int, wire_type: int) -> int:
        found = 0
        for actual, value in self.fields.get(number, ()):
            if actual != wire_type or isinstance(value, bytes):
                raise self._wrong_type(number, wire_type, actual)
            found = value
        return found

    def _all_bytes(self, number: int) -> list[bytes]:
        found = []
        for actual, value in self.fields.get(number, ()):
            if not isinstance(value, bytes):
                raise self._wrong_type(number, _BYTES, actual)
            found.append(value)
        return found

    def _wrong_type(self, number: int, expected: int, found: int) -> CheckpointError:
        return _malformed(self.where, f"field {number} as {_WIRE_NAMES[expected]}", _WIRE_NAMES[found])


def _malformed(where: str, expected: str, found: str) -> CheckpointError:
    return CheckpointError(f"{where} is corrupt", problems=[Problem(where, expected, found)])


def encode_varint(value: int) -> bytes:
    """A base-128 varint: seven bits a byte, the lowest first, the top bit set in all but the last.

    Example: encode_varint(300) == b"\xac\x02"; a negative int64 takes ten bytes.
    """
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_field(number: int, value: int | bytes, *, fixed32: bool = False) -> bytes:
    """One field: bytes or a message as they are, an integer as a varint or as 4 fixed bytes.

    It is written whatever its value: proto3's writers leave 0 out, which is the caller's business.
    """
    if isinstance(value, bytes):
        return encode_varint(number << 3 | _BYTES) + encode_varint(len(value)) + value
    if fixed32:
        return encode_varint(number << 3 | _FIXED32) + value.to_bytes(4, "little")
    return encode_varint(number << 3 | _VARINT) + encode_varint(value)
