"""Keep the scores of a comparison as a small table of results.

python docs/collect_comparison.py docs/results/NAME.csv OUT/comparison/benchmark.csv \
    --part development [--rows ROW ...] [--draws 1 2] [--rename OLD=NEW ...] [--append]
    [--patient REGEX] [--labeled N ...]

With --append other comparisons of the same draws are added to the table. Rows of the comparison
that lack a draw are left out, so that what is compared has the same draws. With --patient cases
whose names agree in the group of REGEX are one patient, whole in each resample.
"""

import argparse
import re
from pathlib import Path

from graphnn_unet.metrics import read_metrics_csv
from graphnn_unet.storage.atomic import write_csv

SCORES = ("dice", "jaccard", "hd95", "asd")
COLUMNS = ("row", "labeled", "draw", "seed", "case", "class", *SCORES, "distance_unit", "missed",
           "patient")  # fmt: skip


def main() -> None:
    """Write the table anew, or add to it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("benchmark", type=Path)
    parser.add_argument("--part", required=True, choices=["development", "test"])
    parser.add_argument("--rows", nargs="+", help="rows of the table (default: all)")
    parser.add_argument("--draws", nargs="+", required=True)
    parser.add_argument("--rename", nargs="+", default=[], metavar="OLD=NEW")
    parser.add_argument("--append", action="store_true", help="keep the table's other rows")
    parser.add_argument("--labeled", nargs="+", help="rows with these numbers of labels alone")
    parser.add_argument("--patient", metavar="REGEX", help="of a case's name: first group")
    arguments = parser.parse_args()
    records = [
        record
        for record in read_metrics_csv(arguments.benchmark)
        if record["part"] == arguments.part
        and record["draw"] in (*arguments.draws, "0")
        and (not arguments.labeled or record["labeled"] in arguments.labeled)
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
        group = re.match(arguments.patient, record["case"]) if arguments.patient else None
        record["patient"] = group[1] if group else record["case"]
        for name in SCORES:
            record[name] = f"{float(record[name]):.4f}" if record[name] else ""
        if len(arguments.draws) == 1:
            record["draw"] = arguments.draws[0]  # a run with all labels has none of its own
    renamed = dict(pair.split("=", 1) for pair in arguments.rename)
    kept = [record | {"row": renamed.get(record["row"], record["row"])} for record in kept]
    if arguments.append:
        new = {(record["row"], record["draw"]) for record in kept}
        old = read_metrics_csv(arguments.table)
        kept = [row for row in old if (row["row"], row["draw"]) not in new] + kept
    columns = COLUMNS if arguments.patient else COLUMNS[:-1]
    write_csv(arguments.table, [{name: row[name] for name in columns} for row in kept], columns)


if __name__ == "__main__":
    main()
