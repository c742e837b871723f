"""Write the tables of README.md and docs from docs/results/*.csv: python docs/make_tables.py

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; NAME is the name of the CSV
file. Nothing between these marks is typed by hand.
"""

import re
from pathlib import Path

import pandas as pd

from graphnn_unet.metrics.intervals import mean_interval

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
MEASURES = {"dice": "Dice", "jaccard": "Jaccard", "hd95_mm": "95HD mm", "asd_mm": "ASD mm"}


def table(name: str) -> str:
    """Markdown table of one CSV: a row a run, means over cases, then classes."""
    rows = pd.read_csv(ROOT / "docs" / "results" / f"{name}.csv")
    if name.startswith("classification"):
        return classification_table(rows)
    lines = [
        f"| run | seeds | {' | '.join(MEASURES.values())} | missed |",
        "|---|---|" + "---|" * (len(MEASURES) + 1),
    ]
    for run, part in rows.groupby("run", sort=False):
        per_class = part.groupby("class")[list(MEASURES)].mean()
        means = per_class.mean()
        per_case = part.groupby(["seed", "case"])["dice"].mean().to_numpy()
        low, high = mean_interval(per_case, seed=0)
        cells = [f"{100 * means['dice']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"]
        cells += [f"{100 * means['jaccard']:.1f}"]
        cells += [f"{means['hd95_mm']:.2f}", f"{means['asd_mm']:.2f}"]
        seeds = part["seed"].nunique()
        lines.append(f"| {run} | {seeds} | {' | '.join(cells)} | {int(part['missed'].sum())} |")
    return "\n".join(lines) + "\n"


def classification_table(rows: pd.DataFrame) -> str:
    """Methods by labeled share, paired differences, or records of a benchmark."""
    if "labeled_share" in rows:
        shares = sorted(rows["labeled_share"].unique())
        head = ["set", "method", *(f"accuracy, {share:.0%}" for share in shares), "AUC", "draws"]
        lines = []
        for (one, method), part in rows.groupby(["set", "method"], sort=False):
            found = [part[part["labeled_share"] == share]["accuracy"] for share in shares]
            cells = [
                f"{100 * values.mean():.1f} ± {100 * values.std():.1f}" if len(values) > 1
                else f"{100 * values.mean():.1f}" if len(values) else ""
                for values in found
            ]  # fmt: skip
            draws = ", ".join(str(len(values)) for values in found if len(values))
            few = part[part["labeled_share"] < 0.5]["auc"]
            area = f"{few.mean():.3f}" if len(few) else ""
            lines.append([one, method, *cells, area, draws])
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
    table_rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table_rows)


def main() -> None:
    """Rewrite every page that has a table."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = MARK.sub(lambda m: m[1] + table(m[2]) + m[3], text)
        if new != text:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
