"""Images by URL: fetched once, politely, checked by decoding, and written whole or not at all.

    report = download_images({"17": "https://…/a.jpg", …}, folder)

What is in the folder already is not asked for again. Whatever cannot be had is named with the reason; a page that says
"not found", half a photograph or a placeholder never becomes an image. No proxy is used: through one, it could not be
told which address is reached.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

import httpcore
import pandas as pd
import tenacity
from PIL import Image

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.files import read_table, write_atomically, write_table
from vlmtrace.core.progress import counter
from vlmtrace.tasks.building.image_files import image_endings
from vlmtrace.tasks.download.deadlines import InTime, TimeLeft
from vlmtrace.tasks.download.faults import Refused, Unreachable
from vlmtrace.tasks.download.public_hosts import NotPublic, PublicOnly, loopback_is_allowed

#: What a server is told about who asks.
AGENT = "vlmtrace (research; fetches each image of a published list once)"

#: Format as Pillow calls it → suffix of the file. Others are refused.
FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp"}

#: Where Flickr leads to when a photograph was withdrawn: an image, but not the one that was asked for.
PLACEHOLDERS = re.compile(r"photo_unavailable|photo_not_available", re.IGNORECASE)

#: The table of what could not be had, beside the images.
FAILURES = "failures.parquet"

REPORT = ("name", "url", "path", "status", "reason")


@dataclass(frozen=True)
class Limits:
    """What is asked of a server, and what is accepted from it.

    Attributes:
        workers: requests at the same time
        per_host: requests to one host at the same time
        attempts: how often an image is asked for where the fault may pass
        backoff: seconds before the second attempt; doubled each time
        timeout: seconds without any answer
        seconds: for one image in all, without the time for which it waits until others of its host are there
        max_bytes: of an image's file
        max_pixels: of an image
        min_side: shortest side of an image, in pixels
        redirects: how many are followed
    """

    workers: int = 8
    per_host: int = 4
    attempts: int = 3
    backoff: float = 1.0
    timeout: float = 10.0
    seconds: float = 60.0
    max_bytes: int = 20_000_000
    max_pixels: int = 50_000_000
    min_side: int = 16
    redirects: int = 5


def download_images(
    urls: Mapping[str, str],
    folder: Path,
    *,
    limits: Limits | None = None,
    allow_loopback: bool | None = None,
) -> pd.DataFrame:
    """Fetch the images that are not in the folder yet.

    Args:
        urls: name (of the file, without suffix) → URL, http or https, on a public address
        folder: where the images go; failures.parquet there lists what could not be had, until it can
        limits: what is asked of servers, and accepted from them; None: the defaults
        allow_loopback: for tests: servers on this machine may be asked too

    Returns:
        one row per name: name, url, path (None where it failed), status ("there", "fetched", "failed", "unreachable":
        no server answered), reason

    Raises:
        VlmtraceError: a name cannot be a file's
    """
    limits = limits or Limits()
    for name in urls:
        if not re.fullmatch(r"[\w-][\w.-]{0,150}", name):
            raise VlmtraceError(f"An image cannot be kept as {name!r}: use letters, digits, '.', '_' and '-'.")
    there = images_by_name(folder)
    rows: dict[str, tuple[str, str, Path | None, str, str]] = {
        name: (name, url, there[name], "there", "") for name, url in urls.items() if name in there
    }
    missing = {name: url for name, url in urls.items() if name not in there}
    if missing:
        allowed = loopback_is_allowed() if allow_loopback is None else allow_loopback
        with (
            Fetcher(limits, allowed) as fetcher,
            ThreadPoolExecutor(limits.workers) as pool,
            counter(len(missing), f"downloading {len(missing)} images") as advance,
        ):
            running = {pool.submit(_one, fetcher, name, url, folder): name for name, url in missing.items()}
            try:
                for future in as_completed(running):
                    name = running[future]
                    path, status, reason = future.result()
                    rows[name] = (name, missing[name], path, status, reason)
                    advance(1)
            except BaseException:  # an interruption must not wait for what has not begun
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    report = pd.DataFrame([rows[name] for name in urls], columns=list(REPORT))
    _note_failures(report, folder)
    return report


def images_by_name(folder: Path) -> dict[str, Path]:
    """The images that a folder holds.

    Args:
        folder: where `download_images` puts them, and people those that they have

    Returns:
        name without suffix → path; of two of one name the one that `download_images` wrote
    """
    found = (path for path in folder.glob("[!.]*") if path.suffix.lower() in image_endings())
    return {path.stem: path for path in sorted(found, key=lambda path: (path.suffix in FORMATS.values(), path))}


def _one(fetcher: Fetcher, name: str, url: str, folder: Path) -> tuple[Path | None, str, str]:
    try:
        content = fetcher.get(url)
        suffix = checked(content, fetcher.limits)
    except (Refused, NotPublic) as error:
        return None, "failed", str(error)
    except Unreachable as error:
        return None, "failed" if error.answered else "unreachable", str(error)
    path = folder / f"{name}{suffix}"
    with write_atomically(path) as temporary:
        temporary.write_bytes(content)
    return path, "fetched", ""


def _note_failures(report: pd.DataFrame, folder: Path) -> None:
    """Bring the table of failures up to date: what was had now leaves it."""
    failed = report[report["path"].isna()][["name", "url", "status", "reason"]]
    path = folder / FAILURES
    if path.is_file():
        before = read_table(path)
        failed = pd.concat([before[~before["name"].isin(report["name"])], failed], ignore_index=True)
    elif failed.empty:
        return
    write_table(failed.astype(str), path)


def checked(content: bytes, limits: Limits) -> str:
    """The suffix that an image's file should have, after decoding all of it.

    Args:
        content: what the server sent
        limits: bounds of an image

    Returns:
        such as ".jpg"

    Raises:
        Refused: the bytes are no image, not all of one, or one out of bounds
    """
    if content.lstrip()[:1] == b"<":
        raise Refused("the server sent a page instead of an image")
    try:
        with warnings.catch_warnings(), Image.open(io.BytesIO(content), formats=list(FORMATS)) as image:
            # The bounds below are stricter than Pillow's warning, and are looked at before anything is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = image.size
            if width * height > limits.max_pixels:
                raise Refused(f"the image has {width} × {height} pixels, more than {limits.max_pixels:,}")
            if min(width, height) < limits.min_side:
                raise Refused(f"the image has {width} × {height} pixels: a side is shorter than {limits.min_side}")
            image.load()
            return FORMATS[str(image.format)]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        kind = "is truncated" if "truncated" in str(error) else "cannot be decoded"
        raise Refused(f"the image {kind}") from error


class Fetcher:
    """Gets what a URL leads to, within limits, from public addresses. Safe to use from several threads.

    Args:
        limits: what is asked of servers, and accepted from them
        allow_loopback: for tests: servers on this machine may be asked too
    """

    def __init__(self, limits: Limits, allow_loopback: bool = False):
        self.limits = limits
        self.pool = httpcore.ConnectionPool(
            max_connections=limits.workers, network_backend=InTime(PublicOnly(allow_loopback)), keepalive_expiry=5
        )
        self.hosts: dict[str, threading.Semaphore] = defaultdict(lambda: threading.Semaphore(limits.per_host))
        self.lock = threading.Lock()

    def __enter__(self) -> Fetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.close()

    def get(self, url: str) -> bytes:
        """The content behind a URL.

        Args:
            url: http or https

        Raises:
            Refused: the server has no such image, or its answer breaks a limit
            NotPublic: the URL, or a redirect, leads to an address that is not public
            Unreachable: the server did not answer as it should, in any attempt
        """
        time_left = TimeLeft(self.limits.seconds)
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Unreachable),
            stop=lambda state: state.attempt_number >= self.limits.attempts or time_left.is_over,
            wait=self._wait,
            reraise=True,
        )
        return attempts(self._follow, url, time_left)

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Twice as long each time, a little apart from others, or as long as the server asks for."""
        doubling = tenacity.wait_exponential(multiplier=self.limits.backoff, max=30)
        backoff = doubling + tenacity.wait_random(0, self.limits.backoff / 2)
        error = state.outcome.exception() if state.outcome else None
        return max(backoff(state), min(getattr(error, "wait", 0.0), 30.0))

    def _follow(self, url: str, time_left: TimeLeft) -> bytes:
        for _ in range(self.limits.redirects + 1):
            if PLACEHOLDERS.search(url):
                raise Refused("the photograph was withdrawn: the server shows a placeholder")
            content, url = self._request(url, time_left)
            if content is not None:
                return content
        raise Refused(f"more than {self.limits.redirects} redirects")

    def _request(self, url: str, time_left: TimeLeft) -> tuple[bytes | None, str]:
        """Content, or where it has moved to."""
        host = _host_of(url)
        timeouts = dict.fromkeys(("connect", "read", "write", "pool"), self.limits.timeout)
        headers = [("User-Agent", AGENT), ("Accept", "image/*"), ("Accept-Encoding", "identity")]
        with self.lock:
            turn = self.hosts[host]
        try:
            # Waiting for a turn is no fault of the server's: that time does not count, and the pool has no timeout.
            with (
                time_left.standing_still(turn),
                time_left.kept(),
                self.pool.stream(
                    "GET", _quoted(url), headers=headers, extensions={"timeout": timeouts | {"pool": None}}
                ) as response,
            ):
                time_left.answered = True
                found = {name.lower(): value for name, value in response.headers}
                if response.status in (301, 302, 303, 307, 308) and b"location" in found:
                    return None, urljoin(url, found[b"location"].decode("latin-1"))
                _check_status(response.status, found)
                return self._read(response, found, time_left), url
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            if time_left.is_over and time_left.answered:
                raise Refused(self._late()) from error
            raise Unreachable(f"no connection to {host}: {_said(error)}", answered=False) from error
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as error:
            if isinstance(error, httpcore.TimeoutException) and time_left.is_over:
                raise Refused(self._late()) from error
            raise Unreachable(f"{host} broke off: {_said(error)}") from error
        except httpcore.UnsupportedProtocol as error:
            raise Refused(f"{url!r} is no address of an image") from error

    def _read(self, response: httpcore.Response, headers: Mapping[bytes, bytes], time_left: TimeLeft) -> bytes:
        most = self.limits.max_bytes
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > most:
            raise Refused(f"the image has {int(length):,} bytes, more than {most:,}")
        content = bytearray()
        for part in response.iter_stream():
            content += part
            if len(content) > most:
                raise Refused(f"the image has more than {most:,} bytes")
            if time_left.is_over:
                raise Refused(self._late())
        return bytes(content)

    def _late(self) -> str:
        return f"the image took longer than {self.limits.seconds:.0f} s"


