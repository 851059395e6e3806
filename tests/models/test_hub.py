"""Checkpoints by name: directories in the hub's layouts, a hub that plays along or refuses, and no hub at all."""

import hashlib
import json
import os
import re
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from fixtures.adapters import factors_of, write_adapter
from huggingface_hub import constants

import vlmtrace as vt
from vlmtrace.models import hub
from vlmtrace.pipeline.parameters import check_model
from vlmtrace.pipeline.runs import open_run

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/a-model"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and no hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    return tmp_path / "hub"


@pytest.fixture
def sharded(random_blip, random_blip_dir, tmp_path):
    folder = tmp_path / "sharded"
    random_blip.hf.save_pretrained(folder, max_shard_size="100KB")
    for path in random_blip_dir.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, folder)
    return folder


def in_cache(cache, source, repo=REPO, commit=COMMIT):
    """As the hub's own library lays a snapshot out: blobs, links to them, and a reference."""
    home = cache / f"models--{repo.replace('/', '--')}"
    for path in source.iterdir():
        blob = home / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blob)
        link = home / "snapshots" / commit / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"../../blobs/{blob.name}")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    return home


def change(folder, target, name="config.json", **entries):
    """A copy of a directory with other entries in one JSON file."""
    copy = shutil.copytree(folder, target)
    (copy / name).write_text(json.dumps(json.loads((copy / name).read_text()) | entries))
    return copy


# Directories


def test_shards_are_the_whole_model(sharded, random_blip):
    assert len(list(sharded.glob("model-*.safetensors"))) > 2 and not (sharded / "model.safetensors").exists()
    model = vt.load_model(sharded)
    assert model.fingerprint() == random_blip.fingerprint() and model.revision is None


