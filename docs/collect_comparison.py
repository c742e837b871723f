"""Keep the scores of a comparison as a small table of results.

python docs/collect_comparison.py docs/results/NAME.csv OUT/comparison/benchmark.csv \
    --part development [--rows ROW ...] [--draws 1 2]

Rows of the comparison that lack a draw are left out, so that what is compared has the same draws.
"""

import argparse
from pathlib import Path

from graphnn_unet.metrics import read_metrics_csv
from graphnn_unet.storage.atomic import write_csv

SCORES = ("dice", "jaccard", "hd95", "asd")
COLUMNS = ("row", "labeled", "draw", "seed", "case", "class", *SCORES, "distance_unit", "missed")


def main() -> None:
    """Write the table anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("benchmark", type=Path)
    parser.add_argument("--part", required=True, choices=["development", "test"])
    parser.add_argument("--rows", nargs="+", help="rows of the table (default: all)")
    parser.add_argument("--draws", nargs="+", required=True)
    arguments = parser.parse_args()
    records = [
        record
        for record in read_metrics_csv(arguments.benchmark)
        if record["part"] == arguments.part and record["draw"] in (*arguments.draws, "0")
    ]
    draws: dict[str, set[str]] = {}
    for record in records:
        draws.setdefault(record["row"], set()).add(record["draw"])
    kept = []
    for name in arguments.rows or draws:
        if draws.get(name) in ({"0"}, set(arguments.draws)):
            kept += [record for record in records if record["row"] == name]
        else:
            print(f"left out: {name}, which has draws {sorted(draws.get(name, ()))}")
    for record in kept:
        for name in SCORES:
            record[name] = f"{float(record[name]):.4f}" if record[name] else ""
    write_csv(arguments.table, [{name: row[name] for name in COLUMNS} for row in kept], COLUMNS)


if __name__ == "__main__":
    main()