def _host_of(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is no number raises
    except ValueError as error:
        raise Refused(f"{url!r} is no URL") from error
    if parts.scheme not in ("http", "https") or not host:
        raise Refused(f"{url[:80]!r} is no http or https URL")
    return host


def _quoted(url: str) -> bytes:
    """The URL as it goes over the wire: without a fragment, with everything beyond ASCII percent-encoded."""
    parts = urlsplit(url)
    host = str(parts.hostname)
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError as error:
            raise Refused(f"{host!r} is no name of a host") from error
    place = f"[{host}]" if ":" in host else host
    place += f":{parts.port}" if parts.port else ""
    kept = "/:@!$&'()*+,;=~%-._"
    query = f"?{quote(parts.query, safe=kept + '?')}" if parts.query else ""
    return f"{parts.scheme}://{place}{quote(parts.path or '/', safe=kept)}{query}".encode("ascii")


def _check_status(status: int, headers: Mapping[bytes, bytes]) -> None:
    if status in (408, 425, 429) or status >= 500:
        wait = headers.get(b"retry-after", b"")
        raise Unreachable(f"the server answers {status}", wait=float(wait) if wait.isdigit() else 0.0)
    if status != 200:
        raise Refused(f"the server answers {status}")


def _said(error: Exception) -> str:
    return str(error).strip() or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(error).__name__).lower()