def test_a_shard_that_is_missing_is_named(sharded):
    lost = sorted(sharded.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(vt.VlmtraceError, match=f"lacks 1 of the files .* the first is {lost.name}"):
        vt.load_model(sharded)


@pytest.mark.parametrize("elsewhere", ["../weights.safetensors", "/tmp/w.safetensors", "w.bin"])
def test_an_index_that_names_other_files_is_refused(sharded, elsewhere):
    (sharded / hub.INDEX).write_text(json.dumps({"weight_map": {"a": elsewhere}}))
    with pytest.raises(vt.VlmtraceError, match="does not list safetensors files beside it"):
        vt.load_model(sharded)


def test_the_layout_of_the_cache_is_a_model(cache, random_blip_dir):
    home = in_cache(cache, random_blip_dir)
    for place in (home, home / "snapshots" / COMMIT):
        assert vt.load_model(place).revision == COMMIT
    shutil.copytree(home / "snapshots" / COMMIT, home / "snapshots" / ("f" * 40))
    (home / "refs" / "main").unlink()
    with pytest.raises(vt.VlmtraceError, match="holds 2 snapshots and does not say which is current"):
        vt.load_model(home)


def test_pickled_weights_are_refused(random_blip_dir, tmp_path):
    folder = shutil.copytree(random_blip_dir, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(vt.VlmtraceError, match=r"no weights as safetensors \(only pytorch_model\.bin\)"):
        vt.load_model(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_of_a_repository_is_refused(random_blip_dir, tmp_path, name):
    folder = change(random_blip_dir, tmp_path / "code", name, auto_map={"AutoConfig": "evil.Config"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "blip_of_a_repository"}))
    (folder / "evil.py").write_text("raise SystemExit('this must never run')")
    with pytest.raises(vt.VlmtraceError, match=re.escape(f"code of its own (auto_map in {name})")):
        vt.load_model(folder)


def test_a_model_without_its_processor_says_so(random_blip_dir, tmp_path):
    folder = shutil.copytree(random_blip_dir, tmp_path / "bare")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(vt.VlmtraceError, match=r"holds none of tokenizer\.json.*save the processor"):
        vt.load_model(folder)


# The hub


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs: what a repository holds, and its files."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.server.refuses:
            status, code = self.server.refuses
            return self.answer(b"{}", status, **({"X-Error-Code": code} if code else {}))
        found = re.fullmatch(rf"/api/models/{REPO}/revision/([\w.-]+)", self.path)
        if found and found[1] in ("main", "v1", COMMIT):
            files = [{"rfilename": name} for name in sorted(self.held())]
            return self.answer(json.dumps({"id": REPO, "sha": COMMIT, "siblings": files}).encode())
        if found:
            return self.answer(b"{}", 404, **{"X-Error-Code": "RevisionNotFound"})
        if self.path.startswith(f"/api/models/{REPO}/tree/{COMMIT}"):
            entries = [
                {"type": "file", "path": name, "oid": "0" * 40, "size": path.stat().st_size}
                for name, path in self.held().items()
            ]
            return self.answer(json.dumps(entries).encode(), **{"Content-Type": "application/json"})
        found = re.fullmatch(rf"/{REPO}/resolve/{COMMIT}/([\w./-]+)", self.path)
        if found:
            content = (self.server.folder / found[1]).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            return self.answer(content, **{"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT})
        return self.answer(b"{}", 404, **{"X-Error-Code": "RepoNotFound"})

    def held(self):
        folder = self.server.folder
        return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}

    def answer(self, content, status=200, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def hub_server(folder, monkeypatch, refuses=None):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.refuses, server.asked = folder, refuses, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", base)
    # The library makes this of its endpoint when it is imported.
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", base + "/{repo_id}/resolve/{revision}/{filename}")
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def test_a_model_is_downloaded_once_and_pinned(sharded, random_blip, monkeypatch):
    (sharded / "pytorch_model.bin").write_bytes(b"never fetched")
    (sharded / "modeling.py").write_text("raise SystemExit")
    with hub_server(sharded, monkeypatch) as server:
        model = vt.load_model(REPO, revision="v1")
        assert (model.name, model.revision) == (f"{REPO}@v1", COMMIT)
        assert model.fingerprint() == random_blip.fingerprint()
        assert not [path for path in server.asked if path.endswith((".bin", ".py"))]
        server.asked.clear()
        assert vt.load_model(f"{REPO}@{COMMIT}").revision == COMMIT
        assert server.asked == [], "what the cache holds was asked for again"


def test_a_second_tokenizer_in_a_folder_of_its_own_is_downloaded_too(model_store, monkeypatch, tmp_path):
    folder = shutil.copytree(model_store.path("instructblip"), tmp_path / "instructblip")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    assert (folder / "qformer_tokenizer").is_dir()
    with hub_server(folder, monkeypatch) as server:
        model = vt.load_model(REPO)
        assert not [path for path in server.asked if "onnx/" in path]
    assert model.fingerprint() == model_store.shared("instructblip").fingerprint()


@pytest.mark.parametrize(
    ("refuses", "sentence"),
    [
        ((403, "GatedRepo"), "is gated: accept its conditions at .*/someone/a-model, log in with `hf auth login`"),
        ((404, "RepoNotFound"), "no usable model 'someone/a-model': the hub does not know it"),
        ((500, None), "the download failed.*run `hf download someone/a-model"),
    ],
)
def test_a_hub_that_refuses_is_one_sentence(sharded, monkeypatch, refuses, sentence):
    with hub_server(sharded, monkeypatch, refuses), pytest.raises(vt.VlmtraceError, match=sentence):
        vt.load_model(REPO)


def test_a_revision_that_is_not_there_is_said(sharded, monkeypatch):
    with hub_server(sharded, monkeypatch), pytest.raises(vt.VlmtraceError, match="has no revision 'v9'"):
        vt.load_model(REPO, revision="v9")


def test_weights_are_not_fetched_of_what_is_refused(sharded, tmp_path, monkeypatch):
    code = change(sharded, tmp_path / "code", auto_map={"AutoModel": "evil.Model"}, model_type="theirs")
    with hub_server(code, monkeypatch) as server:
        with pytest.raises(vt.VlmtraceError, match="code of its own"):
            vt.load_model(REPO)
        assert not [path for path in server.asked if path.endswith(".safetensors")]
    for path in sharded.glob("*.safetensors*"):
        path.unlink()
    (sharded / "pytorch_model.bin").write_bytes(b"x")
    with hub_server(sharded, monkeypatch), pytest.raises(vt.VlmtraceError, match=r"only pytorch_model\.bin"):
        vt.load_model(REPO)


def test_an_adapter_is_downloaded_and_so_is_nothing_else(random_blip, random_blip_dir, monkeypatch, tmp_path):
    layer = "text_encoder.encoder.layer.1.output.dense"
    folder = write_adapter(tmp_path / "adapter", random_blip_dir, factors_of(random_blip.hf, [layer]))
    (folder / "training_args.bin").write_bytes(b"never fetched")
    with hub_server(folder, monkeypatch) as server:
        model = vt.load_model(REPO)
        assert not [path for path in server.asked if path.endswith(".bin")]
        server.asked.clear()
        again = vt.load_model(f"{REPO}@{COMMIT}", check=False)
        assert again.fingerprint() == model.fingerprint() != random_blip.fingerprint()
        assert server.asked == [], "what the cache holds was asked for again"
    assert model.revision == COMMIT


def test_llavas_own_format_is_told_by_its_config_alone(monkeypatch, tmp_path):
    folder = tmp_path / "original"
    folder.mkdir()
    config = {"model_type": "llava_llama", "mm_projector_type": "mlp2x_gelu", "hidden_size": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"never fetched")
    with hub_server(folder, monkeypatch) as server:
        with pytest.raises(vt.VlmtraceError, match=r"use llava-hf/llava-1\.5-7b-hf;"):
            vt.load_model(REPO)
        assert not [path for path in server.asked if path.endswith(".bin")]


# No hub


@pytest.mark.parametrize("name", ["Salesforce/blip-vqa-base", "llava-hf/llava-1.5-7b-hf"])
def test_without_a_connection_one_sentence_says_at_once_what_to_do(name):
    started = time.monotonic()
    with pytest.raises(vt.VlmtraceError) as caught:
        vt.load_model(name, revision="abc123")
    assert time.monotonic() - started < 2
    folder = name.split("/")[1]
    for said in (f"hf download {name} --revision abc123", f"MODEL=/path/to/{folder}"):
        assert said in str(caught.value)


@pytest.fixture
def no_thread_is_left():
    """A test that leaves a thread behind would let it raise in another test."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before]
    assert not left, f"threads outlive the call: {left}"


def test_a_look_up_that_hangs_is_left_in_time_and_leaves_nothing(monkeypatch, no_thread_is_left, tmp_path):
    started_at = tmp_path / "pid"
    hangs = f"import os, time; open({str(started_at)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    monkeypatch.setattr(hub, "PATIENCE", 1.5)
    monkeypatch.setattr(hub, "KNOCK", hangs)
    started = time.monotonic()
    with pytest.raises(vt.VlmtraceError, match="cannot be reached"):
        vt.load_model(REPO)
    assert time.monotonic() - started < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int(started_at.read_text()), 0)


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid", "https://[::1]:9"])
def test_a_hub_that_is_not_there_leaves_nothing(monkeypatch, endpoint):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    with pytest.raises(vt.VlmtraceError, match="cannot be reached"):
        vt.load_model(REPO)


@pytest.mark.usefixtures("no_thread_is_left")
def test_a_hub_that_takes_connections_and_says_nothing_is_left_in_time(monkeypatch):
    monkeypatch.setattr(hub, "PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{mute.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(vt.VlmtraceError, match="the download failed"):
            vt.load_model(REPO)
    assert time.monotonic() - started < 20


def test_where_no_process_can_be_started_the_download_tells(monkeypatch):
    monkeypatch.setattr(hub.sys, "executable", "/no/such/python")
    with pytest.raises(vt.VlmtraceError, match="the download failed"):
        vt.load_model(REPO)


@pytest.mark.parametrize("name", ["a--b/c", "../x", "a/b@", "x" * 300, "a/b/c", "", "-/-", "a/.."])
def test_a_name_that_is_no_id_is_one_sentence(name):
    with pytest.raises(vt.VlmtraceError) as caught:
        vt.load_model(name)
    assert "\n" not in str(caught.value)


def test_offline_mode_is_honoured(monkeypatch, random_blip_dir, cache):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(vt.VlmtraceError, match="HF_HUB_OFFLINE is set"):
        vt.load_model(REPO)
    in_cache(cache, random_blip_dir)
    assert vt.load_model(REPO).revision == COMMIT


def test_half_a_download_counts_as_none(cache, sharded):
    home = in_cache(cache, sharded)
    link = sorted((home / "snapshots" / COMMIT).glob("model-*.safetensors"))[0]
    link.resolve().unlink()
    with pytest.raises(vt.VlmtraceError, match=r"is not \(or not all\) on this machine"):
        vt.load_model(REPO)


# Names and records


def test_the_commit_is_recorded_with_the_run(cache, random_blip_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("vlmtrace.core.paths.RUNS", tmp_path / "runs")
    in_cache(cache, random_blip_dir)
    stage = open_run("r").stage("02_evaluate", "t", model=vt.load_model(REPO))
    assert stage.parameters["revision"] == COMMIT and stage.parameters["model"] == REPO


def test_names_are_checked_before_anything_starts(cache, random_blip_dir):
    for name in (REPO, f"{REPO}@v1.0", str(in_cache(cache, random_blip_dir)), str(random_blip_dir)):
        check_model(name)
    check_model(REPO, "v1")
    with pytest.raises(vt.VlmtraceError, match="REVISION=v1 is for models on the hub"):
        check_model(str(random_blip_dir), "v1")
    with pytest.raises(vt.VlmtraceError, match="Unknown model"):
        check_model("no-such-model")
