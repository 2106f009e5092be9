"""Writing Parquet files of packed row groups: ordinary files, which any reader opens.

Format: https://parquet.apache.org/docs/file-format; the pages are made in ``parquet_pages``.
"""

from __future__ import annotations

import base64
import contextlib
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from noetik_rllib.offline.parquet_pages import (
    BOOLEAN,
    BYTE_ARRAY,
    FLOAT,
    INT32,
    INT64,
    Chunk,
    Field,
    RowGroup,
)
from noetik_rllib.offline.thrift import Struct, encode

_MAGIC = b"PAR1"
_CREATED_BY = "noetik-rllib"

# Enumerations of parquet.thrift.
_REQUIRED, _REPEATED = 0, 2
_LZ4_RAW = 7
_UTF8, _LIST = 0, 3

_ARROW = {
    BOOLEAN: pa.bool_(),
    INT32: pa.int32(),
    INT64: pa.int64(),
    FLOAT: pa.float32(),
    BYTE_ARRAY: pa.string(),
}


def arrow_schema(fields: list[Field]) -> pa.Schema:
    """Return the Arrow schema that readers see: lists keep their fixed size, nothing is null."""
    arrow = []
    for field in fields:
        kind = _ARROW[field.physical]
        if field.width is not None:
            kind = pa.list_(pa.field("element", kind, nullable=False), field.width)
        arrow.append(pa.field(field.name, kind, nullable=False))
    return pa.schema(arrow)


class ParquetFile:
    """A Parquet file that is written row group by row group.

    Args:
        path: file to write.
        fields: its columns.
    """

    def __init__(self, path: Path, fields: list[Field]) -> None:
        self.rows = 0
        self.size = 0
        self.crc32 = 0
        self._fields = fields
        self._groups: list[Any] = []
        self._stream: BinaryIO = path.open("wb")
        self._put(_MAGIC)

    def _put(self, data: bytes) -> None:
        self._stream.write(data)
        self.size += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)

    def write(self, group: RowGroup) -> None:
        """Append a packed row group."""
        columns = []
        begin = self.size
        for chunk in group.chunks:
            columns.append(("struct", _column_chunk(chunk, self.size)))
            for data in chunk.data:
                self._put(data)
        self._groups.append(
            (
                "struct",
                {
                    1: ("list", columns),
                    2: ("i64", sum(chunk.raw_size for chunk in group.chunks)),
                    3: ("i64", group.rows),
                    5: ("i64", begin),
                    6: ("i64", self.size - begin),
                },
            )
        )
        self.rows += group.rows

    def close(self) -> None:
        """Write the footer; without it the file cannot be read."""
        elements = [_root(len(self._fields))]
        for field in self._fields:
            elements += _elements(field)
        schema = arrow_schema(self._fields).serialize().to_pybytes()
        footer = encode(
            {
                1: ("i32", 2),
                2: ("list", [("struct", element) for element in elements]),
                3: ("i64", self.rows),
                4: ("list", self._groups),
                5: (
                    "list",
                    [
                        (
                            "struct",
                            {
                                1: ("binary", b"ARROW:schema"),
                                2: ("binary", base64.b64encode(schema)),
                            },
                        )
                    ],
                ),
                6: ("binary", _CREATED_BY.encode()),
                # Numbers are ordered as numbers: without this, readers ignore low and high.
                7: ("list", [("struct", {1: ("struct", {})})] * len(self._fields)),
            }
        )
        self._put(footer + len(footer).to_bytes(4, "little") + _MAGIC)
        self._stream.close()

    def abort(self) -> None:
        """Close without a footer, after an error."""
        with contextlib.suppress(OSError):  # what is left in the buffer has no place on a full disk
            self._stream.close()


def _root(children: int) -> Struct:
    return {4: ("binary", b"schema"), 5: ("i32", children)}


def _elements(field: Field) -> list[Struct]:
    """Return the schema elements of a column: one, or the three levels of a list."""
    physical, name = ("i32", field.physical), field.name.encode()
    if field.width is not None:
        return [
            {3: ("i32", _REQUIRED), 4: ("binary", name), 5: ("i32", 1), 6: ("i32", _LIST)},
            {3: ("i32", _REPEATED), 4: ("binary", b"list"), 5: ("i32", 1)},
            {1: physical, 3: ("i32", _REQUIRED), 4: ("binary", b"element")},
        ]
    element: Struct = {1: physical, 3: ("i32", _REQUIRED), 4: ("binary", name)}
    if field.physical == BYTE_ARRAY:
        element[6] = ("i32", _UTF8)
    return [element]


def _column_chunk(chunk: Chunk, offset: int) -> Struct:
    """Return the footer's entry for a column that begins at ``offset`` in the file."""
    dictionary_size = sum(map(len, chunk.data[:3])) if chunk.has_dictionary else 0
    name, width = chunk.field.name, chunk.field.width
    path = [name] if width is None else [name, "list", "element"]
    metadata: Struct = {
        1: ("i32", chunk.field.physical),
        2: ("list", [("i32", encoding) for encoding in chunk.encodings]),
        3: ("list", [("binary", part.encode()) for part in path]),
        4: ("i32", _LZ4_RAW),
        5: ("i64", chunk.num_values),
        6: ("i64", chunk.raw_size),
        7: ("i64", chunk.size),
        9: ("i64", offset + dictionary_size),
    }
    if chunk.has_dictionary:
        metadata[11] = ("i64", offset)
    if chunk.low_high is not None:
        low, high = (value.to_bytes(8, "little", signed=True) for value in chunk.low_high)
        # Lets a reader that wants a few users pass over the other row groups.
        metadata[12] = (
            "struct",
            {3: ("i64", 0), 5: ("binary", high), 6: ("binary", low)},
        )
    return {2: ("i64", offset), 3: ("struct", metadata)}
