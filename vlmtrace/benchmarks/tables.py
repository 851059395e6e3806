"""The benchmark's figures as tables, for the terminal and for the documentation alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

#: What the ways of doing a patch are called.
WAYS = {
    "hooked": "one hooked forward pass for each patch",
    "published": "the published procedure: three passes for each patch, images prepared every time",
}


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of one width, which is also how a page is written."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * max(3, width) for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def _times(value: float) -> str:
    """A ratio, to three digits at most."""
    return f"{value:,.0f} ×" if value >= 10 else f"{value:.2g} ×"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _difference(value: float | None) -> str:
    return "–" if value is None else f"{value:.0e}"


def sweeps_table(sweeps: Mapping[str, Mapping[str, Any]]) -> str:
    """One pair's sweep of each model beside other ways."""
    ways = dict.fromkeys(way for found in sweeps.values() for way in found["times_faster_than"])
    every = list(sweeps.values())
    rows = [
        ["patches of one pair", *(f"{found['patches']:,}" for found in every)],
        ["tokens of the prompt, image tokens in it included", *(f"{found['length']}" for found in every)],
        ["seconds for all of them", *(f"{found['seconds']:.2g}" for found in every)],
    ]
    for way in ways:
        ratios = [found["times_faster_than"].get(way) for found in every]
        shown = ["–" if ratio is None else f"{_times(ratio)} slower" for ratio in ratios]
        rows.append([WAYS.get(way, way), *shown])
    rows += [
        ["largest difference in logits to any of them", *(_difference(_worst(found)) for found in every)],
        [
            "largest difference at drawn sites of every module, to hooks",
            *(_difference(found["largest_difference_at_sites_of_every_module"]) for found in every),
        ],
        ["largest effect in logits", *(f"{found['largest_effect']:.2g}" for found in every)],
        ["operations, in G", *(f"{found['operations'] / 1e9:,.1f}" for found in every)],
        [
            "share of the rate of the fastest large matrix product",
            *(f"{found['share_of_matmul_rate']:.0%}" for found in every),
        ],
        [
            "memory at the peak, of what is allowed",
            *(f"{one['memory_peak_bytes'] / 1e6:.0f} of {one['memory_setting_bytes'] / 1e6:.0f} MB" for one in every),
        ],
        [
            "largest difference in logits with a quarter of it",
            *(_difference(found["largest_difference_at_quarter_memory"]) for found in every),
        ],
    ]
    return _table(["", *sweeps], rows)


def _worst(found: Mapping[str, Any]) -> float:
    return max(value for name, value in found.items() if name.startswith("largest_difference_to_"))


