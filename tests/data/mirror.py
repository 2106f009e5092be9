"""A real HTTP server for one file, which can be told to misbehave, and archives to serve."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import re
import socket
import ssl
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from noetik_rllib.data.download import Variant

TOP = "KuaiRand-Tiny"
FILES = {
    "LICENSE": b"CC BY-SA 4.0\n",
    # Bytes that do not shrink, so that the archive is longer than what the tests cut off.
    "data/log_standard_4_08_to_4_21_tiny.csv": b"".join(
        hashlib.sha256(str(number).encode()).digest() for number in range(10_000)
    ),
    "data/log_standard_4_22_to_5_08_tiny.csv": b"user_id,video_id\n1,2\n",
    "data/log_random_4_22_to_5_08_tiny.csv": b"user_id,video_id\n1,3\n",
    "data/user_features_tiny.csv": b"user_id\n1\n",
    "data/video_features_basic_tiny.csv": b"video_id\n2\n3\n",
}


def make_archive(files: dict[str, bytes], top: str = TOP) -> bytes:
    """Return a ``.tar.gz`` of files below ``top``, with their folders, as the published ones."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        folders = {top} | {f"{top}/{name}".rpartition("/")[0] for name in files}
        for folder in sorted(folders):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0)  # the same bytes in every process


ARCHIVE = make_archive(FILES)


def tiny_variant(archive: bytes = ARCHIVE) -> Variant:
    """The variant whose published archive would be this one."""
    return Variant(TOP, hashlib.md5(archive).hexdigest(), sum(map(len, FILES.values())))


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer.

    Attributes:
        status: answer with this status and no file.
        headers: sent in addition, or in place of the right ones.
        cut_after: close the connection after so many bytes of the body.
        reset: close it as a crashing machine would.
        stall_after: send nothing more after so many bytes, until the server stops.
        whole: ignore the Range header.
        unannounced: do not say how long the body is.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    reset: bool = False
    stall_after: int | None = None
    whole: bool = False
    unannounced: bool = False


@dataclass
class Mirror:
    """The file served at every path; ``faults`` go to the first requests, one each.

    ``requests`` holds the headers of every request, ``sent`` the bytes of bodies sent for each;
    ``asked`` is set from the first request on.
    """

    content: bytes = ARCHIVE
    etag: str | None = '"v1"'
    last_modified: str | None = "Wed, 27 Dec 2023 10:00:00 GMT"
    faults: list[Fault] = field(default_factory=list)
    url: str = ""
    requests: list[dict[str, str]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def ranges(self) -> list[str | None]:
        """The Range header of every request."""
        return [headers.get("Range") for headers in self.requests]


class _Handler(BaseHTTPRequestHandler):
    mirror: Mirror

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on stderr."""

    def do_GET(self) -> None:
        """Answer as HTTP asks for, save for the fault."""
        mirror = self.mirror
        number = len(mirror.requests)
        mirror.requests.append(dict(self.headers.items()))
        mirror.sent.append(0)
        mirror.asked.set()
        fault = mirror.faults[number] if number < len(mirror.faults) else Fault()
        status, headers, body = self._answer(fault)
        self.send_response(status)
        for name, value in (headers | fault.headers).items():
            self.send_header(name, value)
        self.end_headers()
        end = min([len(body), *(n for n in (fault.cut_after, fault.stall_after) if n is not None)])
        # The other side may have gone: a stalled client hangs up, a killed one too.
        with contextlib.suppress(OSError):
            mirror.sent[number] = end  # before the last byte lets the other side look at it
            self.wfile.write(body[:end])
            if fault.stall_after is not None:
                mirror.released.wait()
            if fault.reset:
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True

    def _answer(self, fault: Fault) -> tuple[int, dict[str, str], bytes]:
        mirror, size = self.mirror, len(self.mirror.content)
        if fault.status is not None:
            return fault.status, {"Content-Length": "0"}, b""
        headers = {"ETag": mirror.etag, "Last-Modified": mirror.last_modified}
        present = {name: value for name, value in headers.items() if value is not None}
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        if condition not in (None, *present.values()) or fault.whole:
            asked = None
        if not asked:
            length = {} if fault.unannounced else {"Content-Length": str(size)}
            return 200, present | length, mirror.content
        start = int(asked[1])
        if start >= size:
            return 416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"}, b""
        present["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        present["Content-Length"] = str(size - start)
        return 206, present, mirror.content[start:]


@contextlib.contextmanager
def serve(mirror: Mirror, certificate: Path | None = None) -> Iterator[Mirror]:
    """Serve it on this machine, encrypted if there is a certificate."""
    handler = type("Handler", (_Handler,), {"mirror": mirror})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    scheme = "http"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    mirror.url = f"{scheme}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield mirror
    finally:
        mirror.released.set()
        server.shutdown()
        server.server_close()  # waits for the threads of requests
        thread.join()
