"""Suggested scans against random ones: label-efficiency curves.

Run: python tests/benchmarks/suggest.py --data Hippocampus --work runs/suggest

Each way starts without a label and labels ``--batch`` scans a round, whose hidden label maps come
back through ``add_corrected``; then it plans (in the first round), trains from scratch and scores
on scans that nobody trains on. ``suggested``: the first list covers the scans, the next come from
the model of the round before. ``cover``: all lists cover. ``random``: the random lists beside them.
Stopped and started again, it goes on. Writes results.json, curves.png and a table.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean

from _rounds import Arm, Results, Scans, add_flags

WAYS = ("suggested", "cover", "random")


def label(arm: Arm, number: int) -> list[str]:
    """Choose the scans of a round and give them their label maps; the list is kept on disk."""
    from graphnn_unet import add_corrected, suggest
    from graphnn_unet.storage.atomic import write_json

    kept = arm.home / f"list_round{number}.json"
    if not kept.is_file():
        before = arm.home / "models" / f"round{number - 1}"
        from_model = arm.name == "suggested" and number > 0
        result = suggest(
            "Study", count=arm.options.batch, model=before if from_model else None,
            output=arm.home / "suggestions" / f"round{number}", round_number=max(1, number),
            seed=arm.seed, device=arm.options.device, mirroring=False, n_workers=0,
        )  # fmt: skip
        write_json(kept, result.cases("random" if arm.name == "random" else "suggested"))
    cases = json.loads(kept.read_text(encoding="utf-8"))
    masks = arm.scans.link("labelsTr", cases, arm.home / "masks")
    add_corrected("Study", masks)
    return cases


def run(arm: Arm, results: Results) -> None:
    """All rounds of one way and seed."""
    arm.convert()
    for number in range(arm.options.rounds):
        if results.has(way=arm.name, seed=arm.seed, round=number):
            continue
        cases = label(arm, number)
        dice = arm.scored(arm.options.trainer, f"round{number}")
        n_labeled = (number + 1) * arm.options.batch
        results.add(
            way=arm.name, seed=arm.seed, round=number, labeled=n_labeled, dice=dice, cases=cases
        )


def table(results: Results) -> str:
    """Mean and range over seeds, a row for each number of labels."""
    lines = [f"| labeled | {' | '.join(WAYS)} |", f"|---|{'---|' * len(WAYS)}"]
    for count in sorted({row["labeled"] for row in results.rows}):
        cells = [results.cell(way=way, labeled=count) for way in WAYS]
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(results: Results, target: Path) -> None:
    """Curves: means, and bars from the worst to the best seed."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    ways = [way for way in WAYS if any(row["way"] == way for row in results.rows)]
    for place, way in enumerate(ways):
        counts = sorted({row["labeled"] for row in results.rows if row["way"] == way})
        dice = [results.dice(way=way, labeled=count) for count in counts]
        means = [mean(values) for values in dice]
        bars = [
            [m - min(values) for m, values in zip(means, dice, strict=True)],
            [max(values) - m for m, values in zip(means, dice, strict=True)],
        ]
        shifted = [count + 0.1 * (place - 1) for count in counts]
        axes.errorbar(shifted, means, bars, label=way, marker="o", capsize=3)
    axes.set(xlabel="labeled scans", ylabel="mean Dice on test scans")
    axes.set_xticks(sorted({row["labeled"] for row in results.rows}))
    axes.legend()
    figure.tight_layout()
    figure.savefig(target, dpi=150)
    plt.close(figure)


def main() -> None:
    """All ways and seeds, then table and curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_flags(parser)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4, help="scans labeled in each round")
    parser.add_argument("--trainer", default="SupervisedTrainer")
    options = parser.parse_args()
    scans = Scans.find(options)
    results = Results(options.work / "results.json")
    for seed in options.seeds:
        for way in options.ways:
            run(Arm(options, scans, way, seed), results)
    draw(results, options.work / "curves.png")
    print(table(results))


if __name__ == "__main__":
    main()
