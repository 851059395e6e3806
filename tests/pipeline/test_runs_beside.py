"""Which run is compared with: it is only read, it is remembered, and what cannot be compared is said in time."""

import pytest
from fixtures.stand_in_stages import ONE_TASK, A, B, make, stand_in_home, stand_in_stages

from vlmtrace.core import paths
from vlmtrace.core.files import write_json
from vlmtrace.pipeline.runs import open_run

LLAVA = ("--model", "tiny-llava")
MINE = ("--model", "some/llava")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A data folder, and notebooks of stand-ins."""
    with stand_in_home(tmp_path, monkeypatch) as home:
        yield home


@pytest.fixture
def ran(monkeypatch):
    """What ran, in order, and which run each report was compared with."""
    return stand_in_stages(monkeypatch)


def content(run):
    """Every file of a run."""
    return {path: path.read_bytes() for path in open_run(run).folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "made", [(*MINE, "--run", "other"), ("--seed", "1", "--run", "other"), ("--samples", "8", "--run", "other")]
)
def test_a_run_that_was_made_otherwise_is_compared_with_as_it_is(ran, made):
    make(ran, *made)
    before = content("other")
    log, _ = make(ran, *LLAVA, "--beside", "other")
    assert sorted(log) == sorted([*ONE_TASK, "report tiny-llava"]), "only tiny-llava's stages run"
    assert ran.beside[-1] == ("tiny-llava", "other") and content("other") == before


def test_tiny_blips_run_is_compared_with_as_it_is_where_it_was_made_by_hand(ran):
    make(ran, "--seed", "1")
    before = content("default")
    make(ran, *LLAVA)
    assert ran.beside[-1] == ("tiny-llava", "default") and content("default") == before
    make(ran, *LLAVA, "--seed", "1")
    assert content("default") == before, "it is up to date"


def test_tiny_blips_run_is_finished_where_nothing_of_it_is_replaced(ran):
    make(ran, target="explore")
    log, _ = make(ran, *LLAVA)
    assert sorted(log) == sorted([*ONE_TASK, *ONE_TASK, "report", "report tiny-llava"])
    open_run("default").path("heads").unlink()
    assert "06" in make(ran, *LLAVA)[0], "and kept up to date"


def test_more_tasks_of_tiny_llava_leave_tiny_blips_run_as_it_is(ran):
    make(ran)
    before = content("default")
    make(ran, *LLAVA, tasks=f"{A} {B}")
    assert content("default") == before, "the stage over all tasks would be one of other tasks"


def test_a_run_called_as_a_model_is_not_made_with_another(ran):
    log, said = make(ran, *LLAVA, "--beside", "smol-llava", fails=True)
    assert log == [] and not (paths.RUNS / "smol-llava").exists()
    assert said.strip() == (
        "Error: BESIDE=smol-llava cannot be compared with: there is no such run yet. Make it (make all "
        "MODEL=smol-llava), or name another run."
    )


def test_explorers_of_tiny_llava_are_not_put_into_a_run_of_another_model(ran):
    make(ran, *MINE, "--run", "x-llava")
    before = content("x-llava")
    log, said = make(ran, "--run", "x", target="explore", fails=True)
    assert log == [] and "Run x-llava, in which tiny-llava would be explored beside run x, is of another model" in said
    assert "is of another model" in make(ran, "--run", "smol", target="explore", fails=True)[1]
    assert content("x-llava") == before and not (paths.RUNS / "smol-llava").exists()


def test_explorers_keep_the_comparison(ran):
    make(ran, *LLAVA)
    ran.beside.clear()
    make(ran, target="explore")
    assert ran.beside == [("default", ""), ("tiny-llava", "default")]
    make(ran, *LLAVA, target="explore")
    assert open_run("tiny-llava").record()["beside"] == "default"


def test_the_explorers_own_run_is_the_one_that_is_compared(ran):
    make(ran)
    make(ran, *MINE, "--run", "other")
    ran.beside.clear()
    make(ran, "--beside", "other", target="explore")
    assert ran.beside == [("default", "other"), ("tiny-llava", "")]
    ran.content = "anew"
    make(ran, "--seed", "1")
    assert ran.beside[-1] == ("default", "other"), "what was given once is remembered"


def test_a_comparison_can_be_given_up(ran):
    make(ran, *LLAVA)
    make(ran, *LLAVA, "--beside", "-")
    assert ran.beside[-1] == ("tiny-llava", "") and open_run("tiny-llava").record()["beside"] == ""
    assert make(ran, *LLAVA, "--beside", "-")[0] == []
    make(ran, "--seed", "1", target="explore")
    assert ran.beside[-1] == ("tiny-llava", "")


def test_another_run_beside_draws_the_report_again(ran):
    make(ran, *MINE, "--run", "one")
    make(ran, *MINE, "--run", "two")
    make(ran, "--beside", "one")
    assert make(ran, "--beside", "two")[0] == ["report"]
    assert make(ran)[0] == [], "the one that is remembered"
    (open_run("two").folder / "run.json").unlink()
    assert make(ran)[0] == ["report"], "it says that the other run is gone"


def test_what_cannot_be_compared_with_is_said_with_its_reason(ran):
    make(ran, "--run", "copy")
    make(ran, *MINE, "--run", "elsewhere", tasks=B)
    make(ran, *MINE, "--run", "explored", target="explore")
    for beside, why in {
        "copy": "it is of the same model",
        "elsewhere": f"it has patched {B}, and not {A}",
        "explored": "it lacks heads and head_functions, which make all RUN=explored computes",
        "nowhere": "it has no finished stage",
        "default": "it is this very run",
    }.items():
        log, said = make(ran, "--beside", beside, fails=True)
        wanted = f"Error: BESIDE={beside} cannot be compared with: {why}. Name a run of another model.\n"
        assert (log, said) == ([], wanted)


def test_models_of_the_hub_are_told_apart_by_their_revision(ran):
    make(ran, *MINE, "--revision", "v1", "--run", "one")
    record = open_run("one").record()
    record["parameters"]["model"] = "some/llava@v1"  # as a stage records it
    write_json(record, open_run("one").folder / "run.json")
    _, said = make(ran, *MINE, "--revision", "v1", "--run", "mine", "--beside", "one", fails=True)
    assert "it is of the same model" in said
    make(ran, *MINE, "--revision", "v2", "--run", "mine", "--beside", "one")
    assert ran.beside[-1] == ("mine", "one")


@pytest.mark.parametrize("damaged", ["{", "[]", '{"model_type": 3}', "\xff"])
@pytest.mark.parametrize("given", [(), LLAVA])
def test_a_damaged_configuration_is_a_sentence(ran, home, damaged, given):
    path = home / "models" / (given[1] if given else "tiny-blip") / "config.json"
    path.write_bytes(damaged.encode("latin-1"))
    log, said = make(ran, *given, target="explore", fails=True)
    assert log == [] and said.startswith("Error: ") and len(said.splitlines()) == 1 and "config.json" in said
