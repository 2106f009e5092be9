"""The exceptions for mistakes of the user, as opposed to bugs of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the user: the message is one clear line that says what to do.

    The command line prints it without a traceback and exits with code 2. Anything else that
    escapes is a bug and keeps its traceback.
    """


class NoEvidenceError(UserError):
    """A dataset lacks what a figure is made from.

    Where that figure alone is asked for, it is a mistake; among others, the figure is left out and
    the message says why.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
