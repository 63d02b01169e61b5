"""Draws a result file: answered a second by concurrency, one line a system. Run in the environment of this folder."""

import json
import sys
from pathlib import Path

import matplotlib as mpl

# A backend that needs no screen.
mpl.use("Agg")
from matplotlib import pyplot as plt


def draw(source: Path, target: Path) -> None:
    """Read the JSON at `source` and write a PNG to `target`."""
    comparison = json.loads(source.read_text(encoding="utf-8"))
    figure, (rates, costs) = plt.subplots(1, 2, figsize=(12, 4.5))
    for system in comparison["systems"]:
        points = sorted((int(key), value) for key, value in system["figures"].items())
        concurrencies = [key for key, _ in points]
        is_ours = system["name"] == "inferlane"
        style = {"label": system["title"], "marker": "o", "linewidth": 3 if is_ours else 1.2}
        rates.plot(concurrencies, [value["running_per_s"] for _, value in points], **style)
        costs.plot(
            concurrencies,
            [value["own_cpu_s_per_1000"] + value["parts_cpu_s_per_1000"] for _, value in points],
            **style,
        )
    for axes, title in ((rates, "answers a second of running time"), (costs, "CPU-seconds for 1,000 answers, all")):
        axes.set_title(f"{comparison['case']}: {title}")
        axes.set_xscale("log", base=2)
        axes.set_xlabel("concurrency")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    rates.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
