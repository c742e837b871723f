"""A comparison of methods as one page that can be read without the program: report.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graphnn_unet.benchmarking.book import COMMANDS, RUNS, SCORES, STATE
from graphnn_unet.benchmarking.one_run import DEVELOPMENT, TEST
from graphnn_unet.benchmarking.tables import (
    Scores,
    count_title,
    method_table,
    note_on_intervals,
    page,
    published_table,
    variance_table,
)
from graphnn_unet.errors import MissingFileError
from graphnn_unet.report.comparison_figures import label_efficiency, paired_differences
from graphnn_unet.report.page import bullets, commands, document, escaped, figure_image, table
from graphnn_unet.storage.atomic import write_text
from graphnn_unet.storage.csv_cells import read_csv
from graphnn_unet.storage.safe_load import read_json

REPORT, TABLES = "report.html", "benchmark.md"
_TITLES = {DEVELOPMENT: "Development cases (for choosing)", TEST: "Test cases"}
_HOW = """Every method was trained on the same draws of labeled cases and the same seeds, with one
plan, network, augmentation and number of patches a step. The last checkpoint was scored; no score
chose a checkpoint. Dice is the mean over cases of the means over classes; a structure that is
missed scores 0 and costs the diagonal of the image in distance. Intervals are 95 %, from
resamples of draws and patients together. A method <em>leads</em> where the interval of its paired
difference excludes 0 and at least four of five draws (or all of fewer) agree in sign; else no
difference is shown. With fewer than six draws the verdict names their number: it is one on these
draws. Verdicts are not corrected for the number of rows."""


def report_comparison(folder: Path | str, against: str | None = None) -> Path:
    """Write ``report.html`` and ``benchmark.md`` of a comparison.

    Args:
        folder: Folder of ``gnnunet_benchmark``.
        against: Row that the others are compared with; default SupervisedTrainer, or the first.

    Returns:
        The page.

    Raises:
        MissingFileError: The folder has no scores yet.
        InputError: There is no row ``against``.
    """
    folder = Path(folder)
    text, tables = _comparison(folder, against)
    write_text(folder / TABLES, tables)
    write_text(folder / REPORT, text)
    return folder / REPORT


def comparison_page(folder: Path, against: str | None = None) -> str:
    """The page of :func:`report_comparison`, not written.

    Raises:
        MissingFileError: The folder has no scores yet.
        InputError: There is no row ``against``.
    """
    return _comparison(folder, against)[0]


def _comparison(folder: Path, against: str | None) -> tuple[str, str]:
    """The page, and its tables as Markdown."""
    if not (folder / SCORES).is_file():
        raise MissingFileError(f"{folder} has no {SCORES}", "", "Carry out gnnunet_benchmark first")
    state, runs = read_json(folder / STATE), read_csv(folder / RUNS)
    body, tables = [f"<p>{_HOW}</p>", *_wrong(runs)], [f"# {state['dataset']}\n"]
    scored = {row["part"] for row in runs if row["status"] == "done"}
    for part in (part for part in _TITLES if part in scored):
        scores = Scores.read(folder / SCORES, part, state.get("patients"))
        tables += [f"# {_TITLES[part]}\n", page(scores, state["dataset"], against)]
        body += _part(scores, part, state["dataset"], scores.baseline(against))
    body += _runs(runs)
    lines = (folder / COMMANDS).read_text(encoding="utf-8").splitlines()
    body.append(commands(lines, "The same trainings by hand:"))
    title = f"{state['dataset']}: comparison of methods"
    return document(title, body, source=str(folder)), "\n".join(tables)


def _part(scores: Scores, part: str, dataset: str, against: str) -> list[str]:
    body = [f"<h2>{_TITLES[part]}: {len(scores.cases)} of "
            f"{len(set(scores.patients.tolist()))} patients</h2>"]  # fmt: skip
    if note := note_on_intervals(scores):
        body.append(f"<p class='note'>{escaped(note)}</p>")
    if len(scores.labeled) > 1:
        title = "Dice against the number of labeled cases"
        body.append(figure_image(label_efficiency(scores, against), title))
    for labeled in scores.labeled:
        body += [f"<h3>{count_title(labeled)}</h3>", table(method_table(scores, labeled, against))]
        others = [key for key in scores.keys if key[1] == labeled and key[0] != against]
        if others and (against, labeled) in scores.keys:
            figure = paired_differences(scores, labeled, against)
            body.append(figure_image(figure, f"Difference in Dice from {against}"))
        published = published_table(dataset, labeled)
        if len(published) > 1:
            body += ["<p>Published elsewhere, with another split, network or choice of the "
                     "checkpoint; not measured here:</p>", table(published)]  # fmt: skip
        variance = variance_table(scores, labeled, against)
        if len(variance) > 1:
            title = (
                "What Dice varies with (standard deviations, in points), and how many draws would "
                "show a difference of one point:"
            )
            body += [f"<p>{title}</p>", table(variance)]
    return body


def _wrong(runs: Sequence[dict[str, str]]) -> list[str]:
    """What looks wrong with the runs; their scores are judged by the tables."""
    sentences = [
        f"Run {row['name']} failed: {row['error'].rstrip('.')}. It is in no table below."
        for row in runs if row["status"] == "failed"
    ]  # fmt: skip
    waiting = sum(row["status"] not in ("done", "failed") for row in runs)
    if waiting:
        sentences.append(
            f"{waiting} of {len(runs)} runs are not done: the tables are of the others. The same "
            "gnnunet_benchmark goes on."
        )
    return ["<h2>What looks wrong</h2>", bullets(sentences, f"All {len(runs)} runs are done.")]


def _runs(runs: Sequence[dict[str, str]]) -> list[str]:
    """Every run with its minutes and memory, the failed ones with their reason."""
    columns = ("row", "labeled", "draw", "seed", "part", "status", "minutes", "device",
               "peak_memory_gb", "error")  # fmt: skip
    done = sum(row["status"] == "done" for row in runs)
    body = [f"<h2>Runs: {done} of {len(runs)} done</h2>"]
    failed = [row for row in runs if row["status"] == "failed"]
    if failed:
        body.append(f"<p class='failed'>{len(failed)} failed; they are in no table above.</p>")
    head = [column.replace("_", " ").replace("gb", "GB") for column in columns]
    return [*body, table([head, *[[row[column] for column in columns] for row in runs]])]
