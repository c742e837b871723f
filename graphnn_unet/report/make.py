"""``make_report``: one page about a training, a comparison, predictions or a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graphnn_unet.benchmarking.book import SCORES, STATE
from graphnn_unet.data.paths import resolve_dataset, use_folders
from graphnn_unet.errors import InputError, MissingFileError, RefusedError
from graphnn_unet.report.comparison import comparison_page
from graphnn_unet.report.contents import ROLES, ReportSettings
from graphnn_unet.report.dataset_page import preprocessed_report, raw_report
from graphnn_unet.report.page import GENERATOR
from graphnn_unet.report.predictions_page import predictions_report
from graphnn_unet.report.run_page import run_report
from graphnn_unet.report.shown_cases import files_by_case
from graphnn_unet.storage.atomic import write_text
from graphnn_unet.storage.safe_load import read_json

_PLANS = "*Plans*.json"
_MARK = f"content='{GENERATOR.split()[0]}"


def make_report(
    source: Path | str,
    output: Path | str = "report.html",
    *,
    cases: int = 3,
    megabytes: float = 20.0,
    images: Path | str | None = None,
    labels: Path | str | None = None,
    against: str | None = None,
    n_workers: int | None = None,
) -> Path:
    """Write one page that opens offline about a training, predictions, a comparison or a data set.

    Args:
        source: Folder of a fold or model, of label maps (with ``metrics.csv`` where they are
            scored), of ``gnnunet_benchmark``, of a raw or preprocessed data set; or the name or
            id of a data set.
        output: The page; an earlier report there is replaced.
        cases: Cases in the viewer: worst, median and best, then the next worst ones; of a data
            set, those that stand out.
        megabytes: Largest size of the page. Volumes are thinned or left out, then pictures;
            tables and curves stay.
        images: Folder of the images; without it those of the raw data set.
        labels: Folder of the label maps; likewise.
        against: Row of a comparison that the others are compared with.
        n_workers: Processes that read a data set; chosen from its size without it.

    Returns:
        The page.

    Raises:
        InputError: The source is nothing that a report can be about.
        MissingFileError: It is not there, or has nothing to tell yet.
        RefusedError: ``output`` is a file that is no report.
    """
    target = _checked(Path(output))
    settings = ReportSettings(cases, megabytes, _folder(images), _folder(labels), n_workers)
    write_text(target, _page(source, settings, against))
    return target


def _page(source: Path | str, settings: ReportSettings, against: str | None) -> str:
    folder = Path(source)
    if not folder.is_dir():
        folder = _dataset_folder(str(source))
    folder = folder.absolute()
    if (folder / STATE).is_file() and (folder / SCORES).is_file():
        return comparison_page(folder, against)
    if against is not None:
        raise InputError(f"{folder} is no comparison", "", "Leave --against out")
    if _is_run(folder):
        report = run_report(folder, settings)
    elif _is_raw(folder):
        report = raw_report(folder, settings)
    elif any(folder.glob(_PLANS)):
        report = preprocessed_report(folder, settings)
    elif files_by_case(folder):
        report = predictions_report(folder, settings)
    else:
        raise InputError(
            f"{folder} is nothing that a report can be about",
            "it holds no fold, no label maps, no comparison and no data set",
            "Give one of these, or the name of a data set",
        )
    return report.html(settings, str(folder))


def _dataset_folder(name: str) -> Path:
    """The raw folder of a data set by its name, else the preprocessed one."""
    if "/" in name:
        raise MissingFileError(f"{name} is missing", "", "Give a folder, or the name of a data set")
    full, where = resolve_dataset(name), use_folders()
    places = [root / full for root in (where.raw, where.preprocessed)]
    there = [place for place in places if place.is_dir()]
    if not there:
        raise MissingFileError(
            f"{full} has no data", f"neither in {where.raw} nor in {where.preprocessed}",
            "Give the folder of a model of it",
        )  # fmt: skip
    return there[0]


def _is_run(folder: Path) -> bool:
    below: Sequence[Path] = sorted(folder.glob("fold_*"))
    return folder.name.startswith("fold_") or any(path.is_dir() for path in below)


def _is_raw(folder: Path) -> bool:
    """Images in the usual folders, or wherever ``dataset.json`` says."""
    if not (folder / "dataset.json").is_file():
        return False
    if any((folder / f"images{role}").is_dir() for role in ROLES):
        return True
    return "dataset" in read_json(folder / "dataset.json") and not any(folder.glob(_PLANS))


def _folder(path: Path | str | None) -> Path | None:
    if path is None:
        return None
    if not Path(path).is_dir():
        raise MissingFileError(f"{path} is missing", "", "Give an existing folder")
    return Path(path).absolute()


def _checked(target: Path) -> Path:
    """The page's path, where nothing else is in its place."""
    if target.is_dir():
        raise InputError(f"{target} is a folder", "", f"Write -o {target / 'report.html'}")
    if target.exists():
        with target.open(encoding="utf-8", errors="replace") as file:
            if _MARK not in file.read(4096):
                raise RefusedError(
                    f"{target} is no report of this program", "it would be replaced",
                    "Give another name with -o",
                )  # fmt: skip
    return target
