"""One large file over HTTP: continued where it was cut, its size and md5 checked as it comes."""

from __future__ import annotations

import errno
import hashlib
import http.client
import re
import shutil
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from rich.filesize import decimal

from noetik_rllib.data.part import BLOCK, Origin, Part
from noetik_rllib.errors import UserError

#: Called with what is being done, bytes done, and bytes in all where they are known.
ByteProgress = Callable[[str, int, "int | None"], None]
#: Called with one line that the user should see.
Remark = Callable[[str], None]

_TOO_EARLY = 425  # http.HTTPStatus knows it, http.client has no constant in Python 3.10
_TRY_AGAIN = {http.client.REQUEST_TIMEOUT, _TOO_EARLY, http.client.TOO_MANY_REQUESTS}
_GONE = {http.client.NOT_FOUND, http.client.GONE}


@dataclass(frozen=True)
class Patience:
    """How long a transfer goes on trying; times in seconds.

    Attributes:
        attempts: tries in a row that brought nothing new, after which it gives up.
        first_attempts: as ``attempts``, while nobody is there at all (an unknown host, a refused
            connection, no network) and nobody has been since the start: most likely a wrong
            address, or a machine that is offline.
        first_wait: before the second try; it doubles with every further one.
        longest_wait: bound of that doubling.
        longest_retry_after: a server that asks for a longer pause is not waited for.
        timeout: silence after which a connection counts as cut.
        wait: how to wait.
    """

    attempts: int = 6
    first_attempts: int = 2
    first_wait: float = 1.0
    longest_wait: float = 60.0
    longest_retry_after: float = 300.0
    timeout: float = 60.0
    wait: Callable[[float], None] = time.sleep


class _TryAgainError(Exception):
    """The transfer stopped, and may well go on the next time; the message says why it stopped."""

    def __init__(
        self, reason: str, retry_after: float | None = None, *, is_absent: bool = False
    ) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        #: Whether nobody was there at all, now or since the start.
        self.is_absent = is_absent


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, but never from an encrypted connection to a plain one."""

    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> Request | None:
        before, after = (urlsplit(url).scheme for url in (req.full_url, newurl))
        if after not in ("http", "https") or (before == "https" and after == "http"):
            raise UserError(
                f"{req.full_url} redirects from {before} to {after}: not followed, "
                "try another --url"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def check_room(folder: Path, needed: int, what: str) -> None:
    """Require ``needed`` bytes to be free in the file system of ``folder``.

    Raises:
        UserError: there is less.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {decimal(free)} free, expected {decimal(needed)} for {what}: "
            "make room, or choose another --out"
        )


