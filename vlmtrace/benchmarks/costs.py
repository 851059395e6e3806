"""What a study costs: hours, disk and memory, from what one pair was measured to cost.

python -m vlmtrace.benchmarks.costs --pairs 5000 --seconds 2 --gpus 8 --rows 1024
python -m vlmtrace.benchmarks.costs --pairs 5000 --operations 40e12 --rate 200e12 --gpus 8 --rows 1024
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import click

from vlmtrace.core.errors import VlmtraceError

#: Pairs of a part: what one GPU computes at a time, and what is lost at most when it dies.
PART = 16


@dataclass(frozen=True)
class Cost:
    """What a study costs.

    Attributes:
        hours: from start to end
        gpu_hours: of all GPUs together, those that wait for the last part included
        effects: rows of its table
        gigabytes: of the table on disk. Until the stage is finished its parts need as much again, and the file that
            they are gathered in a third time
    """

    hours: float
    gpu_hours: float
    effects: int
    gigabytes: float


def cost(
    pairs: int,
    seconds_per_pair: float,
    gpus: int = 1,
    rows_per_pair: int = 0,
    efficiency: float = 1.0,
    start_seconds: float = 0.0,
    bytes_per_row: float = 28.0,
) -> Cost:
    """Reckon what a study costs. Nothing is measured here.

    Parts of 16 pairs go to the GPUs in rounds: hours = (start + rounds × 16 × seconds / efficiency) / 3600, with
    rounds = ⌈⌈pairs / 16⌉ / GPUs⌉.

    Args:
        pairs: times corruptions: each corruption is a sweep of its own
        seconds_per_pair: of one GPU
        gpus: how many compute at the same time
        rows_per_pair: effects of one pair
        efficiency: which share of the time the parts get, 0 to 1
        start_seconds: until all workers have loaded the model
        bytes_per_row: of the table's file

    Returns:
        the cost

    Raises:
        VlmtraceError: there are no pairs or GPUs, a time is not above 0, the efficiency is not a share, or another
            number is negative or not finite

    >>> cost(5000, 2.0, gpus=8, rows_per_pair=1024)
    Cost(hours=0.35555555555555557, gpu_hours=2.8444444444444446, effects=5120000, gigabytes=0.14336)
    """
    if pairs < 1 or gpus < 1 or not 0 < seconds_per_pair < math.inf or not 0 < efficiency <= 1:
        raise VlmtraceError(
            "A cost needs at least one pair and GPU, seconds above 0, and an efficiency above 0 and at most 1."
        )
    if not 0 <= rows_per_pair < math.inf or not 0 <= start_seconds < math.inf or not 0 <= bytes_per_row < math.inf:
        raise VlmtraceError("Effects, seconds of the start, and bytes of an effect must be finite numbers from 0 on.")
    rounds = math.ceil(math.ceil(pairs / PART) / gpus)
    seconds = start_seconds + rounds * min(PART, pairs) * seconds_per_pair / efficiency
    effects = pairs * rows_per_pair
    return Cost(seconds / 3600, gpus * seconds / 3600, effects, effects * bytes_per_row / 1e9)


@click.command()
@click.option("--pairs", type=int, required=True, help="Pairs, times corruptions.")
@click.option("--seconds", type=float, help="Seconds of one pair on one GPU, measured.")
@click.option("--operations", type=float, help="Instead: operations of one pair, as make bench counts them.")
@click.option("--rate", type=float, help="With operations: how many a second the sweep reaches on your card.")
@click.option("--gpus", default=1, show_default=True)
@click.option("--rows", default=0, show_default=True, help="Effects of one pair: heads × positions.")
@click.option("--efficiency", default=1.0, show_default=True, help="As make bench-scale measures it.")
@click.option("--start", default=0.0, show_default=True, help="Seconds until the workers have loaded the model.")
def main(
    pairs: int,
    seconds: float | None,
    operations: float | None,
    rate: float | None,
    gpus: int,
    rows: int,
    efficiency: float,
    start: float,
) -> None:
    """Print what a study costs."""
    if seconds is None:
        if operations is None or rate is None:
            raise click.UsageError("Give --seconds, or --operations and --rate.")
        if not (0 < operations < math.inf and 0 < rate < math.inf):
            raise click.UsageError("--operations and --rate must be finite numbers above 0.")
        seconds = operations / rate
    try:
        found = cost(pairs, seconds, gpus, rows, efficiency, start)
    except VlmtraceError as error:
        raise click.ClickException(str(error)) from error
    cards = f"{gpus} GPU" if gpus == 1 else f"{gpus} GPUs"
    click.echo(f"{found.hours:.2f} hours on {cards} ({found.gpu_hours:.1f} GPU hours), {seconds:.3g} s a pair")
    if rows:
        click.echo(
            f"{found.effects:,} effects, {found.gigabytes:.2f} GB on disk, {3 * found.gigabytes:.2f} GB until the stage"
            " is finished"
        )


if __name__ == "__main__":
    main()
