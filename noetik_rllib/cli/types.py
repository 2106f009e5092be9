"""Types of the commands' options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from noetik_rllib.places import is_uri


class _FilePath(click.Path):
    """A path that is not empty: ``--out ""`` is a forgotten shell variable, not this folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value) == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


class _Place(_FilePath):
    """A path, or a URI, which stays text: ``Path("s3://x")`` is ``s3:/x``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, str) and is_uri(value):
            return value
        return super().convert(value, param, ctx)


class _Uri(click.ParamType):
    """A URI."""

    name = "uri"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_uri(value):
            self.fail(f"'{value}' is no URI such as s3://bucket/runs/name", param, ctx)
        return str(value)


PATH = _FilePath(path_type=Path)
PLACE = _Place(path_type=Path)
URI = _Uri()
#: Seeds of NumPy and RLlib.
SEED = click.IntRange(0, 2**32 - 1)