def file_md5(path: Path, progress: ByteProgress) -> str:
    """Return the md5 of a file, in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    size, done = path.stat().st_size, 0
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            done += len(block)
            progress(f"checking {path.name}", done, size)
    return digest.hexdigest()


def fetch(
    url: str,
    target: Path,
    md5: str,
    *,
    reserve: int = 0,
    patience: Patience | None = None,
    progress: ByteProgress = lambda doing, done, total: None,
    remark: Remark = lambda line: None,
) -> int:
    """Download ``url`` to ``target``, continuing ``TARGET.part`` if it is there.

    A part is continued with a Range request, on condition (If-Range) that the server still has
    the file it was begun with; a server that sends the whole file instead starts it over. What
    has come is kept whatever happens, except where the whole file has the wrong md5.

    Args:
        url: http or https address.
        target: file to write; it appears only when it is whole and right.
        md5: expected checksum, in hexadecimal. It is the proof of what came, from whatever mirror.
        reserve: bytes that must be free beside the file itself.
        patience: how often and how long to try; the default suits a person who waits.
        progress: called for every block.
        remark: called when a connection was cut, and the like.

    Returns:
        Bytes that came over the network.

    Raises:
        UserError: no such file, no such server, wrong checksum, no room, or patience at its end.
    """
    patience = patience or Patience()
    with Part(target) as part:
        part.read_back(lambda done, total: progress(f"checking {part.path.name}", done, total))
        transfer = _Transfer(
            url,
            part,
            timeout=patience.timeout,
            reserve=reserve,
            progress=progress,
            remark=remark,
        )
        if part.md5 != md5 and not part.is_complete:
            if part.size:
                remark(f"{target.name}: going on after {decimal(part.size)}")
            _persist(transfer, patience, remark)
        if part.md5 != md5:
            part.remove()
            raise UserError(
                f"{target.name} has md5 {part.md5}, expected {md5}: what came is another file or "
                "damaged, and is removed; run the same command again, or try another --url"
            )
        part.finish()
    return transfer.received


def _persist(transfer: _Transfer, patience: Patience, remark: Remark) -> None:
    """Try until the file is whole, with growing waits while tries in a row bring nothing new."""
    failures, most = 0, transfer.part.size
    while True:
        try:
            transfer.attempt()
            return
        except _TryAgainError as interruption:
            if transfer.part.size > most:
                failures, most = 0, transfer.part.size
            failures += 1
            reason, asked = str(interruption), interruption.retry_after or 0.0
            is_absent = interruption.is_absent
        name = transfer.part.target.name
        kept = "nothing has come, run the same command again"
        if transfer.part.size:
            kept = f"{decimal(transfer.part.size)} are kept, run the same command again to go on"
        if asked > patience.longest_retry_after:
            raise UserError(f"{name}: {reason} and asks to wait {asked:.0f} s: {kept} after that")
        if is_absent and failures >= patience.first_attempts:
            raise UserError(
                f"{name}: {reason}, {failures} times in a row: check --url and the network; {kept}"
            )
        if failures >= patience.attempts:
            raise UserError(f"{name}: {reason}, {failures} times in a row: {kept}")
        pause = min(patience.first_wait * 2 ** (failures - 1), patience.longest_wait)
        pause = max(pause, asked)
        remark(f"{name}: {reason}; trying again in {pause:.0f} s")
        patience.wait(pause)


class _Transfer:
    """Tries to bring the rest of one part from one address."""

    def __init__(
        self,
        url: str,
        part: Part,
        *,
        timeout: float,
        reserve: int,
        progress: ByteProgress,
        remark: Remark,
    ) -> None:
        self.url, self.part = url, part
        self.received = 0
        self._has_answered = False
        self._host = urlsplit(url).hostname
        self._timeout, self._reserve = timeout, reserve
        self._progress, self._remark = progress, remark
        self._opener = OpenerDirector()
        # Not build_opener: it would read file:// and ftp:// addresses too.
        for handler in (
            ProxyHandler(),
            HTTPHandler(),
            HTTPSHandler(),
            HTTPDefaultErrorHandler(),
            HTTPErrorProcessor(),
            _Redirects(),
        ):
            self._opener.add_handler(handler)

    def attempt(self) -> None:
        """Bring what is missing.

        Raises:
            _TryAgainError: something is still missing.
            UserError: it would be missing the next time too.
        """
        with self._open() as response:
            if response.status == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                self._settle(response)
                return
            size = self._begin(response)
            check_room(
                self.part.target.parent,
                (size or self.part.size) - self.part.size + self._reserve,
                f"the rest of {self.part.target.name} and what it unpacks to",
            )
            self._pour(response, size)
        if size is not None and self.part.size < size:
            raise _TryAgainError(f"the connection to {self._host} was cut")

    def _open(self) -> Any:
        headers = {
            "User-Agent": "noetik-rllib",
            "Accept-Encoding": "identity",
            **self.part.continuation(self.url),
        }
        try:
            response = self._opener.open(Request(self.url, headers=headers), timeout=self._timeout)
            self._has_answered = True
            return response
        except HTTPError as error:
            self._has_answered = True
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and self.part.size:
                return error
            with error:
                raise self._refused(error.code, error.headers) from None
        except (OSError, http.client.HTTPException) as error:
            reason = error.reason if isinstance(error, URLError) else error
            if isinstance(reason, ssl.SSLCertVerificationError):
                raise UserError(
                    f"{self._host}: its certificate cannot be verified ({reason.verify_message}); "
                    "check the clock and the certificates of this machine, or --url"
                ) from None
            raise _TryAgainError(
                f"{self._host} cannot be reached ({_cause(reason)})",
                is_absent=_is_absence(reason) and not self._has_answered,
            ) from None

    def _refused(self, code: int, headers: Message[str, str]) -> Exception:
        """What an HTTP status that brings no file means."""
        said = f"{code} {http.client.responses.get(code, '')}".rstrip()
        if code in _TRY_AGAIN or code >= http.client.INTERNAL_SERVER_ERROR:
            return _TryAgainError(f"{self._host} answered {said}", _retry_after(headers))
        if code in _GONE:
            return UserError(f"{self.url} is not there ({said}): check --url")
        return UserError(f"{self.url} cannot be had ({said}): check --url")

    def _begin(self, response: Any) -> int | None:
        """Put the part where the body starts; return the size of the whole file, if it is said."""
        if response.status == http.client.PARTIAL_CONTENT:
            found = re.fullmatch(
                r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", "").strip()
            )
            size = int(found[2]) if found and found[2] != "*" else None
            known = self.part.origin.size
            if not found or int(found[1]) != self.part.size or (size and known and size != known):
                self.part.restart()
                raise _TryAgainError(f"{self._host} has another file now, starting over")
            size = size or known
        elif response.status == http.client.OK:
            if self.part.size:
                self._remark(f"{self._host} sends {self.part.target.name} whole: starting over")
                self.part.restart()
            length = response.headers.get("Content-Length", "")
            size = int(length) if re.fullmatch(r"\d{1,15}", length) else None
        else:
            raise UserError(f"{self.url} cannot be had ({response.status}): check --url")
        self.part.begin(
            Origin(
                url=self.url,
                etag=response.headers.get("ETag"),
                last_modified=response.headers.get("Last-Modified"),
                size=size,
            )
        )
        return size

    def _settle(self, response: Any) -> None:
        """Nothing lies after the part: it is whole, or begun with another file."""
        content_range = response.headers.get("Content-Range", "").strip()
        if content_range != f"bytes */{self.part.size}":
            self.part.restart()
            raise _TryAgainError(f"{self._host} has another file now, starting over")

    def _pour(self, response: Any, size: int | None) -> None:
        while size is None or self.part.size < size:
            missing = BLOCK if size is None else min(BLOCK, size - self.part.size)
            try:
                block = response.read1(missing)
            except (OSError, http.client.HTTPException) as error:
                raise _TryAgainError(
                    f"the connection to {self._host} was cut ({_cause(error)})"
                ) from None
            if not block:
                return
            self.part.append(block)
            self.received += len(block)
            self._progress(f"downloading {self.part.target.name}", self.part.size, size)


def _is_absence(error: object) -> bool:
    """Whether an error says that nobody is there, which seconds of waiting seldom mend."""
    if isinstance(error, (ConnectionRefusedError, socket.gaierror)):
        return True
    return isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)


def _cause(error: object) -> str:
    """What a system's or a library's error says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _retry_after(headers: Message[str, str]) -> float | None:
    """Seconds that a server asks to wait, from a number or a date; None where it says neither."""
    text = (headers.get("Retry-After") or "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())
