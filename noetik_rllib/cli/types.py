"""Types of the commands' options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click


class _FilePath(click.Path):
    """A path that is not empty: ``--out ""`` is a forgotten shell variable, not this folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value) == "":
            self.fail("the path is empty", param, ctx)
        return super().convert(value, param, ctx)


PATH = _FilePath(path_type=Path)
#: Seeds of NumPy and RLlib.
SEED = click.IntRange(0, 2**32 - 1)
