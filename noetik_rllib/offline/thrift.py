"""Thrift's compact protocol, as far as Parquet's footers and page headers need it.

Specification: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any

#: A struct: field id -> (type, value). Types: "bool", "i32", "i64", "binary", "list", "struct";
#: a list's value is a list of such pairs, all of one type.
Struct = dict[int, tuple[str, Any]]

_CODES = {"i32": 5, "i64": 6, "binary": 8, "list": 9, "struct": 12}
_TRUE, _FALSE = 1, 2


def encode(struct: Struct) -> bytes:
    """Return the bytes of a struct.

    >>> encode({1: ("i32", 3), 3: ("binary", b"ab")}).hex()
    '15062802616200'
    """
    out = bytearray()
    _struct(out, struct)
    return bytes(out)


def varint(value: int) -> bytes:
    """Return a whole number of 0 or more in groups of seven bits, the lowest first.

    >>> varint(300).hex()
    'ac02'
    """
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _struct(out: bytearray, struct: Struct) -> None:
    last = 0
    for field in sorted(struct):
        kind, value = struct[field]
        # A truth value lives in the field's own header.
        code = (_TRUE if value else _FALSE) if kind == "bool" else _CODES[kind]
        if not 0 < field - last < 16:
            raise ValueError(f"field {field} after {last}: Parquet has no such gap")
        out.append((field - last) << 4 | code)
        if kind != "bool":
            _value(out, kind, value)
        last = field
    out.append(0)


def _value(out: bytearray, kind: str, value: Any) -> None:
    if kind in ("i32", "i64"):
        out.extend(varint(value << 1 if value >= 0 else (-value << 1) - 1))  # zigzag
    elif kind == "binary":
        out.extend(varint(len(value)))
        out.extend(value)
    elif kind == "struct":
        _struct(out, value)
    else:
        inner = value[0][0] if value else "struct"
        if len(value) < 15:
            out.append(len(value) << 4 | _CODES[inner])
        else:
            out.append(0xF0 | _CODES[inner])
            out.extend(varint(len(value)))
        for _, item in value:
            _value(out, inner, item)
