"""Lists of URLs that somebody published: whatever they name, this machine and its network are not asked.

What else a server may do wrong (too many bytes or pixels, dripping, circles, pages in place of images) is tested in
tests/tasks/download.
"""

import io
import socket
import struct
import threading
import time
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from fixtures.image_server import image_server, picture

from vlmtrace.tasks.download import public_hosts
from vlmtrace.tasks.download.images import FAILURES, Limits, download_images

QUICK = Limits(backoff=0.01, attempts=1, timeout=2, seconds=2, max_bytes=200_000, max_pixels=100_000)


@pytest.fixture(scope="module")
def server():
    with image_server() as running:
        yield running


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    monkeypatch.delenv(public_hosts.ALLOW_LOOPBACK, raising=False)


@contextmanager
def resolving(monkeypatch, **names):
    """Names that resolve as somebody else's name server says, one answer after the other; all lookups are counted."""
    asked, real = [], socket.getaddrinfo

    def resolve(host, port, *arguments, **options):
        name = host.decode() if isinstance(host, bytes) else host
        if name not in names:
            return real(host, port, *arguments, **options)
        asked.append(name)
        address = names[name].pop(0) if len(names[name]) > 1 else names[name][0]
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port) + ((0, 0) if ":" in address else ()))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    yield asked


def refused(url, folder, limits=QUICK, **options):
    """The reason why a URL was not fetched; nothing but the list of failures is written."""
    report = download_images({"a": url}, folder, limits=limits, **options)
    assert report["status"].iloc[0] in ("failed", "unreachable"), report.iloc[0].to_dict()
    assert [path.name for path in folder.iterdir()] == [FAILURES]
    return report["reason"].iloc[0]


#: Ways to write 127.0.0.1 and other addresses of this machine and network.
DISGUISED = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7f.1", "017700000001", "0177.0.0.1",
    "0177.0.0.01", "127.255.255.254", "0.0.0.0", "0", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]",
    "[2001:0:7f00:1::80ff:fffe]", "[fe80::1]", "[fc00::1]", "[ff02::1]", "169.254.169.254", "0xa9fea9fe", "2852039166",
    "[::ffff:169.254.169.254]", "10.0.0.1", "10.1", "172.16.5.4", "192.168.0.1", "100.64.0.1", "198.18.0.1",
    "192.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1", "localhost", "LOCALHOST", "localhost.", "ip6-localhost",
    "①②⑦.⓪.⓪.①", "127。0。0。1",
]  # fmt: skip


@pytest.mark.parametrize("host", DISGUISED)
def test_no_way_to_write_an_address_leads_to_this_network(server, tmp_path, host):
    server.asked.clear()
    reason = refused(f"http://{host}:{server.server_port}/good/1", tmp_path)
    assert "no public address" in reason or "cannot be resolved" in reason or "no name of a host" in reason, reason
    assert not server.asked, "this machine was asked"


@pytest.mark.parametrize("host", DISGUISED)
def test_no_redirect_leads_to_this_network(server, tmp_path, monkeypatch, host):
    """The first server is public as far as can be seen; it leads on to this machine."""
    server.asked.clear()
    backend = public_hosts.PublicOnly

    class FirstIsPublic(backend):
        def addresses(self, name, port):
            return ["127.0.0.1"] if name == "first.example" else super().addresses(name, port)

    monkeypatch.setattr("vlmtrace.tasks.download.images.PublicOnly", FirstIsPublic)
    target = f"http://{host}:{server.server_port}/good/1".encode().decode("latin-1")
    url = f"http://first.example:{server.server_port}/moved/{target}"
    reason = refused(url, tmp_path)
    assert "public address" in reason or "resolved" in reason or "name of a host" in reason or "no URL" in reason, (
        reason
    )
    assert not [path for path in server.asked if path.startswith("/good")], "the redirect was followed"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.7", "169.254.169.254", "::ffff:127.0.0.1", "0.0.0.0"])
def test_a_name_of_somebody_elses_that_points_here_is_refused(server, tmp_path, monkeypatch, address):
    server.asked.clear()
    with resolving(monkeypatch, **{"pointed.example": [address]}):
        assert "no public address" in refused(f"http://pointed.example:{server.server_port}/good/1", tmp_path)
    assert not server.asked


def test_a_name_that_is_public_when_looked_at_and_local_when_connected_to(server, tmp_path, monkeypatch):
    """The name is looked up once, and the socket is opened to the very address that was looked at (rebinding)."""
    server.asked.clear()
    reached = []

    def connect(address, *_, **__):
        reached.append(address[0])
        raise OSError("this test goes nowhere")

    monkeypatch.setattr(socket, "create_connection", connect)
    with resolving(monkeypatch, **{"rebound.example": ["93.184.216.34", "127.0.0.1"]}) as asked:
        refused(f"http://rebound.example:{server.server_port}/good/1", tmp_path)
    assert asked == ["rebound.example"] and reached == ["93.184.216.34"] and not server.asked


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "FILE:///etc/passwd", "ftp://example.org/a.png", "data:image/png;base64,AAAA",
        "gopher://127.0.0.1:6379/_FLUSHALL", "dict://127.0.0.1:11211/stat", "jar:http://a!/b", "unix:///var/run/docker.sock",
        "http+unix://%2Fvar%2Frun%2Fdocker.sock/x", "//127.0.0.1/a.png", "/etc/passwd", "javascript:alert(1)", "http:///a",
        "http://", "http://a:b:c/", "http://a:99999/", "http://[::1/", "", " ", "http://exa mple.org/a", "\0",
    ],
)  # fmt: skip
def test_nothing_but_http_is_spoken(tmp_path, url):
    reason = refused(url, tmp_path)
    assert "URL" in reason or "address" in reason or "resolved" in reason or "host" in reason, reason


