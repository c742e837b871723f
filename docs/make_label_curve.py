"""Draw Dice against the number of labels.

python docs/make_label_curve.py docs/results/comparison_labels.csv docs/results/labels.png

The table is one of collect_comparison.py, with rows that have several numbers of labels.
"""

import argparse
from pathlib import Path

from graphnn_unet.benchmarking.tables import Scores
from graphnn_unet.metrics.result import read_metrics_csv
from graphnn_unet.report.comparison_figures import label_efficiency


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    rows = read_metrics_csv(arguments.table)
    scores = Scores(rows, {row["case"]: row["patient"] for row in rows if "patient" in row})
    figure = label_efficiency(scores, scores.baseline())
    figure.savefig(arguments.picture, dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
