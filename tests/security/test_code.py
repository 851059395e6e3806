"""What the package never does: run what data say, load pickles, listen to others."""

import ast
import re
import subprocess
import sys

import pytest

from vlmtrace.core import paths

MODULES = sorted((paths.ROOT / "vlmtrace").rglob("*.py"))

#: Functions that run what they are given, or that rebuild objects from bytes.
FORBIDDEN = {
    "eval": "runs text", "exec": "runs text", "compile": "makes code of text", "__import__": "imports by name",
    "torch.load": "reads pickles", "pickle.load": "reads pickles", "pickle.loads": "reads pickles",
    "pd.read_pickle": "reads pickles", "joblib.load": "reads pickles", "dill.load": "reads pickles",
    "marshal.loads": "makes code of bytes", "shelve.open": "reads pickles", "yaml.load": "makes objects of text",
    "yaml.unsafe_load": "makes objects of text", "os.system": "asks a shell", "os.popen": "asks a shell",
    "subprocess.getoutput": "asks a shell", "pd.eval": "runs text", "tempfile.mktemp": "gives a name to others, too",
    "tarfile.extractall": "writes where an archive says", "shutil.unpack_archive": "writes where an archive says",
}  # fmt: skip

#: Arguments that open what is closed by default.
OPENERS = {"allow_pickle": True, "trust_remote_code": True, "shell": True, "weights_only": False, "verify": False}

PICKLING = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "telnetlib", "ftplib"}


def calls_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(paths.ROOT / "vlmtrace").as_posix())
def test_a_module_runs_nothing_that_data_say(path):
    found = []
    for node, name in calls_of(path):
        # `model.eval()` is torch's; `re.compile` and the like are methods.
        if name in FORBIDDEN or ("." in name and ".".join(name.split(".")[-2:]) in FORBIDDEN):
            found.append(f"line {node.lineno}: {name} {FORBIDDEN.get(name, '')}")
        for keyword in node.keywords:
            if keyword.arg in OPENERS and getattr(keyword.value, "value", None) is OPENERS[keyword.arg]:
                found.append(f"line {node.lineno}: {keyword.arg}={OPENERS[keyword.arg]}")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"line {node.lineno}: import {name}" for name in names if name.split(".")[0] in PICKLING]
    assert not found


def test_notebooks_run_nothing_that_data_say():
    import nbformat

    for path in sorted((paths.ROOT / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                names = {ast.unparse(n.func) for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Call)}
                assert not names & set(FORBIDDEN), path.name


def test_models_are_read_in_one_place():
    """So that what is said there about code and pickles holds for all."""
    found = {
        path.relative_to(paths.ROOT / "vlmtrace").parts[0]
        for path in MODULES
        for _, name in calls_of(path)
        if name.endswith(".from_pretrained")
    }
    assert "models" in found and found <= {"models", "training", "benchmarks"}


@pytest.mark.medium
def test_a_pickle_in_the_folder_of_a_model_is_never_opened(tmp_path):
    """Reading it would leave a file."""
    folder = tmp_path / "model"
    owned = tmp_path / "owned"
    script = f"""
import os, pickle, shutil
from vlmtrace.core import paths
shutil.copytree(paths.MODELS / "tiny-blip", {str(folder)!r})
os.remove({str(folder / "model.safetensors")!r})
class Evil:
    def __reduce__(self):
        return os.system, ("touch {owned}",)
for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "model.pkl"):
    with open(os.path.join({str(folder)!r}, name), "wb") as file:
        pickle.dump(Evil(), file)
import vlmtrace as vt
try:
    vt.load_model({str(folder)!r})
except vt.VlmtraceError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=paths.ROOT)
    assert "refused:" in done.stdout, done.stdout + done.stderr
    assert not owned.exists()


@pytest.mark.medium
def test_code_in_the_folder_of_a_model_is_never_run(tmp_path):
    """A config may name a module beside it (`auto_map`); it is not imported."""
    folder = tmp_path / "model"
    owned = tmp_path / "owned"
    script = f"""
import json, pathlib, shutil
from vlmtrace.core import paths
folder = pathlib.Path({str(folder)!r})
shutil.copytree(paths.MODELS / "tiny-blip", folder)
(folder / "evil.py").write_text("open({str(owned)!r}, 'w')\\nclass Evil: pass")
for name, classes in (("config.json", ("AutoConfig", "AutoModel", "AutoModelForVisualQuestionAnswering")),
                      ("processor_config.json", ("AutoProcessor",)), ("tokenizer_config.json", ("AutoTokenizer",))):
    content = json.loads((folder / name).read_text())
    content["auto_map"] = {{kind: ["evil.Evil"] * 2 if kind == "AutoTokenizer" else "evil.Evil" for kind in classes}}
    (folder / name).write_text(json.dumps(content))
import vlmtrace as vt
try:
    vt.load_model(str(folder))
    print("loaded")
except vt.VlmtraceError as error:
    print("refused:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=paths.ROOT, stdin=subprocess.DEVNULL
    )
    assert "loaded" in done.stdout, done.stdout + done.stderr  # transformers has this model's classes itself
    assert not owned.exists()


def test_servers_listen_to_this_machine_by_default():
    """`make app` and `make lab`; the first only listens elsewhere where HOST says so."""
    from jupyter_server.serverapp import ServerApp

    from vlmtrace.app import server

    makefile = (paths.ROOT / "Makefile").read_text()
    assert re.search(r"^HOST\s*= 127\.0\.0\.1$", makefile, re.MULTILINE)
    (lab,) = re.findall(r"jupyter lab .*", makefile)
    assert "--ip" not in lab and "token" not in lab.lower() and "password" not in lab.lower()
    assert ServerApp.ip.default_value in ("localhost", "127.0.0.1", "") and ServerApp().ip in ("localhost", "127.0.0.1")
    assert {option.name: option.default for option in server.main.params}["host"] == "127.0.0.1"
    assert not [path for path in MODULES if re.search(r"""["']0\.0\.0\.0["']""", path.read_text())
                and path.name not in ("server.py", "guard.py", "public_hosts.py")]  # fmt: skip
