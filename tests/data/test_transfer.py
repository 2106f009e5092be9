"""What has come is kept and continued, against a real server that misbehaves."""

from __future__ import annotations

import contextlib
import hashlib
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import pytest

from noetik_rllib.data.part import Part
from noetik_rllib.errors import UserError
from tests.data.downloading import ETAG, HALF, ORIGIN, PART, Log, contents, names, stop_after
from tests.data.mirror import ARCHIVE, FILES, TOP, Fault, Mirror, make_archive, serve, tiny_variant


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_connection_costs_only_the_rest(reset: bool, mirror: Mirror, tmp_path: Path) -> None:
    """Fails if bytes that came are asked for twice, or of another version of the file."""
    mirror.faults = [Fault(cut_after=HALF, reset=reset)]
    log = Log()
    log.get(mirror, tmp_path)
    assert contents(tmp_path / TOP) == FILES
    first, second = mirror.requests
    assert "Range" not in first
    start = int(second["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= HALF
    if not reset:  # a reset may throw away what was on its way
        assert start == HALF
        assert sum(mirror.sent) == len(ARCHIVE)
    assert second["If-Range"] == ETAG
    assert log.waits == [1.0]
    assert "was cut" in log.remarks[0]


def test_giving_up_keeps_the_part_and_the_next_call_goes_on(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a download of hours is lost with the connection."""
    stop_after(mirror, tmp_path, HALF)
    assert names(tmp_path) == [PART, ORIGIN]
    log = Log()
    done = log.get(mirror, tmp_path)
    assert mirror.ranges == [f"bytes={HALF}-"]
    assert done.received_bytes == sum(mirror.sent) == len(ARCHIVE) - HALF
    assert contents(tmp_path / TOP) == FILES
    assert names(tmp_path) == [TOP]
    assert "going on after" in log.remarks[0]


def test_waits_grow_and_end(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a server in trouble is hammered, or waited for without end."""
    mirror.faults = [Fault(status=502)] * 99
    log = Log()
    with pytest.raises(UserError, match=r"answered 502 Bad Gateway, 6 times in a row"):
        log.get(mirror, tmp_path)
    assert log.waits == [1, 2, 4, 8, 16]
    assert names(tmp_path) == []
    with pytest.raises(UserError):
        log.get(mirror, tmp_path, patience={"attempts": 9, "longest_wait": 5})
    assert log.waits[5:] == [1, 2, 4, 5, 5, 5, 5, 5]


def test_patience_starts_anew_when_something_came(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a connection that is cut often, but moves on, is given up."""
    step = len(ARCHIVE) // 20
    mirror.faults = [Fault(cut_after=step)] * 19
    log = Log()
    log.get(mirror, tmp_path, patience={"attempts": 2})
    assert contents(tmp_path / TOP) == FILES
    assert set(log.waits) == {1.0}


def test_a_server_that_cuts_and_cannot_go_on_is_given_up(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if starting over again and again counts as moving on, for ever."""
    mirror.faults = [Fault(cut_after=HALF, whole=True)] * 99
    with pytest.raises(UserError, match="6 times in a row"):
        Log().get(mirror, tmp_path)
    assert len(mirror.requests) == 6


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status: int, mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a server that asks for time is asked again too early."""
    later = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=100), usegmt=True)
    asked = ["7", later, "soon", "-5", "0"]
    mirror.faults = [Fault(status=status, headers={"Retry-After": text}) for text in asked]
    log = Log()
    log.get(mirror, tmp_path)
    assert contents(tmp_path / TOP) == FILES
    seconds, until_date, *backoff = log.waits
    assert seconds == 7
    assert 90 < until_date <= 100
    assert backoff == [4, 8, 16]


def test_a_pause_without_reason_is_not_waited_for(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a server can make the command hang for a day."""
    mirror.faults = [Fault(status=503, headers={"Retry-After": "86400"})]
    log = Log()
    with pytest.raises(UserError, match="asks to wait 86400 s"):
        log.get(mirror, tmp_path)
    assert log.waits == []


def test_silence_counts_as_a_cut(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a dead connection is listened to for ever."""
    mirror.faults = [Fault(stall_after=HALF)]
    log = Log()
    log.get(mirror, tmp_path, patience={"timeout": 1.0})
    assert contents(tmp_path / TOP) == FILES
    first, *later = mirror.ranges
    # More than one, where this machine is so busy that the answer is late.
    assert (first, set(later)) == (None, {f"bytes={HALF}-"})
    assert "timed out" in log.remarks[0]


def test_a_server_without_ranges_starts_over(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if the whole file is put behind the part of it that was there."""
    mirror.faults = [Fault(cut_after=HALF), Fault(whole=True)]
    log = Log()
    done = log.get(mirror, tmp_path)
    assert contents(tmp_path / TOP) == FILES
    assert done.received_bytes == HALF + len(ARCHIVE)
    assert "starting over" in log.remarks[-1]


OTHER = make_archive({**FILES, "data/another.csv": hashlib.sha512(b"x").digest() * 40})


@pytest.mark.parametrize("has_etag", [True, False])
def test_a_changed_file_starts_over(has_etag: bool, mirror: Mirror, tmp_path: Path) -> None:
    """Fails if halves of two versions are put together."""
    if not has_etag:
        mirror.etag = mirror.last_modified = None
    stop_after(mirror, tmp_path, HALF)
    mirror.content = OTHER
    if has_etag:
        mirror.etag = '"v2"'
    Log().get(mirror, tmp_path, variant=tiny_variant(OTHER))
    assert mirror.ranges[0] == f"bytes={HALF}-"
    assert mirror.requests[0].get("If-Range") == (ETAG if has_etag else None)
    # Without a version, the size in Content-Range tells, and a second request is needed.
    assert mirror.ranges[1:] == ([] if has_etag else [None])
    assert set(contents(tmp_path / TOP)) == {*FILES, "data/another.csv"}


def test_a_weak_entity_tag_is_no_condition(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if If-Range carries what RFC 9110 forbids there, and servers answer with all of it."""
    mirror.etag = 'W/"v1"'
    stop_after(mirror, tmp_path, HALF)
    Log().get(mirror, tmp_path)
    assert mirror.requests[0]["If-Range"] == mirror.last_modified
    assert sum(mirror.sent) == len(ARCHIVE) - HALF


def test_another_mirror_goes_on(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if what came from a mirror that died is of no use at the next."""
    stop_after(mirror, tmp_path, HALF)
    with serve(Mirror(etag='"its own"')) as second:
        Log().get(second, tmp_path)
    assert second.ranges == [f"bytes={HALF}-"]
    assert "If-Range" not in second.requests[0]
    assert contents(tmp_path / TOP) == FILES


@pytest.mark.parametrize("origin", [None, b"{", b"[]", b'{"size": "x"}', b'{"etag": 3}', b"\xff"])
def test_a_lost_or_broken_origin_costs_only_the_condition(
    origin: bytes | None, mirror: Mirror, tmp_path: Path
) -> None:
    """Fails if a part is of no use, or a traceback, for want of the file beside it."""
    stop_after(mirror, tmp_path, HALF)
    (tmp_path / ORIGIN).unlink()
    if origin is not None:
        (tmp_path / ORIGIN).write_bytes(origin)
    Log().get(mirror, tmp_path)
    assert mirror.ranges == [f"bytes={HALF}-"]
    assert contents(tmp_path / TOP) == FILES
    assert names(tmp_path) == [TOP]


def test_a_whole_part_is_only_checked(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a process killed right before the end makes the next one download anything."""
    (tmp_path / PART).write_bytes(ARCHIVE)
    assert Log().get(mirror, tmp_path).received_bytes == 0
    assert not mirror.requests
    assert contents(tmp_path / TOP) == FILES


def test_a_stop_before_the_part_is_read_costs_nothing(tmp_path: Path) -> None:
    """Fails if a part of hours counts as empty, and is removed, where nobody has read it yet."""
    (tmp_path / PART).write_bytes(ARCHIVE[:HALF])
    with pytest.raises(KeyboardInterrupt), Part(tmp_path / f"{TOP}.tar.gz"):
        raise KeyboardInterrupt
    assert (tmp_path / PART).read_bytes() == ARCHIVE[:HALF]


@pytest.mark.parametrize("surplus", [0, 1])
def test_a_part_with_nothing_after_it(surplus: int, mirror: Mirror, tmp_path: Path) -> None:
    """Fails if the answer 416 is an error: it means that the part is whole, or of another file."""
    wrong = bytes(len(ARCHIVE) + surplus)
    (tmp_path / PART).write_bytes(wrong)
    log = Log()
    if surplus:
        log.get(mirror, tmp_path)
        assert mirror.ranges == [f"bytes={len(wrong)}-", None]
        assert contents(tmp_path / TOP) == FILES
    else:
        with pytest.raises(UserError, match="is removed"):
            log.get(mirror, tmp_path)
        assert names(tmp_path) == []
    assert mirror.sent[0] == 0


@pytest.mark.parametrize("begun", [False, True])
def test_a_wrong_checksum_removes_the_part(begun: bool, mirror: Mirror, tmp_path: Path) -> None:
    """Fails if wrong bytes are unpacked, or kept so that no later call can succeed."""
    if begun:
        stop_after(mirror, tmp_path, HALF)
    mirror.content = ARCHIVE[:-9] + bytes(9)
    found = hashlib.md5(mirror.content).hexdigest()
    with pytest.raises(UserError, match=f"has md5 {found}, expected {tiny_variant().md5}"):
        Log().get(mirror, tmp_path)
    assert names(tmp_path) == []
    mirror.content = ARCHIVE
    Log().get(mirror, tmp_path)
    assert contents(tmp_path / TOP) == FILES


@pytest.mark.parametrize("says", [len(ARCHIVE) + 10, len(ARCHIVE) - 10, None])
def test_a_wrong_length(says: int | None, mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a length that a server states wrongly, or not at all, is believed over the md5."""
    fault = Fault(unannounced=True)
    if says is not None:
        fault = Fault(headers={"Content-Length": str(says)})
    mirror.faults = [fault]
    if says == len(ARCHIVE) - 10:
        with pytest.raises(UserError, match="is removed"):
            Log().get(mirror, tmp_path)
        assert names(tmp_path) == []
        return
    Log().get(mirror, tmp_path)
    assert contents(tmp_path / TOP) == FILES
    assert sum(mirror.sent) == len(ARCHIVE)


WRONG_RANGES = {
    "another start": f"bytes 0-{len(ARCHIVE) - 1}/{len(ARCHIVE)}",
    "another size": f"bytes {HALF}-{len(ARCHIVE)}/{len(ARCHIVE) + 1}",
    "garbage": "half of it",
}


@pytest.mark.parametrize("case", WRONG_RANGES)
def test_a_wrong_range_is_not_appended(case: str, mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a server that answers with other bytes than asked for spoils the file."""
    stop_after(mirror, tmp_path, HALF)
    mirror.faults = [Fault(headers={"Content-Range": WRONG_RANGES[case]})]
    log = Log()
    log.get(mirror, tmp_path)
    assert mirror.ranges == [f"bytes={HALF}-", None]
    assert contents(tmp_path / TOP) == FILES


@pytest.mark.parametrize(("status", "message"), [(404, "is not there"), (403, "cannot be had")])
def test_a_refusal_is_final(status: int, message: str, mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a wrong address is tried again and again, or leaves files."""
    mirror.faults = [Fault(status=status)]
    log = Log()
    with pytest.raises(UserError, match=rf"{TOP}.tar.gz {message} \({status}"):
        log.get(mirror, tmp_path)
    assert (log.waits, names(tmp_path)) == ([], [])


def test_no_server_is_one_line(tmp_path: Path) -> None:
    """Fails if a machine that is off is a traceback, or waited for as one that is busy."""
    with serve(Mirror()) as gone:
        pass
    log = Log()
    said = r"127\.0\.0\.1 cannot be reached \(Connection refused\), 2 times in a row: check --url"
    with pytest.raises(UserError, match=said):
        log.get(gone, tmp_path)
    assert log.waits == [1]
    assert names(tmp_path) == []


def test_an_unknown_host_is_given_up_soon(tmp_path: Path) -> None:
    """Fails if a mistyped --url keeps the user waiting for half a minute."""
    log = Log()
    # RFC 6761, 6.4: no host has a name in .invalid.
    with pytest.raises(UserError, match=r"nobody\.invalid cannot be reached .* 2 times in a row"):
        log.get(Mirror(url="http://nobody.invalid"), tmp_path)
    assert log.waits == [1]


def test_a_server_that_goes_away_on_the_way_is_waited_for(tmp_path: Path) -> None:
    """Fails if a server that restarts in the middle of a download of hours is given up at once."""
    log = Log()
    with contextlib.ExitStack() as running:
        mirror = running.enter_context(serve(Mirror(faults=[Fault(cut_after=HALF)])))

        def wait(seconds: float) -> None:
            log.waits.append(seconds)
            running.close()

        with pytest.raises(UserError, match=r"Connection refused.*, 6 times in a row"):
            log.get(mirror, tmp_path, patience={"wait": wait})
    assert log.waits == [1, 2, 4, 8, 16]
    assert names(tmp_path) == [PART, ORIGIN]


def test_a_redirect_is_followed_with_the_range(mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a store behind a redirect sends the whole file for the rest of it."""
    stop_after(mirror, tmp_path, HALF)
    with serve(Mirror()) as front:
        front.faults = [Fault(status=302, headers={"Location": f"{mirror.url}/elsewhere"})]
        Log().get(front, tmp_path)
    assert mirror.ranges == [f"bytes={HALF}-"]
    assert contents(tmp_path / TOP) == FILES


@pytest.mark.parametrize("scheme", ["file", "ftp"])
def test_a_redirect_leads_to_the_web_only(scheme: str, mirror: Mirror, tmp_path: Path) -> None:
    """Fails if a server can make the command read a file of this machine."""
    mirror.faults = [Fault(status=302, headers={"Location": f"{scheme}:///etc/passwd"})]
    with pytest.raises(UserError, match=r"not followed|cannot be had"):
        Log().get(mirror, tmp_path)
    assert names(tmp_path) == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that it signed itself, with its key."""
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("certificate") / "it.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


def test_encryption_is_never_given_up(
    certificate: Path, mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if a certificate is not looked at, or a redirect leads from https to http."""
    with serve(Mirror(), certificate) as secure:
        log = Log()
        with pytest.raises(UserError, match="certificate cannot be verified"):
            log.get(secure, tmp_path)
        assert log.waits == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        secure.faults = [Fault(status=302, headers={"Location": mirror.url})]
        with pytest.raises(UserError, match=r"redirects from https to http: not followed"):
            log.get(secure, tmp_path)
        assert names(tmp_path) == []
        assert not mirror.requests
        log.get(secure, tmp_path)
        assert contents(tmp_path / TOP) == FILES
