"""Options of the command line and of the app are checked before anything starts: one sentence each."""

import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from fixtures.refused_commands import forbid_kernels, refused, started

from vlmtrace.app import server
from vlmtrace.core import paths
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline import checks
from vlmtrace.pipeline.cli import main


@pytest.fixture(autouse=True)
def no_kernel(tmp_path, monkeypatch):
    """Runs lie in a folder of the test's, and no kernel may start."""
    forbid_kernels(tmp_path, monkeypatch)


# all, explore, check, report


BAD_OPTIONS = [
    ("dtype", "int8", "Unknown dtype 'int8'"),
    ("device-map", "x" * 5000, "Unknown device_map 'x"),
    ("quantization", "8bit", "Unknown quantization '8bit'"),
    ("attn-implementation", "flash", "Unknown attn_implementation 'flash'"),
    ("max-pixels", "0", "MAX_PIXELS=0 is not a whole number of at least 1"),
    ("image-size", "448x", "image_size='448x' is no width and height"),
    ("image-size", "4\x0748", "IMAGE_SIZE holds the character"),
    ("positions", "everywhere", "Unknown choice of positions 'everywhere'"),
    ("device", "foo!", "DEVICE='foo!' is not a device"),
    ("device", "meta", "DEVICE='meta' is not a device"),
    ("seed", str(2**70), "SEED=1180591620717411303424 is too large: the most is 4294967295"),
    ("seed", "-1", "SEED=-1 is not a whole number of at least 0"),
    ("seed", "1.5", "SEED=1.5 is not a whole number"),
    ("seed", "9" * 5000, "SEED=9{40} is too large"),
    ("samples", "٣", "SAMPLES=٣ is not a whole number of at least 1"),
    ("samples", "0" * 5000, "SAMPLES=0+ is not a whole number of at least 1"),
    ("samples", "1000000000", "SAMPLES=1000000000 is too large"),
    ("tasks", "rendered_svo;csv", "Unknown task 'rendered_svo;csv'"),
    ("tasks", ",", "TASKS is empty"),
    ("tasks", "rendered_svo,rendered_svo", "names a task twice"),
    ("root", "/no/such/place", "ROOT=/no/such/place is for"),
    ("question", "what?", "QUESTION=what\\? is for the task"),
    ("question", "a\x1bb", "QUESTION"),
    ("instruction", "a\x07", r"INSTRUCTION holds the character '\\x07'"),
    ("answer-prefix", "a\x7f", r"ANSWER_PREFIX holds the character '\\x7f'"),
    ("revision", "v 1", "REVISION='v 1' is not the name of a branch"),
    ("revision", "../x", "REVISION='../x' is not the name of a branch"),
    ("model", "a\x00b", r"MODEL holds the character '\\x00'"),
    ("model", "../x", "Unknown model '../x'"),
    ("model", "x" * 5000, "Unknown model 'x{200}'"),
    ("run", "a/b", "A run cannot be called 'a/b'"),
    ("run", "x" * 256, "use at most 100 characters"),
    ("run", "nul", "Windows cannot make a folder"),
]


@pytest.mark.parametrize(("option", "value", "sentence"), BAD_OPTIONS, ids=lambda value: repr(value)[:30])
@pytest.mark.parametrize("target", ["all", "explore", "check"])
def test_a_bad_option_is_refused_by_every_command(target, option, value, sentence):
    given = {"model": "some/model", "tasks": "rendered_svo", option: value}
    arguments = [word for name, text in given.items() for word in (f"--{name}", text)]
    assert re.search(sentence, refused(target, *arguments))
    assert not paths.RUNS.exists(), "something was written"


@pytest.mark.parametrize(("option", "value", "sentence"), BAD_OPTIONS, ids=lambda value: repr(value)[:30])
def test_a_bad_variable_is_refused_as_the_option_is(option, value, sentence):
    if "\x00" in value:
        pytest.skip("a variable cannot hold it")
    given = {"VLMTRACE_MODEL": "some/model", "VLMTRACE_TASKS": "rendered_svo"}
    given[f"VLMTRACE_{option.upper().replace('-', '_')}"] = value
    assert re.search(sentence, refused("check", environment=given))


@pytest.mark.parametrize(
    ("jobs", "sentence"),
    [("0", "at least 1"), ("-2", "at least 1"), ("1000000000", "too large"), ("two", "at least 1")],
)
@pytest.mark.parametrize("target", ["all", "explore"])
def test_a_number_of_jobs_is_a_sensible_one(target, jobs, sentence):
    assert sentence in refused(target, "--tasks", "rendered_svo", "--jobs", jobs)


