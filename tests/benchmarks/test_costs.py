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


@pytest.mark.parametrize("wrong", [{"pairs": 0}, {"gpus": 0}, {"seconds_per_pair": 0}, {"efficiency": 1.5}])
def test_impossible_studies_get_a_sentence(wrong):
    with pytest.raises(VlmtraceError, match="at least one pair and GPU"):
        cost(**({"pairs": 5, "seconds_per_pair": 1.0} | wrong))


def test_command_line_divides_operations_by_a_rate():
    run = CliRunner().invoke(main, "--pairs 1600 --operations 40e12 --rate 20e12 --gpus 10 --rows 100".split())
    assert run.output.startswith("0.09 hours on 10 GPUs (0.9 GPU hours), 2 s a pair\n160,000 effects, 0.00 GB")
    assert "Give --seconds" in CliRunner().invoke(main, ["--pairs", "5"]).output
