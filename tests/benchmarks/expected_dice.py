"""How good label maps of whole scans are, and what Dice the network expects of them.

The scans' label maps are known here and hidden in training, as in a comparison of methods.

Run: python tests/benchmarks/expected_dice.py FOLD [FOLD ...] --truth PREPROCESSED_DATASET
FOLD: folder of a finished fold that was trained with labels of whole scans. A Markdown table is
printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean, median

import numpy as np

from graphnn_unet.storage.arrays import open_array
from graphnn_unet.trainers.confidence_table import FOLDER, TABLE, last_confidences


def dice_of(labels: np.ndarray, truth: np.ndarray) -> float:
    """Mean over the classes of the truth."""
    values = []
    for label in np.unique(truth[truth > 0]):
        a, b = labels == label, truth == label
        values.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(np.mean(values))


def row(fold: Path, truth: Path) -> list[str]:
    """Cells of a fold."""
    known = last_confidences(fold)
    if not known:
        raise SystemExit(f"{fold}/{FOLDER} has no {TABLE}")
    maps = {path.name: path for path in truth.glob("*/*_seg.b2nd")}
    [folder] = (fold / FOLDER).iterdir()  # a finished training keeps its last round
    names = {case: f"{case}_seg.b2nd" for case in known}
    dice = {
        case: dice_of(open_array(folder / name, "")[:], open_array(maps[name], "")[:])
        for case, name in names.items()
    }
    scored = {case: c.expected_dice for case, c in known.items() if c.expected_dice is not None}
    expected, reached = list(scored.values()), [dice[case] for case in scored]
    used = [dice[case] for case, c in known.items() if c.used]
    left_out = [dice[case] for case, c in known.items() if not c.used]
    return [
        fold.parent.name, str(len(known)), f"{median(expected):.2f}" if expected else "",
        f"{mean(dice.values()):.3f}",
        f"{np.corrcoef(expected, reached)[0, 1]:.2f}" if len(expected) > 1 else "",
        str(len(left_out)), f"{mean(used):.3f}" if used else "",
        f"{mean(left_out):.3f}" if left_out else "",
    ]  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folds", nargs="+", type=Path)
    parser.add_argument("--truth", type=Path, required=True)
    arguments = parser.parse_args()
    print("| model | scans | expected (median) | Dice | correlation | left out | used | left out |")
    print("|---|---|---|---|---|---|---|---|")
    for fold in arguments.folds:
        print(f"| {' | '.join(row(fold, arguments.truth))} |")


if __name__ == "__main__":
    main()