@pytest.mark.parametrize("url", ["http://93.184.216.34@127.0.0.1:{port}/good/1", "http://a:b@127.0.0.1:{port}/good/1",
                                 "http://127.0.0.1:{port}#@example.org/good/1", "http://127.0.0.1:{port}\\@example.org/good/1",
                                 "http://example.org\\@127.0.0.1:{port}/good/1"])  # fmt: skip
def test_what_stands_before_the_host_does_not_hide_it(server, tmp_path, url):
    server.asked.clear()
    refused(url.format(port=server.server_port), tmp_path)
    assert not server.asked


class Recorder(BaseHTTPRequestHandler):
    """Keeps what was sent, word by word."""

    def do_GET(self):
        self.server.lines.append((self.requestline, dict(self.headers)))
        content = self.server.answer
        self.send_response(200)
        for name, value in self.server.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def recorder():
    server = HTTPServer(("127.0.0.1", 0), Recorder)
    server.lines, server.answer, server.headers = [], picture(), []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


#: Ends of URLs that would begin another line, or another request.
TAILS = [
    "a\r\nX-Owned: 1", "a%0d%0aX-Owned:1", "a HTTP/1.1\r\nX-Owned: 1\r\n\r\nGET /b", "a\nb", "ä ö",
    "a?x=\r\nX-Owned: 1", "a#\r\nX-Owned: 1", "\u2028",
]  # fmt: skip


@pytest.mark.parametrize("tail", TAILS, ids=ascii)
def test_a_url_adds_no_line_to_the_request(recorder, tmp_path, tail):
    download_images(
        {"a": f"http://127.0.0.1:{recorder.server_port}/{tail}"}, tmp_path, limits=QUICK, allow_loopback=True
    )
    for line, headers in recorder.lines:
        assert line.startswith("GET /") and line.endswith(" HTTP/1.1") and line.count(" ") == 2
        assert not [name for name in headers if name.lower() == "x-owned"]
    assert len(recorder.lines) <= 1


def test_no_secret_of_this_machine_is_sent(recorder, tmp_path, monkeypatch):
    """Neither environment, nor .netrc, nor what a URL carries for its host, nor a cookie goes along."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password of-the-netrc\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "of-the-hub")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    recorder.headers = [("Set-Cookie", "a=of-the-cookie")]
    base = f"127.0.0.1:{recorder.server_port}/x"
    urls = {"a": f"http://{base}1", "b": f"http://{base}2", "c": f"http://me:of-the-url@{base}3"}
    download_images(urls, tmp_path / "images", limits=QUICK, allow_loopback=True)
    assert len(recorder.lines) == 3, "a proxy was asked, which this package does not use"
    assert "of-the-" not in str(recorder.lines) and not any("Authorization" in headers for _, headers in recorder.lines)


def packed_bomb():
    """A PNG of few bytes and 9,000 × 9,000 pixels."""
    head = struct.pack(">IIBBBBB", 9_000, 9_000, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1126 * 9_000, 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in parts
    )


@pytest.mark.parametrize("attack", ["pixels", "gzip", "svg", "PostScript", "page"])
def test_what_unpacks_to_much_or_to_something_else_is_no_image(recorder, tmp_path, attack):
    import gzip

    recorder.answer = {
        "pixels": packed_bomb(),
        "gzip": gzip.compress(b"\0" * 50_000_000),
        "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>',
        "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n",
        "page": b"\n <HTML>" + picture(),
    }[attack]
    recorder.headers = [("Content-Encoding", "gzip")] if attack == "gzip" else []
    started = time.monotonic()
    reason = refused(f"http://127.0.0.1:{recorder.server_port}/a", tmp_path, allow_loopback=True)
    assert "image" in reason and time.monotonic() - started < 1.5


def test_a_server_that_drips_its_head_is_left_in_time(tmp_path):
    """Byte by byte within the timeout of a single read, and never done (slow loris)."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        ended = threading.Event()

        def drip():
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                for _ in range(100):
                    if ended.wait(0.1):
                        return
                    try:
                        connection.sendall(b"X-A: b\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        started = time.monotonic()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/a"
        reason = refused(url, tmp_path, Limits(attempts=1, timeout=1, seconds=1.5), allow_loopback=True)
        took = time.monotonic() - started
        ended.set()
        thread.join()
    assert took < 5 and "longer than" in reason, f"{took:.1f} s: {reason}"


def test_a_picture_is_written_with_nothing_of_the_urls_in_its_name(recorder, tmp_path):
    url = f"http://127.0.0.1:{recorder.server_port}/../../x.php%00.png"
    recorder.headers = [("Content-Disposition", "attachment; filename=../../owned.sh"), ("Content-Type", "text/x-sh")]
    report = download_images({"a": url}, tmp_path / "images", limits=QUICK, allow_loopback=True)
    assert report["status"].tolist() == ["fetched"]
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["images", "images/a.png"]
    assert io.BytesIO((tmp_path / "images" / "a.png").read_bytes()).read(4) == b"\x89PNG"
