"""Where something is: a folder of this machine, or a URI such as ``s3://bucket/sweeps``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator

_URI = re.compile(r"[a-z][a-z0-9+.-]*://.+")


def is_uri(text: str) -> bool:
    """Whether a text is a URI."""
    return _URI.fullmatch(text) is not None


def below(uri: str, name: str) -> str:
    """Return the URI of what is called ``name`` in the folder that a URI names.

    >>> below("s3://bucket/sweeps/?endpoint_override=localhost:9000", "trials/0000")
    's3://bucket/sweeps/trials/0000?endpoint_override=localhost:9000'
    """
    folder, mark, query = uri.partition("?")
    return f"{folder.rstrip('/')}/{name}{mark}{query}"


def split(uri: str) -> tuple[str, str]:
    """Return the URI of the folder that a URI lies in, and its name there: undoes ``below``.

    >>> split("s3://bucket/sweeps/smoke/?endpoint_override=localhost:9000")
    ('s3://bucket/sweeps?endpoint_override=localhost:9000', 'smoke')
    """
    path, mark, query = uri.partition("?")
    folder, _, name = path.rstrip("/").rpartition("/")
    return f"{folder}{mark}{query}", name


def _place(value: Any) -> Path | str:
    """A URI stays text: ``Path("s3://x")`` is ``s3:/x``."""
    if isinstance(value, str):
        value = value if is_uri(value) else Path(value)
    elif not isinstance(value, Path):
        raise ValueError(f"{value!r} is neither a folder nor a URI")
    if isinstance(value, Path) and ":/" in str(value):
        raise ValueError(f"{value} is neither a folder nor a URI such as s3://bucket/name")
    return value


#: A setting that is a ``Path``, or a URI as text. (Before pydantic's own check of JSON, which takes
#: no ``Path``, nothing may be put.)
Place = Annotated[Path | str, PlainValidator(_place)]
