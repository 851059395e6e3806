"""Images by URL: the good ones are kept whole, the bad ones are listed, and nothing is asked for twice."""

import socket
import time

import httpcore
import pandas as pd
import pytest
from fixtures.image_server import image_server
from PIL import Image

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.tasks.download import public_hosts as addresses
from vlmtrace.tasks.download.images import FAILURES, Limits, download_images, images_by_name
from vlmtrace.tasks.download.public_hosts import NotPublic, PublicOnly, is_public

QUICK = Limits(backoff=0.01, timeout=2, seconds=3, max_bytes=200_000, max_pixels=100_000)


@pytest.fixture(scope="module")
def server():
    with image_server() as running:
        yield running


def fetch(server, *paths, folder, limits=QUICK):
    urls = {path.replace("/", "_"): server.base + path for path in paths}
    return download_images(urls, folder, limits=limits, allow_loopback=True).set_index("name")


@pytest.mark.medium
def test_a_thousand_urls_of_which_a_fifth_fail(server, tmp_path):
    bad = ["truncated", "page", "missing", "endless", "dropped", "circle", "speck", "moved/page"]
    paths = [f"{bad[i // 5 % len(bad)]}/{i}" if i % 5 == 0 else f"good/{i}" for i in range(1000)]
    server.asked.clear()
    report = fetch(server, *paths, folder=tmp_path, limits=Limits(backoff=0.01, timeout=2, max_bytes=200_000))
    assert report["status"].value_counts().to_dict() == {"fetched": 800, "failed": 200}
    assert {name for name, row in report.iterrows() if row["status"] == "fetched"} == {
        path.replace("/", "_") for path in paths if path.startswith("good")
    }
    for path in report["path"].dropna():
        with Image.open(path) as image:
            image.load()
    assert not list(tmp_path.glob(".*")), "unfinished files are left"
    failures = pd.read_parquet(tmp_path / FAILURES)
    assert set(failures["name"]) == set(report.index[report["status"] == "failed"])
    assert failures["reason"].str.len().min() > 10
    assert server.most <= 8

    server.asked.clear()
    again = fetch(server, *paths, folder=tmp_path)
    assert again["status"].value_counts().to_dict() == {"there": 800, "failed": 200}
    assert not [path for path in server.asked if path.startswith("/good/")], "images that are there were asked for"


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("truncated/1", "the image is truncated"),
        ("page/1", "a page instead of an image"),
        ("missing/1", "the server answers 404"),
        ("endless/1", "more than 200,000 bytes"),
        ("dropped/1", "broke off"),
        ("circle/1", "more than 5 redirects"),
        ("wide/1", "400 × 300 pixels, more than 100,000"),
        ("speck/1", "a side is shorter than 16"),
        ("moved/good/photo_unavailable.png", "a placeholder"),
        ("moved/http://10.0.0.1/a.png", "which is no public address"),
        ("moved/file:///etc/passwd", "no http or https URL"),
    ],
)
def test_what_is_wrong_is_said_and_leaves_no_file(server, tmp_path, path, reason):
    name = "it"
    report = download_images({name: server.base + path}, tmp_path, limits=QUICK, allow_loopback=True)
    assert reason in report["reason"].iloc[0] and report["status"].iloc[0] == "failed"
    assert [file.name for file in tmp_path.iterdir()] == [FAILURES]


def test_a_fault_that_passes_is_waited_for(server, tmp_path):
    report = fetch(server, "busy/1", "moved/good/1", "jpeg/1", folder=tmp_path)
    assert set(report["status"]) == {"fetched"}
    assert server.asked["/busy/1"] == 3
    assert report.loc["jpeg_1", "path"].suffix == ".jpg"
    assert not (tmp_path / FAILURES).exists()


def test_a_failure_is_forgotten_once_the_image_is_there(server, tmp_path):
    limits = Limits(backoff=0.01, attempts=1)
    assert fetch(server, "busy/2", "missing/2", folder=tmp_path, limits=limits)["status"].tolist() == ["failed"] * 2
    fetch(server, "busy/2", "missing/2", folder=tmp_path, limits=QUICK)
    assert pd.read_parquet(tmp_path / FAILURES)["name"].tolist() == ["missing_2"]


def test_a_server_that_drips_is_left_in_time(server, tmp_path):
    started = time.monotonic()
    report = fetch(server, "slow/1", folder=tmp_path, limits=Limits(seconds=0.5, attempts=1))
    assert "longer than" in report["reason"].iloc[0] and time.monotonic() - started < 5


