"""Where the trained models lie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from graphnn_unet.data.paths import resolve_dataset, use_folders
from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.images.find import some
from graphnn_unet.models.prediction_record import recorded_models
from graphnn_unet.storage.checkpoints import FINAL, LATEST
from graphnn_unet.trainers.run_spec import ModelName

_FOLD = re.compile(r"fold_(\d+|all)")


def available_folds(
    folder: Path, checkpoint: str, wanted: Sequence[int | str] | None
) -> list[int | str]:
    """Folds of a model that have the checkpoint.

    Raises:
        MissingFileError: None, or a wanted one is missing; lists those that exist.
    """
    available: list[int | str] = []
    for path in sorted(folder.glob("fold_*")):
        match = _FOLD.fullmatch(path.name)  # a fold that was set aside is fold_0.old1
        if match and (path / checkpoint).is_file():
            available.append(int(match[1]) if match[1].isdigit() else match[1])
    if wanted is None:
        numbered = [fold for fold in available if isinstance(fold, int)]
        wanted = numbered or available
    missing = [fold for fold in wanted if fold not in available]
    if missing or not wanted:
        names = ", ".join(map(str, available)) or "none"
        what = f"fold {missing[0]} of {folder}" if missing else str(folder)
        raise MissingFileError(
            f"{what} has no {checkpoint}", f"folds that have it: {names}",
            "Train it, or choose another fold with -f",
        )  # fmt: skip
    return list(wanted)


def last_finished_model(
    trainer: str | None = None, configuration: str | None = None, plans: str | None = None
) -> Path:
    """Model folder of the training that finished last, among those that fit.

    Raises:
        MissingFileError: No training has finished.
        InputError: They are of several data sets: which one the images belong to is not known.
    """
    results = use_folders().results
    finished = [
        path for path in _checkpoints(results, "Dataset*/*/fold_*")
        if not path.parts[-3].startswith(".")
        and _fits(path.parts[-3], trainer, configuration, plans)
    ]  # fmt: skip
    if not finished:
        wanted = " ".join(filter(None, (trainer, configuration, plans)))
        raise (None if wanted else _unfinished(results, "Dataset*/*/fold_*")) or MissingFileError(
            f"there is no trained model in {results}", f"looked for {wanted}" if wanted else "",
            "Train one, or name it with -m",
        )  # fmt: skip
    datasets = sorted({path.parts[-4] for path in finished})
    if len(datasets) > 1:
        raise InputError(
            f"{results} holds finished trainings of {len(datasets)} data sets",
            some(datasets), "Say which one predicts with -d DATASET or -m MODEL_FOLDER",
        )  # fmt: skip
    return max(finished, key=lambda path: path.stat().st_mtime).parent.parent


def require_model_folder(folder: Path) -> None:
    """Refuse folders around and inside a model.

    Raises:
        MissingFileError: There is no such folder.
        InputError: It is one fold of a model, or holds models.
    """
    if not folder.is_dir():
        raise MissingFileError(f"model folder {folder} is missing")
    if (folder / "dataset.json").is_file():
        return
    model = folder.absolute().parent
    if _FOLD.fullmatch(folder.absolute().name) and (model / "dataset.json").is_file():
        raise InputError(
            f"{folder} is no model folder", "it is one fold of a model", f"Give its parent {model}"
        )
    checkpoints = [p for up in ("", "*/") for p in _checkpoints(folder, f"{up}*/fold_*")]
    if models := sorted({str(path.parent.parent.relative_to(folder)) for path in checkpoints}):
        raise InputError(
            f"{folder} is no model folder", f"it holds the models {some(models)}",
            f"Give one of them, as {folder / models[0]}",
        )  # fmt: skip


def model_of_record(
    folder: Path, trainer: str | None, configuration: str | None, plans: str | None
) -> list[Path]:
    """Model folders by which the label maps of a folder were made.

    Args:
        folder: Folder of label maps.
        trainer: Where given, models of another one are not meant; likewise the others.
        configuration: See there.
        plans: See there.

    Returns:
        Nothing where no record names them, or they do not fit.

    Raises:
        MissingFileError: They are not where models lie.
    """
    dataset, names = recorded_models(folder) or ("", [])
    if not names or not all(_fits(name, trainer, configuration, plans) for name in names):
        return []
    models = [use_folders().results / dataset / name for name in names]
    for model in models:
        if not model.is_dir():
            raise MissingFileError(
                f"the model of the label maps in {folder} is missing", f"there is no {model}",
                "Name its folder with -m",
            )  # fmt: skip
    return models


def _checkpoints(root: Path, folds: str, name: str = FINAL) -> list[Path]:
    """Checkpoints in the fold folders that fit a pattern, without those set aside."""
    checkpoints = root.glob(f"{folds}/{name}")
    return [path for path in checkpoints if _FOLD.fullmatch(path.parent.name)]


def _unfinished(root: Path, folds: str) -> MissingFileError | None:
    """What to say where trainings were begun and none has finished; ``None`` where none was."""
    begun = _checkpoints(root, folds, LATEST)
    if not begun:
        return None
    last = max(begun, key=lambda path: path.stat().st_mtime).parent
    return MissingFileError(
        f"the training {last} has not finished", "",
        f"Go on with its command and --c, or predict as it is with -m {last.parent} -chk {LATEST}",
    )  # fmt: skip


def find_model(
    dataset: str | None,
    trainer: str | None,
    configuration: str | None,
    plans: str | None,
) -> Path:
    """Model folder by data set and, where several fit, by trainer, configuration and plans.

    Raises:
        MissingFileError: None fits; lists what there is.
        InputError: Several fit; lists them.
    """
    if dataset is None:
        return last_finished_model(trainer, configuration, plans)
    name = resolve_dataset(dataset)
    root = use_folders().results / name
    models = sorted({path.parent.parent for path in _checkpoints(root, "*/fold_*")})
    fitting = [m for m in models if _fits(m.name, trainer, configuration, plans)]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(model.name for model in fitting or models)
    if not fitting:
        raise (None if models else _unfinished(root, "*/fold_*")) or MissingFileError(
            f"no finished model of {name}" + " fits" * bool(models),
            f"there are: {listed}" if models else f"there is none in {root}",
            "Train it first, or finish its training (gnnunet_train ... --c)",
        )
    flags = ", ".join(_deciding_flags([model.name for model in fitting]))
    remedy = f"Choose with {flags}{' or ' * bool(flags)}-m FOLDER, as {fitting[0]}"
    raise InputError(f"several models of {name} fit", listed, remedy)


def _deciding_flags(names: Sequence[str]) -> list[str]:
    """Flags that can choose one of several models; none where the names differ in other parts."""
    parts = [name.split("__")[:3] for name in names]
    if all(parts.count(of_name) > 1 for of_name in parts):
        return []
    flags = zip(("-tr", "-p", "-c"), zip(*parts, strict=True), strict=True)
    return [flag for flag, values in flags if len(set(values)) > 1]


def trained_models() -> list[tuple[str, str, str]]:
    """Data set, model and folds of each training that was begun, in the order of their names.

    Example:
        ``("Dataset501_MyStudy", "GraphCLTrainer__gnnunetPlans__3d_fullres", "0 1, unfinished: 2")``
    """
    folds: dict[Path, tuple[list[str], list[str]]] = {}
    for place, name in enumerate((FINAL, LATEST)):
        for path in _checkpoints(use_folders().results, "Dataset*/*/fold_*", name):
            model, fold = path.parent.parent, path.parent.name.removeprefix("fold_")
            of_model = folds.setdefault(model, ([], []))
            if fold not in of_model[0]:  # a finished one may have left its last state behind
                of_model[place].append(fold)
    rows = []
    for model, (finished, begun) in sorted(folds.items()):
        unfinished = f"unfinished: {' '.join(sorted(begun))}" if begun else ""
        state = ", ".join(filter(None, (" ".join(sorted(finished)), unfinished)))
        rows.append((model.parent.name, model.name, state))
    return rows


def _fits(folder: str, trainer: str | None, configuration: str | None, plans: str | None) -> bool:
    name = ModelName.parse(folder)
    return name is not None and name.fits(trainer, configuration, plans)
