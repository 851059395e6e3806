"""CLUSTER and CLUSTER_CONFIG: what they may say, and the sentence for everything else."""

import pytest

from vlmtrace.core.errors import VlmtraceError
from vlmtrace.pipeline.cluster.options import _READERS, Options, read_options, read_where

EVERYTHING = """
partition: gpu
account: lab
walltime: 4:00:00
gres: gpu:a100:1
memory: 64GB
cores: 8
workers: {min: 1, max: 16}
prologue:
  - module load cuda
  - source ~/env/bin/activate
directives: ["--constraint=a100"]
skip: ["--mem"]
interface: ib0
python: /opt/env/bin/python
logs: /scratch/logs
scratch: /tmp
dashboard: 0.0.0.0:9000
device: cuda
wait: 300
"""


NO_CLUSTER = [
    "",
    "local",
    "local:",
    "local:0",
    "local:x",
    "local:99999",
    "local:" + "9" * 5000,
    "slurm:4",
    "http://h:1",
]
NO_CLUSTER += ["tcp://", "tcp://host", "tcp://h:0", "tcp://h:99999", "tcp://h:1 ", "tcp://h:1\n", "4", "dask"]


@pytest.mark.parametrize("text", NO_CLUSTER)
def test_what_is_no_cluster_is_a_sentence(text):
    with pytest.raises(VlmtraceError, match="CLUSTER"):
        read_where(text)


@pytest.mark.parametrize("text", ["tcp://10.0.0.1:8786", "tls://node-3.lab:8786", "tcp://[::1]:8786"])
def test_addresses_of_schedulers_are_taken(text):
    assert read_where(text).address == text


def test_every_option_is_read_from_yaml(tmp_path):
    path = tmp_path / "slurm.yaml"
    path.write_text(EVERYTHING)
    assert read_options(path, read_where("slurm")) == Options(
        partition="gpu", account="lab", walltime="4:00:00", gres="gpu:a100:1", memory="64GB", cores=8, fewest=1,
        most=16, prologue=("module load cuda", "source ~/env/bin/activate"), directives=("--constraint=a100",),
        skip=("--mem",), interface="ib0", python="/opt/env/bin/python", logs="/scratch/logs", scratch="/tmp",
        dashboard="0.0.0.0:9000", device="cuda", wait=300,
    )  # fmt: skip


def test_a_mapping_says_the_same_as_a_file():
    where = read_where("slurm")
    assert read_options({"memory": "4GB", "workers": 3, "cores": 2}, where) == Options(memory="4GB", most=3, cores=2)


WRONG = {
    "partition": ["", "a b", "x\ny", ["gpu"], "a;rm -rf /", "$(id)"],
    "account": ["", "a b", "`id`"],
    "walltime": ["", "an hour", "60", "1:2:3:4", "-1:00:00", "00:00:00", "01:00"[:3]],
    "gres": ["", "gpu 1", "gpu:1\n#SBATCH x"],
    "memory": ["", "much", "64", "64 gigabytes", "-4GB", "0GB"],
    "cores": ["0", "x", "-1", "1.5", "99999", ["1"]],
    "workers": ["0", "x", {"min": "4", "max": "2"}, {"least": "1"}, {"max": "0"}, ["4"]],
    "prologue": [{"a": "b"}, [["x"]], ["a\x07b"]],
    "directives": [{"a": "b"}, ["--x\x00"], ["exclude"]],
    "skip": [{"a": "b"}],
    "interface": ["", "ib 0", "ib0;x"],
    "python": ["", "/a path/python", "py'thon"],
    "logs": ["", "/a b"],
    "scratch": ["", "/a b"],
    "dashboard": ["", "yes", "8787", "localhost:8787", "127.0.0.1", "127.0.0.1:99999", ":8787"],
    "device": ["", "gpu", "cuda:0", "tpu"],
    "wait": ["", "0", "soon"],
    "tls": ["", "cert.pem", {"ca": "a"}, {"ca": "/none", "cert": "/none", "key": "/none"}],
}


def test_every_option_is_tried_with_wrong_values():
    assert WRONG.keys() == _READERS.keys()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_a_sentence_that_names_the_option(name, value):
    where = read_where("tls://h:1" if name == "tls" else "slurm")
    with pytest.raises(VlmtraceError, match=f"(?s){name}"):
        read_options({"memory": "1GB", name: value} if name not in ("tls", "memory") else {name: value}, where)


@pytest.mark.parametrize("name", [name for name, (kinds, _) in _READERS.items() if "local" not in kinds])
def test_an_option_of_another_cluster_is_refused(name):
    with pytest.raises(VlmtraceError, match=f"{name} is for .*leave it out"):
        read_options({name: "1"}, read_where("local:2"))


def test_paths_are_seen_from_where_the_command_was_typed(tmp_path, monkeypatch):
    """Notebooks and jobs run in other folders."""
    monkeypatch.chdir(tmp_path)
    given = {"memory": "1GB", "logs": "my-logs", "scratch": "./scratch", "python": "env/bin/python"}
    found = read_options(given, read_where("slurm"))
    wanted = [str(tmp_path / name) for name in ("my-logs", "scratch", "env/bin/python")]
    assert [found.logs, found.scratch, found.python] == wanted
    assert read_options({"memory": "1GB", "python": "python3"}, read_where("slurm")).python == "python3"


def test_an_unknown_option_lists_those_that_exist():
    with pytest.raises(VlmtraceError, match=r"Unknown option in config 'queue': choose one of partition, "):
        read_options({"queue": "gpu"}, read_where("slurm"))


def test_slurm_needs_to_know_the_memory():
    with pytest.raises(VlmtraceError, match="memory is missing"):
        read_options(None, read_where("slurm"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"a: [", "not valid YAML"), (b"- a\n- b", "holds no options"), (b"\xff\xfe\x00", "not valid YAML"),
     (b"memory: !!python/object/apply:os.system ['x']", "memory"), (b"just text", "holds no options"),
     (b"memory: 1GB\nwalltime: '1:00:00'\nmemory: 64GB", r"memory stands there twice .* line 3")],
)  # fmt: skip
def test_a_file_that_is_no_yaml_of_options_is_a_sentence(tmp_path, content, sentence):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(VlmtraceError, match=sentence):
        read_options(path, read_where("slurm"))


def test_a_file_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(VlmtraceError, match=r"none\.yaml cannot be read .No such file"):
        read_options(tmp_path / "none.yaml", read_where("local:1"))


def test_an_empty_file_gives_the_defaults(tmp_path):
    (tmp_path / "c.yaml").write_text("# nothing yet\n")
    assert read_options(tmp_path / "c.yaml", read_where("local:1")) == Options()
