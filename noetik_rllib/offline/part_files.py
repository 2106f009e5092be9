"""The files of a dataset's parts: rolled over at a size, checksummed, with JSON lines beside."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from noetik_rllib.offline.json_writer import JsonPartWriter
from noetik_rllib.offline.manifest import Part, StoredFile
from noetik_rllib.offline.parquet import ParquetFile
from noetik_rllib.offline.parquet_pages import Field
from noetik_rllib.offline.rows import PartRows
from noetik_rllib.offline.split import PARTS

#: Rows per Parquet file: some 130 MB of states before compression, so that files stay near the
#: 64 to 256 MiB that Ray Data recommends and a learner can take its share by file.
ROWS_PER_FILE = 131_072


class PartFiles:
    """Writes the parts of a dataset into ``folder``, in the order in which their rows come.

    Args:
        folder: of the dataset.
        json: whether to write SampleBatch lines too, to ``folder/json``.
    """

    def __init__(self, folder: Path, *, json: bool) -> None:
        self.folder = folder
        self.reward_sums = dict.fromkeys(PARTS, 0.0)
        self._rows: Counter[str] = Counter()
        self._users: Counter[str] = Counter()
        self._episodes: Counter[str] = Counter()
        self._open: dict[str, ParquetFile] = {}
        self._numbers: Counter[str] = Counter()
        self._fields: list[Field] = []
        self.stored: dict[str, StoredFile] = {}
        for part in PARTS:
            (folder / part).mkdir()
        self._json = (
            {part: JsonPartWriter(folder / "json" / part, ROWS_PER_FILE) for part in PARTS}
            if json
            else {}
        )

    def write(self, rows: PartRows) -> None:
        """Append rows to their part."""
        part = rows.part
        self._fields = rows.group.fields
        if part not in self._open:
            self._open[part] = self._new(part)
        self._open[part].write(rows.group)
        if rows.columns is not None:
            self._json[part].write(rows.columns)
        self._rows[part] += rows.group.rows
        self._users[part] += rows.users
        self._episodes[part] += rows.episodes
        self.reward_sums[part] += rows.reward_sum
        if self._open[part].rows >= ROWS_PER_FILE:
            self._finish(part)

    def _path(self, part: str) -> str:
        return f"{part}/part-{self._numbers[part]:05d}.parquet"

    def _new(self, part: str) -> ParquetFile:
        return ParquetFile(self.folder / self._path(part), self._fields)

    def _finish(self, part: str) -> None:
        file = self._open.pop(part)
        file.close()
        self.stored[self._path(part)] = StoredFile(bytes=file.size, crc32=f"{file.crc32:08x}")
        self._numbers[part] += 1

    def close(self) -> dict[str, Part]:
        """Finish all files and return the parts' sizes; a part without rows gets an empty file."""
        for part in PARTS:
            if not self._numbers[part] and part not in self._open:
                self._open[part] = self._new(part)
        for part in list(self._open):
            self._finish(part)
        for part, lines in self._json.items():
            lines.close()
            for path in sorted((self.folder / "json" / part).iterdir()):
                self.stored[f"json/{part}/{path.name}"] = StoredFile.of(path)
        return {
            part: Part(
                rows=self._rows[part], users=self._users[part], episodes=self._episodes[part]
            )
            for part in PARTS
        }

    def abort(self) -> None:
        """Let go of the open files, after an error."""
        for file in self._open.values():
            file.abort()
        for lines in self._json.values():
            lines.close()