@pytest.mark.parametrize("name", ["../x", "a\nb", "x" * 256, "con", "a/../../b"])
def test_a_run_to_report_or_compare_is_one(name):
    assert "A run cannot be called" in refused("report", "--run", name)
    assert "A run cannot be called" in refused("all", "--tasks", "rendered_svo", "--beside", name)


def test_tasks_may_stand_between_commas():
    assert (
        CliRunner().invoke(main, ["check", "--model", "a/b", "--tasks", "rendered_svo, rendered_faces"]).exit_code == 0
    )
    assert checks.split_names("a,b c ,, d") == ["a", "b", "c", "d"]


def test_a_file_is_no_folder_of_data(tmp_path):
    (tmp_path / "file.txt").write_text("x")
    said = refused("check", "--tasks", "folder", "--root", tmp_path / "file.txt", "--question", "{a} or {b}?")
    assert "is a file, and the task folder reads a folder" in said


def test_a_question_without_places_for_its_options_is_said_before_anything_starts(tmp_path):
    said = refused("check", "--tasks", "folder", "--root", tmp_path, "--question", "Is it {a}?")
    assert said.startswith("The question 'Is it {a}?' must hold {a} and {b} once each")


def test_the_cpu_is_known_without_a_library():
    script = "import sys; from vlmtrace.pipeline.checks import check_device; check_device('cpu')"
    script += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=paths.ROOT)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("name", ["cuda:99", "mps:3", "nosuch"])
def test_a_device_that_this_machine_lacks_is_refused(name):
    with pytest.raises(VlmtraceError, match=f"The device '{name}' cannot be used here"):
        checks.check_device(name)


def test_a_gpu_that_is_there_is_taken_without_touching_it(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", started)
    for name in ("cuda", "cuda:1"):
        checks.check_device(name)
    with pytest.raises(VlmtraceError, match="The device 'cuda:2' cannot be used here"):
        checks.check_device("cuda:2")


def test_a_home_that_is_none_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path / "file")
    (tmp_path / "file").write_text("x")
    said = refused("check", "--model", "a/b", environment={"VLMTRACE_HOME": str(tmp_path / "file")})
    assert said.startswith("VLMTRACE_HOME=") and said.endswith("is not a folder: make it, or name another.")


# The app


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("run", "../../x", "A run cannot be called '../../x'"),
        ("model", "nope", "Unknown model 'nope'"),
        ("tasks", "nope", "Unknown task 'nope'"),
        ("seed", str(2**70), "is too large"),
        ("port", "70000", "PORT=70000 is too large: the most is 65535"),
        ("port", "0", "PORT=0 is not a whole number of at least 1"),
        ("device", "foo!", "DEVICE='foo!' is not a device"),
        ("quantization", "8bit", "Unknown quantization '8bit'"),
        ("max-pixels", "-1", "MAX_PIXELS=-1 is not a whole number"),
        ("theme", "blue", "Unknown theme 'blue'"),
        ("host", "a\x07", "HOST holds the character"),
    ],
)
def test_the_app_refuses_before_it_serves(monkeypatch, option, value, sentence):
    monkeypatch.setattr(server.os, "execve", started)
    monkeypatch.setattr(server, "prepared", started)
    done = CliRunner().invoke(server.main, [f"--{option}", value])
    assert done.exit_code == 1 and sentence in done.output and len(done.output.splitlines()) == 1, done.output


def test_the_kernels_of_the_app_are_of_this_very_python(tmp_path, monkeypatch):
    from jupyter_client.kernelspec import KernelSpecManager

    other = tmp_path / "other/kernels/python3"
    other.mkdir(parents=True)
    (other / "kernel.json").write_text('{"argv": ["/opt/gone/python"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "other"))
    folder = server.prepared(tmp_path / "app", run="r").parent
    for name, value in server.environment(folder).items():
        monkeypatch.setenv(name, value)
    assert KernelSpecManager().get_kernel_spec("python3").argv[0] == sys.executable
    assert server.environment(folder)["IPYTHONDIR"] == str(folder / "ipython")


def test_what_the_system_refuses_anywhere_is_one_sentence(monkeypatch):
    def refuse(*_arguments):
        raise PermissionError(13, "Permission denied", "/some/place")

    monkeypatch.setattr("vlmtrace.pipeline.cli.check_model", refuse)
    assert (
        refused("check") == "The system refuses: /some/place: Permission denied. Look at the permissions and the disk."
    )
