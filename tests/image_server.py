"""A server of images on 127.0.0.1 that misbehaves as servers on the web do: by the first part of the path."""

import io
import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image


def picture(color=(200, 30, 40), size=(24, 20), kind="PNG"):
    content = io.BytesIO()
    image = Image.new("RGB", size, color)
    image.putpixel((3, 3), (0, 0, 0))
    image.save(content, kind)
    return content.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked[self.path] += 1
        kind, _, rest = self.path.lstrip("/").partition("/")
        with self.server.guard:
            self.server.at_once += 1
            self.server.most = max(self.server.most, self.server.at_once)
        try:
            getattr(self, f"give_{kind}", self.give_missing)(rest)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            with self.server.guard:
                self.server.at_once -= 1

    def answer(self, content, status=200, kind="image/png", **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def give_good(self, rest):
        self.answer(picture((sum(map(ord, rest)) % 200, 60, 90)))

    def give_file(self, rest):
        self.answer((Path(self.server.folder) / rest).read_bytes())

    def give_jpeg(self, rest):
        self.answer(picture(kind="JPEG"), kind="image/jpeg")

    def give_truncated(self, rest):
        content = picture(size=(250, 200), kind="JPEG")
        self.answer(content[: len(content) // 2], kind="image/jpeg")

    def give_page(self, rest):
        self.answer(b"<!doctype html><title>sorry</title>", kind="text/html")

    def give_missing(self, rest):
        self.answer(b"no", status=404, kind="text/plain")

    def give_endless(self, rest):
        self.send_response(200)
        self.send_header("Content-Type", "image/png")
        self.end_headers()
        for _ in range(10_000):
            self.wfile.write(b"\0" * 65_536)
        self.close_connection = True

    def give_slow(self, rest):
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        for _ in range(200):
            self.wfile.write(b"\0")
            self.wfile.flush()
            time.sleep(0.05)

    def give_dropped(self, rest):
        """Half of what was promised, then the connection is reset."""
        content = picture()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def give_busy(self, rest):
        """503 twice, then the image."""
        if self.server.asked[self.path] < 3:
            self.answer(b"busy", status=503, kind="text/plain", **{"Retry-After": "0"})
        else:
            self.give_good(rest)

    def give_moved(self, rest):
        """To another path of this server, or to a whole URL."""
        self.answer(b"", status=302, Location=rest if "://" in rest else f"/{rest}")

    def give_circle(self, rest):
        self.answer(b"", status=302, Location=self.path)

    def give_wide(self, rest):
        self.answer(picture(size=(400, 300)))

    def give_speck(self, rest):
        self.answer(picture(size=(8, 8)))

    def log_message(self, *_):
        pass


@contextmanager
def image_server(folder="."):
    """The server; its `base` is the URL, `asked` counts the requests by path, `most` is how many came at once."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.folder, server.asked, server.guard = folder, Counter(), threading.Lock()
    server.at_once = server.most = 0
    server.base = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
