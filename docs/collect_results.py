"""Add the metrics of one run to a table of results.

python docs/collect_results.py docs/results/hippocampus.csv PREDICTIONS/metrics.csv \
    --run "BCPTrainer" --trainer BCPTrainer --labeled 4 --seed 0
"""

import argparse
from pathlib import Path

from graphnn_unet.metrics import METRICS, csv_columns, read_metrics_csv
from graphnn_unet.storage.atomic import write_csv

FACTS = ("run", "trainer", "labeled", "draw", "seed")


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
    arguments = parser.parse_args()
    facts = {name: str(getattr(arguments, name)) for name in FACTS}
    rows = read_metrics_csv(arguments.table) if arguments.table.is_file() else []
    rows = [row for row in rows if any(row[name] != facts[name] for name in FACTS)]
    for row in read_metrics_csv(arguments.metrics):
        values = {name: f"{float(row[name]):.5f}" for name in METRICS if row.get(name)}
        rows.append({**row, **values, **facts})
    write_csv(arguments.table, rows, (*FACTS, *csv_columns()))


if __name__ == "__main__":
    main()
