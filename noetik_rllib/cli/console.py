"""What every command prints with: progress on stderr, results on stdout."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

#: Results. Plain text when piped; tables keep their columns there.
out = Console()
#: Progress and remarks, so that stdout holds the result alone (``--json`` can be piped).
err = Console(stderr=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[str, float], None]]:
    """Show a bar with the time left; yields ``update(doing, share)`` with ``share`` from 0 to 1.

    Where stderr is no terminal (a log file, CI), one line is printed for every new ``doing``.
    """
    if not err.is_terminal:
        seen: set[str] = set()

        def log_line(doing: str, share: float) -> None:
            if doing not in seen:
                seen.add(doing)
                err.print(f"{what}: {doing}", highlight=False, soft_wrap=True)

        yield log_line
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=1.0)

        def update(doing: str, share: float) -> None:
            bar.update(task, description=f"{what}: {doing}", completed=share)

        yield update


class _Messages(logging.Handler):
    """Prints log messages as they are, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(record.getMessage(), highlight=False, markup=False, soft_wrap=True)


@contextmanager
def cluster_messages() -> Iterator[None]:
    """Show what happens to a run's hosts and learners."""
    log, handler = logging.getLogger("noetik_rllib.cluster"), _Messages()
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
