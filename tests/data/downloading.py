"""What the tests of downloading share: a patient client that waits for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from noetik_rllib.data.download import Downloaded, download
from noetik_rllib.data.transfer import Patience
from noetik_rllib.errors import UserError
from tests.data.mirror import ARCHIVE, TOP, Fault, Mirror, tiny_variant

HALF = len(ARCHIVE) // 2
ETAG = '"v1"'
PART, ORIGIN = f"{TOP}.tar.gz.part", f"{TOP}.tar.gz.part.json"


class Log:
    """Waits asked for and lines shown; nothing is waited for."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.remarks: list[str] = []
        self.doing: list[str] = []

    def get(self, mirror: Mirror, out: Path, **options: object) -> Downloaded:
        variant = options.pop("variant", tiny_variant())
        patience = Patience(**{"wait": self.waits.append, **options.pop("patience", {})})
        return download(
            variant,
            out,
            url=mirror.url,
            patience=patience,
            remark=self.remarks.append,
            progress=lambda doing, done, total: self.doing.append(doing),
            **options,
        )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stop_after(mirror: Mirror, out: Path, size: int) -> None:
    """Leave a part of ``size`` bytes, as a download that gave up does."""
    mirror.faults = [Fault(cut_after=size)]
    with pytest.raises(UserError, match="run the same command again"):
        Log().get(mirror, out, patience={"attempts": 1})
    mirror.faults = []
    assert (out / PART).stat().st_size == size
    mirror.requests.clear()
    mirror.sent.clear()