def road_table(roads: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole road of each model, with each library."""
    rows = []
    for model, road in roads.items():
        own = road["ways"]["vlmtrace"]["seconds"]
        for name, way in road["ways"].items():
            ratio = "–" if name == "vlmtrace" else f"{_times(way['seconds'] / own)} slower"
            all_of_them = way["done"] >= way["of_all"]
            how = "all" if all_of_them else f"{way['done']:,} of {way['of_all']:,}, extrapolated"
            rows.append([model, name, _span(way["seconds"]), ratio, how, _difference(way.get("largest_difference"))])
    return _table(["model", "with", "images to head table", "", "patches that were run", "largest difference"], rows)


def growth_table(records: Sequence[Mapping[str, Any]]) -> str:
    """Cost per patch of each size, as a multiple of the first."""
    rows = []
    columns = {"layers": "layers", "image positions": "image_positions", "pairs": "pairs"}
    ordered = sorted(records, key=lambda one: (one["family"], one["positions"], list(columns).index(one["grows"])))
    for (family, positions, grows), group in groupby(
        ordered, key=lambda one: (one["family"], one["positions"], one["grows"])
    ):
        found = sorted(group, key=lambda one: one[columns[one["grows"]]])
        sizes = ", ".join(str(one[columns[one["grows"]]]) for one in found)
        times = ", ".join(f"{one['times_the_first']:.2g}" for one in found)
        rows.append([family, positions, f"{grows}: {sizes}", times, f"{found[0]['seconds_per_patch'] * 1e3:.2g} ms"])
    return _table(
        ["random model", "positions patched", "what grows", "cost of a patch, first = 1", "of the first"], rows
    )


def ways_table(models: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """Interventions beside the hooked way, by model."""
    rows = [
        [model, name, f"{found['rows']:,}", f"{found['seconds']:.2g} s", _times(found["times_faster"]),
         _difference(found["largest_difference"])]
        for model, ways in models.items()
        for name, found in ways.items()
    ]  # fmt: skip
    return _table(["model", "interventions", "rows", "seconds", "faster than hooks", "largest difference"], rows)


def edges_table(models: Mapping[str, Mapping[str, Any]]) -> str:
    """All edges of a pair, by model, beside its heads and beside hooked runs."""
    rows = [
        [model, f"{found['edges']:,}", f"{found['seconds']:.2g} s", f"{found['heads']:,}",
         f"{found['heads_seconds']:.2g} s", _times(found["times_the_heads"]), f"{found['hooked_seconds']:.2g} s",
         _times(found["times_faster_than_hooked"]), _difference(found["largest_difference"]),
         f"{found['largest_effect']:.2g}"]
        for model, found in models.items()
    ]  # fmt: skip
    return _table(
        ["model", "edges", "all edges", "head patches", "all of them", "edges : heads",
         "one hooked run an edge", "faster than that", "largest difference", "largest effect"],
        rows,
    )  # fmt: skip


def versions_table(rows_found: Mapping[str, Mapping[str, Any]]) -> str:
    """Two versions, row by row."""
    rows = []
    for row, found in rows_found.items():
        if "left_out" in found:
            rows.append([row, f"left out: {found['left_out']}", *[""] * 5])
            continue
        share = published = "–"
        if "before_published" in found:
            share = f"{found['before_share']:.0%} → {found['after_share']:.0%}"
            published = f"{_times(found['before_published'])} → {_times(found['after_published'])}"
        rows.append(
            [
                row,
                f"{found['before_seconds']:.3g} s",
                f"{found['after_seconds']:.3g} s",
                _times(found["times_faster"]),
                share,
                published,
                _difference(found["largest_difference"]),
            ]
        )
    header = ["", "before", "after", "faster", "share of the matrix-product rate", "than the published procedure"]
    return _table([*header, "largest difference"], rows)


def accelerator_table(found: Mapping[str, Any]) -> str:
    """Steps, what they took, and what they found."""
    rows = []
    for step in found["steps"]:
        rest = {name: value for name, value in step.items() if name not in ("name", "status", "seconds", "sentence")}
        said = f"{step['status']}: {step['sentence']}" if step["sentence"] else _said(rest)
        rows.append([step["name"], f"{step['seconds']:.0f} s", said])
    return _table(["step", "took", "found"], rows)


def _said(values: Mapping[str, Any]) -> str:
    parts = []
    for name, value in values.items():
        words = name.replace("_", " ")
        if isinstance(value, Mapping):
            parts.append(f"{words}: {_said(value)}")
        elif isinstance(value, float):
            parts.append(f"{words} {value:.1%}" if name.startswith("share") else f"{words} {value:.3g}")
        elif isinstance(value, int):
            parts.append(f"{words} {value:,}")
        else:
            parts.append(f"{words} {value}")
    return "; ".join(parts)


#: By part of the benchmark, its title and its table.
PARTS = {
    "sweeps": ("Sweeps of one pair", sweeps_table),
    "road": ("The whole road, images to head table", road_table),
    "growth": ("Cost of a patch as sizes grow", growth_table),
    "ways": ("Other interventions, fast and by hooks", ways_table),
    "edges": ("All edges of one pair", edges_table),
}


def render(found: Mapping[str, Any]) -> str:
    """All parts that were measured, for the terminal."""
    return "\n\n".join(
        f"{title}\n{table(found[name])}"  # type: ignore[operator]
        for name, (title, table) in PARTS.items()
        if name in found
    )
