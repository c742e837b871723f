"""Table and contact sheet of ``clustering.py quality``, made from its rows."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from graphnn_unet.metrics.intervals import mean_interval

COLUMNS = ("data", "method", "features", "images", "seeds", "iou", "low", "high", "seed_sd", "dice",
           "oracle_iou", "seconds", "memory_mb")  # fmt: skip


REMOVED = ("self", "encoder")
"""Features that were tried and removed: their rows stay in the files and leave the page."""


def summaries(rows: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """A row for each set, method and source of features; means over seeds, then images."""
    groups: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["method"], row["features"]), []).append(row)
    summary_rows = []
    for (data, method, features), group in groups.items():
        cases = sorted({row["case"] for row in group})
        mean = {
            key: np.array(
                [np.mean([float(r[key]) for r in group if r["case"] == case]) for case in cases]
            )
            for key in ("iou", "dice", "oracle_iou", "seconds")
        }
        low, high = mean_interval(mean["iou"])
        iou, dice = mean["iou"].mean(), mean["dice"].mean()
        # no Dice is below its IoU; it is a concave function of it, so Jensen bounds its mean
        if not iou - 1e-4 <= dice <= 2 * iou / (1 + iou) + 1e-4:
            raise SystemExit(f"{data} {method}: Dice {dice} cannot be")
        seeds = sorted({row["seed"] for row in group})
        summary_rows.append(
            {
                "data": data, "method": method, "features": features, "images": str(len(cases)),
                "seeds": str(len(seeds)), "iou": f"{mean['iou'].mean():.4f}",
                "low": f"{low:.4f}", "high": f"{high:.4f}",
                "seed_sd": _seed_spread(group, seeds), "dice": f"{mean['dice'].mean():.4f}",
                "oracle_iou": f"{mean['oracle_iou'].mean():.4f}",
                "seconds": f"{np.median(mean['seconds']):.2f}",
            }
        )  # fmt: skip
    return sorted(summary_rows, key=lambda row: (row["data"], -float(row["iou"])))


def _seed_spread(rows: list[dict[str, str]], seeds: list[str]) -> str:
    """Deviation between seeds of the mean over the images that have all of them."""
    if len(seeds) < 2:
        return ""
    by_case: dict[str, dict[str, float]] = {}
    for row in rows:
        by_case.setdefault(row["case"], {})[row["seed"]] = float(row["iou"])
    full = [by_seed for by_seed in by_case.values() if len(by_seed) == len(seeds)]
    means = [np.mean([by_seed[seed] for by_seed in full]) for seed in seeds]
    return f"{np.std(means, ddof=1):.4f}"


def differences(rows: Sequence[dict[str, str]]) -> list[str]:
    """``auto`` less each method without learning, paired over images, as lines of a page."""
    value: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        if row["seed"] == "0":
            key = row["data"], row["method"], row["features"]
            value.setdefault(key, {})[row["case"]] = 100 * float(row["iou"])
    lines = [
        "| data | IoU of auto less that of | difference [95 %] | wins |",
        "|---|---|---|---|",
    ]
    for (data, method, features), by_case in value.items():
        if features in ("", "border") and (not features or method == "k-means"):
            ours = value[data, "auto", "border"]
            gain = np.array([ours[case] - by_case[case] for case in by_case])
            low, high = mean_interval(gain)
            shown = f"{method} ({features})" if features else method
            interval = f"{gain.mean():+.1f} [{low:+.1f}, {high:+.1f}]"
            lines.append(f"| {data} | {shown} | {interval} | {(gain > 0).sum()} of {len(gain)} |")
    return lines


def read_table(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_rows(path: Path) -> list[dict[str, str]]:
    """Rows that ``quality`` and ``pool`` wrote, one file a set: ``ROWS_SET.csv``."""
    files = sorted(path.parent.glob(f"{path.stem}_*.csv"))
    return [row for file in files for row in read_table(file)]


def write_table(rows_file: Path, target: Path, page: Path | None) -> None:
    """Write the summary as CSV and as a table between the page's two lines ``measured``.

    Peak memory comes from the file that stands beside ``target`` with ``_memory`` in its name.
    """
    from _bench import replace_measured

    rows = read_rows(rows_file)
    summary_rows = summaries(rows)
    memory = {}
    beside = target.with_stem(f"{target.stem}_memory")
    if beside.is_file():
        memory = {
            (r["data"], r["method"], r["features"]): r["memory_mb"] for r in read_table(beside)
        }
    for row in summary_rows:
        row["memory_mb"] = memory.get((row["data"], row["method"], row["features"]), "")
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(summary_rows)
    if page is not None:
        shown = [row for row in summary_rows if row["features"] not in REMOVED]
        replace_measured(page, "\n".join([markdown(shown), "", *differences(rows)]))


def markdown(rows: list[dict[str, str]]) -> str:
    """The summary as a table of a page."""
    lines = [
        "| data | method | features | images | IoU [95 %] | seeds | Dice | oracle | s | MB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        percent = {k: f"{100 * float(row[k]):.1f}" for k in ("iou", "low", "high", "dice")}
        oracle = f"{100 * float(row['oracle_iou']):.1f}"
        spread = f"± {100 * float(row['seed_sd']):.1f} ({row['seeds']})" if row["seed_sd"] else "-"
        lines.append(
            f"| {row['data']} | {row['method']} | {row['features'] or '-'} | {row['images']} | "
            f"{percent['iou']} [{percent['low']}, {percent['high']}] | {spread} | "
            f"{percent['dice']} | {oracle} | {row['seconds']} | {row['memory_mb'] or '-'} |"
        )
    return "\n".join(lines)


def write_sheet(data: Path, rows_file: Path, maps: Path, target: Path, n_each: int = 4) -> None:
    """Good and bad cases of the default method on one PNG."""
    from _contact_sheet import PictureCase, save_picture_sheet

    endings = {"EMDS5": ".jpg", "WBC": ".png"}
    cases = []
    for name, ending in endings.items():
        scored = [
            (float(row["iou"]), row["case"])
            for row in read_rows(rows_file)
            if row["data"] == name and row["method"] == "auto" and row["seed"] == "0"
            and (maps / name / f"{row['case']}.png").is_file()
        ]  # fmt: skip
        scored.sort(reverse=True)
        better = scored[: len(scored) // 2]
        good = [better[i] for i in np.linspace(0, len(better) - 1, n_each).astype(int)]
        for iou, case in good + scored[-n_each:]:
            cases.append(
                PictureCase(
                    data / name / "images" / (case + ending), maps / name / f"{case}.png",
                    data / name / "masks" / f"{case}.png", f"{case[-14:]}  {iou:.2f}",
                )
            )  # fmt: skip
    save_picture_sheet(cases, target, columns=2 * n_each, cell=150)
