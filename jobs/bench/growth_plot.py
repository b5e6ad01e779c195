"""Draws what `jobs.bench.growth` measured: a column of two small charts for each thing that varies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLUMNS = {
    "batch": ("pictures in a batch", {"batch": ""}),
    "steps": ("steps", {"prior_steps": "Stage C", "decoder_steps": "Stage B"}),
    "side": ("picture, pixels a side", {"side": ""}),
    "shards": ("shards of a run", {"shards": ""}),
}
"""Of each column: the name of its axis, and its lines with their labels."""
GREY, COLOURS = "#7d8590", ("#3f88e8", "#e0723a")
"""Readable on white and on black: the picture has no ground of its own."""
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "growth",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **{f"{what}color": GREY for what in ("text.", "axes.label", "axes.edge", "xtick.", "ytick.")},
}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """An SVG: seconds of a picture above, peak memory below."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, len(COLUMNS), figsize=(10, 4.2), sharex="col", layout="constrained")
        for column, (name, lines) in enumerate(COLUMNS.values()):
            _column(axes[:, column], name, lines, rows)
        axes[0, 0].set_ylabel("seconds a picture")
        axes[1, 0].set_ylabel("peak memory, GB")
        figure.savefig(path, transparent=True, metadata={"Date": None})


def _column(axes: Any, name: str, lines: dict[str, str], rows: Sequence[dict[str, Any]]) -> None:
    for (panel, label), colour in zip(lines.items(), COLOURS, strict=False):
        points = [row for row in rows if row["panel"] == panel]
        values = [row["value"] for row in points]
        memory = [row["memory_mb"] / 1000 for row in points]
        for axis, heights in zip(axes, ([row["seconds"] for row in points], memory), strict=True):
            axis.plot(values, heights, "o-", color=colour, label=label, markersize=4, linewidth=1.5)
            axis.set_ylim(0, max(1.1 * max(heights), axis.get_ylim()[1]))
            axis.grid(color=GREY, alpha=0.25, linewidth=0.5)
    ticks = sorted({row["value"] for row in rows if row["panel"] in lines})
    axes[1].set_xticks(ticks, [str(tick) for tick in ticks])
    axes[1].set_xlabel(name)
    if len(lines) > 1:
        axes[0].legend(frameon=False, fontsize=8)