def test_waiting_for_other_images_of_the_host_takes_no_image_its_time(server, tmp_path):
    limits = Limits(workers=6, per_host=1, seconds=3, attempts=1)
    report = fetch(server, *(f"late/{i}" for i in range(6)), folder=tmp_path, limits=limits)
    assert set(report["status"]) == {"fetched"}, report["reason"].tolist()


@pytest.mark.parametrize(
    ("path", "status", "reason", "connections"),
    [("good/1", "unreachable", "no connection to 127.0.0.1", 1), ("moved/{}", "failed", "longer than", 2)],
)
def test_time_that_ends_while_connecting_is_not_asked_for_again(
    server, tmp_path, monkeypatch, path, status, reason, connections
):
    """The last host answers no packet; of two, the first has answered, and led there."""
    connect, asked = httpcore.SyncBackend.connect_tcp, []

    def hang(self, host, port, timeout=None, *further):
        asked.append(host)
        if len(asked) < connections:
            return connect(self, host, port, timeout, *further)
        time.sleep(timeout)
        raise httpcore.ConnectTimeout("timed out")

    monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", hang)
    url = server.base + path.format(server.base.replace("127.0.0.1", "127.0.0.2") + "good/1")
    report = download_images({"a": url}, tmp_path, limits=Limits(seconds=1, backoff=0.01), allow_loopback=True)
    assert report["status"].tolist() == [status] and reason in report["reason"][0]
    assert len(asked) == connections


@pytest.mark.parametrize("name", ["a.JPG", "a.jpeg", "a.TIFF", "a.Png"])
def test_an_image_that_somebody_put_there_is_not_asked_for(tmp_path, name):
    Image.new("RGB", (20, 20), "red").save(tmp_path / name)
    report = download_images({"a": "http://127.0.0.1:1/a.png"}, tmp_path, limits=QUICK)
    assert report["status"].tolist() == ["there"] and report["path"].tolist() == [tmp_path / name]
    Image.new("RGB", (20, 20), "red").save(tmp_path / "a.webp")
    assert images_by_name(tmp_path) == {"a": tmp_path / "a.webp"}


def test_nobody_there_is_told_from_a_bad_answer(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.png"
        report = download_images({"a": url}, tmp_path, limits=QUICK, allow_loopback=True)
    assert report["status"].tolist() == ["unreachable"] and "no connection to 127.0.0.1" in report["reason"].iloc[0]


# Addresses


@pytest.mark.parametrize(
    "address",
    "127.0.0.1 10.1.2.3 172.16.0.1 192.168.1.1 169.254.169.254 100.64.0.1 0.0.0.0 224.0.0.1 255.255.255.255 ::1 ::"
    " fe80::1 fc00::1 ff02::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::a00:1 2002:7f00:1::".split(),
)
def test_addresses_of_this_network_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "64:ff9b::101:101"])
def test_addresses_of_the_internet_are(address):
    assert is_public(address)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a.png", "http://localhost/a.png", "http://[::1]/a.png"])
def test_this_machine_is_refused_unless_a_test_asks(tmp_path, url, monkeypatch):
    monkeypatch.delenv(addresses.ALLOW_LOOPBACK, raising=False)
    report = download_images({"a": url}, tmp_path, limits=QUICK)
    assert report["status"].tolist() == ["failed"] and "no public address" in report["reason"].iloc[0]


@pytest.mark.parametrize("url", ["ftp://a.org/a.png", "file:///a.png", "a.png", "http://", "http://a:b:c/", "data:,"])
def test_only_http_is_spoken(tmp_path, url):
    report = download_images({"a": url}, tmp_path, limits=QUICK)
    assert report["status"].tolist() == ["failed"] and "URL" in report["reason"].iloc[0]


def test_a_name_with_one_private_address_is_refused(monkeypatch):
    def resolve(host, port, **_):
        return [(2, 1, 6, "", (address, port)) for address in ("93.184.216.34", "192.168.0.7")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(NotPublic, match=r"192\.168\.0\.7"):
        PublicOnly().connect_tcp("rebound.example", 80)


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch):
    """A name that changes between the check and the connection changes nothing: the name is looked up once."""
    answers = iter(["93.184.216.34", "127.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [(2, 1, 6, "", (next(answers), port))])
    backend, reached = PublicOnly(), []
    monkeypatch.setattr(backend.sockets, "connect_tcp", lambda address, *_: reached.append(address))
    backend.connect_tcp("rebound.example", 80)
    assert reached == ["93.184.216.34"]


def test_a_name_that_leaves_the_folder_is_refused(tmp_path):
    with pytest.raises(VlmtraceError, match=r"cannot be kept as '\.\./a'"):
        download_images({"../a": "http://example.org/a.png"}, tmp_path)
