"""Methods of the benchmark, and of somebody's own."""

import sys

import pytest

from vlmtrace.benchmarks.circuits import registry
from vlmtrace.benchmarks.circuits.__main__ import methods_named, models_named
from vlmtrace.benchmarks.circuits.registry import METHODS, chosen_methods, circuit_method
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.training.planted.known import PLANTED


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of somebody's own in the working folder."""
    source = 'NO_FUNCTION = 1\n\n\ndef mine(model, pairs, corruption):\n    """Knows nothing.\n\n    More."""\n'
    (tmp_path / "own_methods_of_a_test.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield "own_methods_of_a_test"
    sys.modules.pop("own_methods_of_a_test", None)


def test_every_method_that_was_promised_has_a_row():
    promised = {"exact edges", "EAP", "EAP-IG-inputs", "EAP-IG-activations", "clean-corrupted", "computed-receivers"}
    promised |= {"ACDC", "exact nodes", "attribution", "integrated gradients", "AtP", "QK-fix", "AtP*"}
    promised |= {"ablation by 0", "attention weight", "relevancy", "CLEANN", "random"}
    assert promised <= set(METHODS)
    for method in METHODS.values():
        assert method.what.endswith(".") and len(method.what) < 100, method.name
        assert method.what != method.name, f"{method.name} does not say what it does"


def test_a_method_of_ones_own_stands_beside_all_others(own):
    found = methods_named(f"{own}:mine")
    assert [one.name for one in found] == [*METHODS, f"{own}:mine"]
    assert found[-1].what == "Knows nothing." and found[-1].file.name == f"{own}.py"
    assert [one.name for one in methods_named(f"random; {own}:mine ;")] == ["random", f"{own}:mine"]


def test_names_with_commas_and_blanks_are_names():
    assert [one.name for one in methods_named("exact edges, noising; ACDC")] == ["exact edges, noising", "ACDC"]
    assert METHODS["ACDC"].most_pairs == 1


def test_a_method_may_be_named_by_its_function_too():
    name = METHODS["relevancy"].function.__module__
    assert chosen_methods([f"{name}:relevancy"]) == [METHODS["relevancy"]]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("EAPP", "method 'EAPP'.*EAP"),
        ("own_methods_of_a_test:yours", "has no function 'yours'"),
        ("own_methods_of_a_test:NO_FUNCTION", "is no function"),
        ("no_such_module_here:mine", "no module 'no_such_module_here'"),
        (":mine", "write module:function"),
        ("own_methods_of_a_test:", "write module:function"),
    ],
)
def test_what_is_no_method_is_a_sentence(own, name, sentence):
    with pytest.raises(VlmtraceError, match=sentence):
        methods_named(name)


def test_two_methods_of_one_name_are_refused(monkeypatch):
    monkeypatch.setattr(registry, "METHODS", {"taken": METHODS["random"]})
    with pytest.raises(VlmtraceError, match="method 'taken' already"):
        circuit_method("taken")(lambda model, pairs, corruption: None)


def test_models_are_planted_ones():
    assert models_named("") == list(PLANTED)
    assert models_named("planted-chain-blip planted-chain-llava") == ["planted-chain-blip", "planted-chain-llava"]
    with pytest.raises(VlmtraceError, match="tiny-blip"):
        models_named("tiny-blip")
