"""What our Parquet writer writes, PyArrow reads: the same values, types, checksums and footers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from noetik_rllib.offline.columns import column_to_numpy
from noetik_rllib.offline.parquet import ParquetFile
from noetik_rllib.offline.parquet_pages import Column, Flags, Lists, Repeated, pack
from noetik_rllib.offline.thrift import Struct, encode

DTYPES = (np.dtype(bool), np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.float32))
reuses_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def groups(draw: st.DrawFn) -> list[dict[str, Column]]:
    """Up to three row groups of the same few columns of every kind."""
    kinds = draw(
        st.lists(
            st.sampled_from(["plain", "lists", "flags", "text", "constant"]), min_size=1, max_size=5
        )
    )
    dtypes = [draw(st.sampled_from(DTYPES)) for _ in kinds]
    widths = [draw(st.sampled_from([1, 2, 3, 128])) for _ in kinds]
    text = draw(st.text(max_size=20))
    result = []
    for _ in range(draw(st.integers(0, 3))):
        rows = draw(st.sampled_from([1, 2, 7, 8, 9, 300, 4_096, 4_097]))
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        columns: dict[str, Column] = {}
        for number, (kind, dtype, width) in enumerate(zip(kinds, dtypes, widths, strict=True)):
            name = f"c{number}"
            if kind == "lists":
                wide = dtype if dtype != np.dtype(bool) else np.dtype(np.float32)
                extreme = draw(npst.arrays(wide, (2, width)))
                distinct = np.concatenate([extreme, rng.integers(0, 9, (3, width)).astype(wide)])
                columns[name] = Lists(distinct, rng.integers(0, len(distinct), rows))
            elif kind == "flags":
                columns[name] = Flags(rng.integers(0, 2, rows).astype(np.float32))
            elif kind == "text":
                columns[name] = Repeated(text, rows)
            elif kind == "constant":
                columns[name] = Repeated(draw(npst.from_dtype(np.dtype(np.float32))), rows)
            else:
                values = draw(npst.arrays(dtype, 4))
                columns[name] = values[rng.integers(0, 4, rows)]
        result.append(columns)
    return result


def values_of(column: Column) -> np.ndarray:
    if isinstance(column, Lists):
        return column.distinct[column.index]
    if isinstance(column, Flags):
        return column.values
    if isinstance(column, Repeated):
        return np.full(column.rows, column.value)
    return column


@reuses_folder
@given(groups())
def test_pyarrow_reads_what_was_packed(tmp_path: Path, written: list[dict[str, Column]]) -> None:
    """Fails if a number, its type or a page's checksum comes back as another one."""
    path = tmp_path / "file.parquet"
    packed = [pack(columns) for columns in written]
    fields = packed[0].fields if packed else pack({"c0": np.zeros(1, np.int64)}).fields
    file = ParquetFile(path, fields)
    for group in packed:
        file.write(group)
    file.close()
    assert file.size == path.stat().st_size
    table = pq.read_table(path, page_checksum_verification=True)
    metadata = pq.read_metadata(path)
    assert metadata.num_row_groups == len(written)
    assert len(table) == metadata.num_rows == sum(group.rows for group in packed)
    for name in written[0] if written else ():
        expected = np.concatenate([values_of(columns[name]) for columns in written])
        found = column_to_numpy(table[name])
        assert table[name].null_count == 0
        if isinstance(written[0][name], Repeated) and isinstance(written[0][name].value, str):
            assert pa.types.is_string(table[name].type)
            assert found.tolist() == expected.tolist()
        else:
            assert found.dtype == expected.dtype
            # Bit by bit: a NaN is itself, and -0.0 is not 0.0.
            assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


