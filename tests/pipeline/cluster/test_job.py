"""What travels to a worker: names, never objects that it could not find again."""

from dataclasses import replace

import pytest
from fixtures import cluster_functions
from fixtures.clusters import fake_model

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.models.load_options import LoadOptions
from vlmtrace.pipeline.cluster.job import find_function, name_function, name_model


def test_a_public_function_is_found_again_by_its_name():
    for function in (vt.patch_heads, vt.patch_modules, vt.causal_trace, cluster_functions.double):
        assert find_function(*name_function(function)) is function


class Holder:
    def method(self, model, rows):
        """Has no name at the top of its module."""


def test_what_has_no_name_of_its_own_is_refused():
    def local(model, rows):
        """Stands within another function."""

    for function in (lambda model, rows: rows, local, Holder().method, Holder.method, len.__call__):
        with pytest.raises(VlmtraceError, match=r"by name: pass a function that stands at the top of a module"):
            name_function(function)


def test_a_function_of_the_notebook_is_refused(monkeypatch):
    monkeypatch.setattr(cluster_functions.double, "__module__", "__main__")
    with pytest.raises(VlmtraceError, match="this notebook or script defines: put it into a module"):
        name_function(cluster_functions.double)


def test_workers_use_the_kind_of_device_of_the_notebook_or_their_own():
    model = fake_model()
    assert name_model(model, "").device == "cpu" and name_model(model, "").checked
    assert name_model(model, "cuda").device == "cuda" and not name_model(model, "cuda").checked


def test_workers_load_a_model_as_the_notebook_did():
    model = fake_model()
    model.load_options = LoadOptions.of("bfloat16", max_pixels=900, image_size="40x20", attn_implementation="eager")
    told = dict(name_model(model, "").options)
    assert told == {"max_pixels": 900, "image_size": (40, 20), "attn_implementation": "eager"}
    assert LoadOptions.of("bfloat16", **told) == model.load_options


def test_a_model_on_several_devices_is_no_workers(monkeypatch):
    model = fake_model()
    model.load_options = replace(LoadOptions(), device_map="auto")
    with pytest.raises(VlmtraceError, match=r"spread over devices \(device_map\), and each worker"):
        name_model(model, "")


def test_a_directory_is_named_by_its_whole_path(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    named = name_model(fake_model("mine"), "")
    assert named.name == "mine" and named.source == str(tmp_path / "mine")
