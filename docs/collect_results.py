"""Add the metrics of one run to a table of results.

python docs/collect_results.py docs/results/hippocampus.csv PREDICTIONS/metrics.csv \
    --run "BCPTrainer" --trainer BCPTrainer --labeled 4 --seed 0
"""

import argparse
from pathlib import Path

import pandas as pd

COLUMNS = [
    "run", "trainer", "labeled", "draw", "seed", "case", "class", "dice", "jaccard", "hd95_mm",
    "asd_mm", "missed", "protocol",
]  # fmt: skip


def main() -> None:
    """Replace the rows of the run, keep all others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("metrics", type=Path)
    parser.add_argument("--run", required=True, help="name of the row in tables")
    parser.add_argument("--trainer", required=True)
    parser.add_argument("--labeled", type=int, required=True)
    parser.add_argument("--draw", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    new = pd.read_csv(chosen.metrics)
    facts = ("run", "trainer", "labeled", "draw", "seed")
    new = new.assign(**{name: getattr(chosen, name) for name in facts})[COLUMNS]
    if chosen.table.is_file():
        old = pd.read_csv(chosen.table)
        same = (old[list(facts)] == [getattr(chosen, name) for name in facts]).all(axis=1)
        new = pd.concat([old[~same], new])
    chosen.table.parent.mkdir(parents=True, exist_ok=True)
    new.to_csv(chosen.table, index=False, float_format="%.5f", lineterminator="\n")


if __name__ == "__main__":
    main()