def test_the_footer_says_what_is_in_the_pages(tmp_path: Path) -> None:
    """Fails if a reader that goes by the footer would skip, misread or refuse a column."""
    rows = 5_000
    ids = np.arange(rows, dtype=np.int64) - 17
    states = Lists(np.ones((2, 3), np.float32), np.zeros(rows, np.int64))
    columns: dict[str, Column] = {"id": ids, "state": states, "agent": Repeated("a", rows)}
    group = pack(columns)
    file = ParquetFile(tmp_path / "file.parquet", group.fields)
    file.write(group)
    file.close()
    metadata = pq.read_metadata(tmp_path / "file.parquet")
    assert metadata.created_by == "noetik-rllib"
    number, state, agent = (metadata.row_group(0).column(place) for place in range(3))
    assert (number.statistics.min, number.statistics.max) == (-17, rows - 18)
    assert number.statistics.null_count == 0
    assert [c.num_values for c in (number, state, agent)] == [rows, 3 * rows, rows]
    assert [c.compression for c in (number, state, agent)] == ["LZ4"] * 3
    assert state.path_in_schema == "state.list.element"
    assert agent.has_dictionary_page
    assert agent.dictionary_page_offset < agent.data_page_offset
    assert number.file_offset + number.total_compressed_size == state.data_page_offset
    wanted = pq.read_table(tmp_path / "file.parquet", filters=[("id", "=", 7)])
    assert wanted["id"].to_pylist() == [7]


def test_a_flipped_bit_in_a_page_is_noticed(tmp_path: Path) -> None:
    """Fails if a reader that verifies checksums reads damaged states."""
    rng = np.random.default_rng(0)
    group = pack({"state": Lists(rng.random((64, 128), dtype=np.float32), np.arange(64))})
    path = tmp_path / "file.parquet"
    file = ParquetFile(path, group.fields)
    file.write(group)
    file.close()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)


def test_columns_that_do_not_fit_together_are_refused() -> None:
    """Fails if a row group of columns of two lengths, or of none, is written."""
    for lengths in ((2, 3), (0, 0)):
        columns: dict[str, Column] = {
            str(place): np.zeros(rows, np.int64) for place, rows in enumerate(lengths)
        }
        with pytest.raises(ValueError, match="columns of one length"):
            pack(columns)


class _Decoder:
    """Reads Thrift's compact protocol, written from its specification alone."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    def byte(self) -> int:
        self.place += 1
        return self.data[self.place - 1]

    def varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def value(self, code: int) -> Any:
        if code in (5, 6):
            number = self.varint()
            return (number >> 1) ^ -(number & 1)
        if code == 8:
            size = self.varint()
            self.place += size
            return self.data[self.place - size : self.place]
        if code == 12:
            return self.struct()
        header = self.byte()
        size = header >> 4 if header >> 4 < 15 else self.varint()
        return [self.value(header & 15) for _ in range(size)]

    def struct(self) -> dict[int, Any]:
        fields, last = {}, 0
        while header := self.byte():
            last += header >> 4
            code = header & 15
            fields[last] = code == 1 if code in (1, 2) else self.value(code)
        return fields


_SIMPLE = st.one_of(
    st.tuples(st.just("i32"), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just("i64"), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just("binary"), st.binary(max_size=300)),
)
_LISTS = st.lists(st.tuples(st.just("i64"), st.integers(-9, 2**40)), max_size=40)


def _structs(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Struct]:
    return st.dictionaries(st.integers(1, 15), values, max_size=6)


_STRUCTS = _structs(
    st.recursive(
        _SIMPLE | st.tuples(st.just("bool"), st.booleans()) | st.tuples(st.just("list"), _LISTS),
        lambda inner: st.tuples(st.just("struct"), _structs(inner)),
        max_leaves=8,
    )
)


def _plain(kind: str, value: Any) -> Any:
    if kind == "struct":
        return {field: _plain(*item) for field, item in value.items()}
    return [_plain(*item) for item in value] if kind == "list" else value


@given(_STRUCTS)
def test_thrift_comes_back_by_the_specification(struct: Struct) -> None:
    """Fails if a footer or page header says something else than what was meant."""
    decoder = _Decoder(encode(struct))
    assert decoder.struct() == _plain("struct", struct)
    assert decoder.place == len(decoder.data)
