"""What a study costs, worked out by hand."""

import pytest
from click.testing import CliRunner

from vlmtrace.benchmarks.costs import cost, main
from vlmtrace.core.errors import VlmtraceError


def test_parts_go_to_the_gpus_in_rounds():
    # 100 pairs are 7 parts; on 4 GPUs that is 2 rounds of 16 pairs at 9 s.
    found = cost(100, 9.0, gpus=4, rows_per_pair=10, bytes_per_row=30)
    assert found.hours == pytest.approx(2 * 16 * 9 / 3600)
    assert found.gpu_hours == pytest.approx(4 * found.hours)
    assert found.effects == 1000 and found.gigabytes == pytest.approx(3e-5)


def test_start_and_efficiency_add_to_it():
    assert cost(16, 9.0, efficiency=0.9, start_seconds=40).hours == pytest.approx(200 / 3600)


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    "wrong",
    [{"pairs": 0}, {"gpus": 0}, {"efficiency": 1.5}, {"efficiency": NAN}]
    + [{"seconds_per_pair": seconds} for seconds in (0, -1, NAN, INFINITE)],
)
def test_impossible_studies_get_a_sentence(wrong):
    with pytest.raises(VlmtraceError, match="at least one pair and GPU"):
        cost(**({"pairs": 5, "seconds_per_pair": 1.0} | wrong))


@pytest.mark.parametrize("value", [-1, NAN, INFINITE])
@pytest.mark.parametrize("name", ["rows_per_pair", "start_seconds", "bytes_per_row"])
def test_negative_and_endless_numbers_get_a_sentence(name, value):
    with pytest.raises(VlmtraceError, match="must be finite numbers from 0 on"):
        cost(5, 1.0, **{name: value})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--pairs 0 --seconds 1", "Error: A cost needs at least one pair"),
        ("--pairs 5 --seconds nan", "Error: A cost needs at least one pair"),
        ("--pairs 5 --seconds 1 --start -5", "must be finite numbers from 0 on"),
        ("--pairs 5 --operations -2 --rate -1", "must be finite numbers above 0"),
        ("--pairs 5 --operations 2 --rate inf", "must be finite numbers above 0"),
    ],
)
def test_command_line_ends_with_a_sentence(options, said):
    run = CliRunner().invoke(main, options.split())
    assert run.exit_code and isinstance(run.exception, SystemExit), f"a traceback: {run.exception!r}"
    assert said in run.output


def test_one_gpu_and_the_disk_while_the_stage_runs():
    run = CliRunner().invoke(main, "--pairs 5000 --seconds 2 --rows 1024".split())
    assert " hours on 1 GPU (" in run.output
    # 5,120,000 effects of 28 bytes: the table, its parts, and the file that these are gathered in.
    assert "0.14 GB on disk, 0.43 GB until the stage is finished" in run.output


def test_command_line_divides_divides_operations_by_a_rate():
    run = CliRunner().invoke(main, "--pairs 1600 --operations 40e12 --rate 20e12 --gpus 10 --rows 100".split())
    assert run.output.startswith("0.09 hours on 10 GPUs (0.9 GPU hours), 2 s a pair\n160,000 effects, 0.00 GB")
    assert "Give --seconds" in CliRunner().invoke(main, ["--pairs", "5"]).output
