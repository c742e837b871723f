"""Write the tables of README.md and docs from docs/results/*.csv: python docs/make_tables.py

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; NAME is the name of the CSV
file. Nothing between these marks is typed by hand.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
MEASURES = {"dice": "Dice", "jaccard": "Jaccard", "hd95_mm": "95HD mm", "asd_mm": "ASD mm"}


def table(name: str) -> str:
    """Markdown table of one CSV: a row a run, means over cases, then classes."""
    rows = pd.read_csv(ROOT / "docs" / "results" / f"{name}.csv")
    lines = [
        f"| run | seeds | {' | '.join(MEASURES.values())} | missed |",
        "|---|---|" + "---|" * (len(MEASURES) + 1),
    ]
    for run, part in rows.groupby("run", sort=False):
        per_class = part.groupby("class")[list(MEASURES)].mean()
        means = per_class.mean()
        per_case = part.groupby(["seed", "case"])["dice"].mean().to_numpy()
        low, high = interval(per_case)
        cells = [f"{100 * means['dice']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"]
        cells += [f"{100 * means['jaccard']:.1f}"]
        cells += [f"{means['hd95_mm']:.2f}", f"{means['asd_mm']:.2f}"]
        seeds = part["seed"].nunique()
        lines.append(f"| {run} | {seeds} | {' | '.join(cells)} | {int(part['missed'].sum())} |")
    return "\n".join(lines) + "\n"


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean over cases."""
    found = bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(0))
    return found.confidence_interval.low, found.confidence_interval.high


def main() -> None:
    """Rewrite every page that has a table."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = MARK.sub(lambda m: m[1] + table(m[2]) + m[3], text)
        if new != text:
            page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
