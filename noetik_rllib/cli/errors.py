"""Running a command: mistakes of the user become one line and exit code 2."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

from noetik_rllib.errors import UserError


def run(command: click.Command, args: Sequence[str] | None = None) -> NoReturn:
    """Run ``command`` and exit: 0 on success, 2 on a mistake of the user, 130 on Ctrl-C.

    A bug keeps its traceback and exits with 1.
    """
    try:
        command.main(args=args, standalone_mode=False)
    except UserError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f" (see '{context.command_path} --help')" if context else ""
        click.echo(f"Error: {error.format_message()}{hint}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        sys.exit(130)
    sys.exit(0)


@contextmanager
def clean_end() -> Iterator[None]:
    """Let SIGTERM clear up as Ctrl-C does, then exit with 143, as a shell has it for SIGTERM."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one shall not cut the clearing up
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
