"""An evaluation does not take the place of another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graphnn_unet.errors import InputError, RefusedError
from graphnn_unet.storage.safe_load import read_table

_FOREIGN = "it was not written by this program's evaluation"


def require_no_other_evaluation(
    target: Path,
    predictions: Path,
    labels: Path,
    options: Mapping[str, str | float],
    overwrite: bool,
) -> None:
    """Refuse a folder with the results of another evaluation; the same one may be done again.

    Args:
        target: Folder for the results.
        predictions: Folder of predictions. Where the results lie in it they are of it, even if it
            was moved since.
        labels: Folder of reference label maps.
        options: What else decides about the figures, as ``summary.json`` has it.
        overwrite: Do not ask.

    Raises:
        RefusedError: ``summary.json`` is of other folders, another way or another program, or there
            is a ``metrics.csv`` without it, as that of a training.
    """
    summary, table = target / "summary.json", target / "metrics.csv"
    if overwrite or not (summary.is_file() or table.is_file()):
        return
    why = _FOREIGN
    if summary.is_file():
        why = _difference(summary, predictions, labels, options, target)
    if why:
        raise RefusedError(
            f"{target} holds the figures of another evaluation",
            why,
            "Give another folder with -o, or --overwrite",
        )


def _difference(
    summary: Path, predictions: Path, labels: Path, options: Mapping[str, str | float], target: Path
) -> str:
    try:
        earlier = read_table(summary)
    except InputError:
        return _FOREIGN
    inputs = earlier.get("inputs")
    if not isinstance(inputs, dict) or "protocol" not in earlier:
        return _FOREIGN
    there: dict[str, object] = {"kind": "supervised", **earlier, **inputs}
    here: dict[str, object] = {"kind": "supervised", **options}
    for name, folder in (("predictions", predictions), ("labels", labels)):
        before = Path(str(there.get(name)))
        moved = name == "predictions" and folder.resolve() == target.resolve()
        if before.resolve() != folder.resolve() and not (moved and not before.is_dir()):
            here[name] = str(folder)
    return ", ".join(
        f"{name.replace('_', ' ')} {there.get(name)} there, {value} here"
        for name, value in here.items()
        if there.get(name) != value
    )
