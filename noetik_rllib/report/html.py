"""What every page of ours has in common: how templates are read, and how a page is written."""

from __future__ import annotations

from pathlib import Path

import jinja2
from markupsafe import Markup

from noetik_rllib.errors import UserError
from noetik_rllib.io import atomic_path

REPORT_NAME = "report.html"
_FOLDER = Path(__file__).parent


def templates() -> jinja2.Environment:
    """Return the environment of our templates; everything is escaped but what is ``trusted``."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Our own files, plots whose every text went through the SVG writer, and escaped JSON.
    environment.filters["trusted"] = Markup
    return environment


def read(name: str) -> str:
    """Return a file of this folder as text."""
    return (_FOLDER / name).read_text(encoding="utf-8")


def write_page(page: str, directory: Path) -> Path:
    """Write ``report.html`` of a folder, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    path = directory / REPORT_NAME
    try:
        with atomic_path(path) as part:
            part.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    return path
