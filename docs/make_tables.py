"""Write the tables of README.md and docs from docs/results/*.csv: python docs/make_tables.py

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; NAME is the name of the CSV
file, and the table of a comparison may name the first words of its columns: ``NAME method Dice``.
Nothing between these marks is typed by hand.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from graphnn_unet.benchmarking.tables import Scores, markdown, method_table
from graphnn_unet.metrics.intervals import mean_interval
from graphnn_unet.metrics.registry import SHOWN, Metric, metrics_of
from graphnn_unet.metrics.result import read_metrics_csv

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
MEASURES = metrics_of(SHOWN)
PLAIN = "ours, without the graph of scans"
UNLABELED = [
    ("Hippocampus MRI, 4", "comparison_unlabeled", PLAIN),
    ("the same, graph of scans", "comparison_unlabeled", "ours"),
    ("the same, twice the channels", "comparison_twice", "ours"),
    ("Left atria MRI, 8", "comparison_la_half", PLAIN),
    ("ACDC in 2D, 3 patients", "comparison_acdc", "ours"),
    ("EMDS5 microorganisms, 10", "comparison_emds5", "ours"),
    ("White blood cells, 10", "comparison_wbc", "ours"),
]
"""Data, table of results, and the row that learns from unlabeled images."""


def table(words: str) -> str:
    """Markdown table of one CSV; further words are the columns of a comparison that stay."""
    name, *columns = words.split()
    if name == "unlabeled":
        return with_columns(unlabeled_table(), columns)
    path = ROOT / "docs" / "results" / f"{name}.csv"
    if not path.is_file():
        return "Not measured yet.\n"
    if name.startswith("classification"):
        return classification_table(pd.read_csv(path))
    if name.startswith(("scan_graph", "comparison")):
        return comparison_table(path, columns)
    if name == "registration":
        rows = pd.read_csv(path, dtype=str)
        return markdown([list(rows.columns), *rows.to_numpy().tolist()])
    if name == "pseudo_labels":
        return pseudo_label_table(pd.read_csv(path))
    return segmentation_table(pd.DataFrame(read_metrics_csv(path)))


def segmentation_table(rows: pd.DataFrame) -> str:
    """A row a method: means over cases and runs, then classes."""
    names = [metric.name for metric in MEASURES]
    rows[[*names, "missed"]] = rows[[*names, "missed"]].apply(pd.to_numeric)
    (unit,) = set(rows["distance_unit"])
    head = ["method", "runs", *(metric.heading(unit) for metric in MEASURES), "missed"]
    lines = []
    for run, part in rows.groupby("run", sort=False):
        means = part.groupby("class")[names].mean().mean()
        cells = [shown(metric, means[metric.name]) for metric in MEASURES]
        # cases are what differs: runs of one case are no further evidence
        low, high = mean_interval(part.groupby("case")["dice"].mean().to_numpy(), seed=0)
        cells[0] += f" [{100 * low:.1f}, {100 * high:.1f}]"
        n_runs = len(part[["draw", "seed"]].drop_duplicates())
        lines.append([run, str(n_runs), *cells, str(part["missed"].sum())])
    return markdown([head, *lines])


def with_columns(lines: list[list[str]], columns: Sequence[str]) -> str:
    """Markdown of the columns whose headings begin with these words, or of all."""
    kept = [
        number
        for number, heading in enumerate(lines[0])
        if not columns or heading.split()[0].strip("`,") in columns
    ]
    return markdown([[line[number] for number in kept] for line in lines])


def unlabeled_table() -> list[list[str]]:
    """The trainer that uses unlabeled images against the supervised one, a row a data set."""
    head = ["data, labeled", "`SupervisedTrainer`", "ours", "difference", "draws that agree"]
    lines = [head]
    for data, name, row in UNLABELED:
        scores, labeled = read_comparison(ROOT / "docs" / "results" / f"{name}.csv")
        ours, baseline = (row, labeled), (scores.baseline(), labeled)
        gain = scores.difference(ours, baseline)
        mean = f"{100 * gain.mean:+.1f}"
        lines.append(
            [
                data,
                *(f"{100 * scores.mean(key):.1f}" for key in (baseline, ours)),
                f"{f'**{mean}**' if gain.is_shown else mean} "
                f"[{100 * gain.low:.1f}, {100 * gain.high:.1f}]",
                f"{gain.n_agreeing} of {gain.n_draws}",
            ]
        )
    return lines


def read_comparison(path: Path) -> tuple[Scores, str]:
    """Scores of a table of results, and the count of labels that its rows stand under."""
    rows = read_metrics_csv(path)
    labeled = rows[0]["labeled"]
    # rows with other numbers of labels say so in their names, and stand in the same table
    patients = {row["case"]: row["patient"] for row in rows if "patient" in row}
    return Scores([row | {"labeled": labeled} for row in rows], patients), labeled


def comparison_table(path: Path, columns: Sequence[str] = ()) -> str:
    """Means of all rows and their differences from the supervised one, over draws and cases."""
    scores, labeled = read_comparison(path)
    return with_columns(method_table(scores, labeled, scores.baseline()), columns)


def pseudo_label_table(rows: pd.DataFrame) -> str:
    """Dice of pseudo-labels before and after each correction, paired, a draw at a time."""
    head = ["correction", "draw", "teacher", "corrected", "against the teacher",
            "against the best blur"]  # fmt: skip
    lines = []
    for draw, part in rows.groupby("draw"):
        dice = part.pivot_table("dice", "case", "row")
        teacher = part.groupby("case")["teacher"].first()
        blurred = dice[[name for name in dice if name.startswith("blur")]]
        best = blurred[blurred.mean().idxmax()]
        for name in part["row"].unique():
            cells = [
                name,
                str(draw),
                f"{100 * teacher.mean():.1f}",
                f"{100 * dice[name].mean():.1f}",
            ]
            for other in (teacher, best):
                difference = (dice[name] - other).to_numpy()
                low, high = mean_interval(difference)
                cells.append(
                    f"{100 * difference.mean():+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
                )
            lines.append(cells)
    return markdown([head, *lines])


def shown(metric: Metric, value: float) -> str:
    """A mean as text: fractions in percent."""
    return f"{100 * value:.1f}" if metric.unit == "fraction" else f"{value:.{metric.digits}f}"


def classification_table(rows: pd.DataFrame) -> str:
    """Methods by labeled share, paired differences, or records of a benchmark."""
    if "labeled_share" in rows:
        shares = sorted(rows["labeled_share"].unique())
        head = ["set", "method", *(f"accuracy, {share:.0%}" for share in shares), "AUC", "draws"]
        lines = []
        for (images, method), part in rows.groupby(["set", "method"], sort=False):
            accuracies = [part[part["labeled_share"] == share]["accuracy"] for share in shares]
            cells = [
                f"{100 * values.mean():.1f} ± {100 * values.std():.1f}" if len(values) > 1
                else f"{100 * values.mean():.1f}" if len(values) else ""
                for values in accuracies
            ]  # fmt: skip
            draws = ", ".join(str(len(values)) for values in accuracies if len(values))
            few = part[part["labeled_share"] < 0.5]["auc"]
            area = f"{few.mean():.3f}" if len(few) else ""
            lines.append([images, method, *cells, area, draws])
    elif "low" in rows:
        head = ["set", "method", "against", "pairs", "difference", "95 % interval"]
        lines = [
            [r.set, r.method, r.against, str(r.pairs), f"{100 * r.difference:+.1f}",
             f"{100 * r.low:+.1f} to {100 * r.high:+.1f}"]
            for r in rows.itertuples() if r.labels == "all"  # of single shares: in the CSV
        ]  # fmt: skip
    else:
        head = ["what", "value", "goal"]
        rows = rows.fillna("")
        held = {True: ", holds", False: ", **missed**"}
        lines = [
            [r.what, f"{r.value:.3g} {r.unit}".strip(), f"{r.goal}{held.get(r.holds, '')}"]
            for r in rows.itertuples()
        ]
    return markdown([head, *lines])


def main() -> None:
    """Rewrite every page that has a table."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = MARK.sub(lambda m: m[1] + table(m[2]) + m[3], text)
        if new != text:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
