"""Install a model from a zip: names, sizes and contents are checked before anything is placed."""

from __future__ import annotations

import lzma
import re
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from graphnn_unet.data.paths import folders
from graphnn_unet.errors import InputError, MissingFileError, RefusedError, UnsafeFileError
from graphnn_unet.models.load import load_model_state, read_description
from graphnn_unet.models.voting_scans import FACTS, FOLDER
from graphnn_unet.progress import say
from graphnn_unet.storage.atomic import exchange_folder, naming_a_full_disk
from graphnn_unet.storage.locks import work_folder
from graphnn_unet.storage.plan_schema import check_plans
from graphnn_unet.storage.safe_load import read_json

MAX_FILES = 1000
MAX_BYTES = 20 * 2**30
MAX_RATIO = 100
"""Unpacked to packed size: weights hardly shrink, a bomb of zeros does 1000 : 1."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_ROOT = re.compile(rf"(Dataset\d{{3}}_{_NAME}/{_NAME})/(.+)")
_KNOWN = re.compile(
    r"(plans|dataset|dataset_fingerprint|gnnunet_export|postprocessing)\.json|recipe\.toml|"
    r"fold_(\d+|all)/(checkpoint_(final|best|latest)\.pth|progress\.png|debug\.json|metrics\.csv|"
    r"environment\.json|training_log_[0-9_]+\.txt|validation/summary\.json|validation/metrics\.csv)|"
    rf"{FOLDER}/({re.escape(FACTS)}|{_NAME}\.npz)"
)
_LEFT_OUT = re.compile(
    rf"Dataset\d{{3}}_{_NAME}/(ensembles/.+|inference_information\.(json|txt)|"
    rf"{_NAME}/(crossval_results_folds_[0-9_]+/.+|fold_(\d+|all)/"
    rf"(network_architecture\.pdf|validation/{_NAME})))"
)
"""What nnU-Net's exporter adds that no prediction needs; among it pickles."""


_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


def install_model(archive: Path | str, *, overwrite: bool = False) -> Path:
    """Install a model zip of ``gnnunet_export`` or ``nnUNetv2_export_model_to_zip``.

    Args:
        archive: The zip; it holds files of one model folder ``DatasetNNN_Name/TRAINER__...``.
        overwrite: Replace an installed model of the same name.

    Returns:
        The model folder below ``nnUNet_results``.

    Raises:
        InputError: Not a whole zip, or no model.
        UnsafeFileError: A name leaves the model folder, a file is unknown, the contents are larger
            than any model, or plan or checkpoint ask for code. Nothing was placed.
        RefusedError: The model is installed already.
    """
    archive = Path(archive)
    if not archive.is_file():
        raise MissingFileError(f"{archive} is missing")
    results = folders().results
    try:
        with naming_a_full_disk(results), zipfile.ZipFile(archive) as opened:
            root = _check_names(opened, archive)
            target = results / root
            if target.exists() and not overwrite:
                raise RefusedError(
                    f"{target} exists", "a model would be replaced",
                    "Use --overwrite, or move it away",
                )  # fmt: skip
            with work_folder(results / root.partition("/")[0]) as folder:
                work = folder / "model"
                _extract(opened, root, work, archive)
                _check_model(work, archive)
                target.parent.mkdir(parents=True, exist_ok=True)
                exchange_folder(work, target)
    except (*_DAMAGED, OSError) as error:
        if getattr(error, "errno", None) is not None:  # of the system, not of bzip2
            raise
        raise InputError(
            f"{archive} is no whole zip file", str(error), "Download or copy it again"
        ) from error
    return target


def _check_names(opened: zipfile.ZipFile, archive: Path) -> str:
    """The one model folder of the archive."""
    roots = set()
    entries = [entry for entry in opened.infolist() if not entry.is_dir()]
    if len(entries) > MAX_FILES:
        raise UnsafeFileError(f"{archive} is refused", f"it holds {len(entries)} files")
    for entry in entries:
        is_link = (entry.external_attr >> 16) & 0o170000 == 0o120000
        root = _root_of(entry.filename)
        if ".." in entry.filename or is_link or not (root or _LEFT_OUT.fullmatch(entry.filename)):
            raise UnsafeFileError(
                f"{archive} is refused",
                f"{entry.filename!r} is not a file of a model",
                "Export the model again with gnnunet_export",
            )
        if entry.flag_bits & 1:
            raise InputError(f"{archive} is encrypted", "", "Unpack and pack it without a password")
        roots.add(root)
    if (claimed := sum(entry.file_size for entry in entries)) > MAX_BYTES:
        raise UnsafeFileError(
            f"{archive} is refused", f"it claims to unpack to {claimed / 2**30:.0f} GB"
        )
    roots.discard("")
    if len(roots) != 1:
        raise InputError(
            f"{archive} does not hold one model",
            f"model folders: {', '.join(sorted(roots)) or 'none'}",
            "Export one configuration at a time",
        )
    return roots.pop()


def _root_of(name: str) -> str:
    """The model folder of a file that is installed; empty for any other name."""
    match = _ROOT.fullmatch(name)
    return match[1] if match and _KNOWN.fullmatch(match[2]) else ""


def _extract(opened: zipfile.ZipFile, root: str, work: Path, archive: Path) -> None:
    """Unpack what is known, counting the bytes that are really read."""
    packed = max(1, archive.stat().st_size)
    total = 0
    for entry in opened.infolist():
        if entry.is_dir():
            continue
        if not _root_of(entry.filename):
            say(f"left out: {entry.filename} (no prediction needs it)")
            continue
        target = work / entry.filename.removeprefix(f"{root}/")
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(entry) as source, target.open("wb") as sink:
            while block := source.read(2**20):
                total += len(block)
                if total > MAX_BYTES or total > MAX_RATIO * packed + 2**20:
                    raise UnsafeFileError(
                        f"{archive} is refused",
                        f"it unpacks to more than {total / 2**20:.0f} MB from "
                        f"{packed / 2**20:.1f} MB",
                    )
                sink.write(block)


@contextmanager
def _named(path: Path, archive: Path, name: str | None = None) -> Generator[None]:
    """Errors about an unpacked file name it as it is called in the archive."""
    try:
        yield
    except (InputError, UnsafeFileError) as error:
        what = error.what.replace(str(path), f"{name or path.name} in {archive}")
        kind = UnsafeFileError if isinstance(error, UnsafeFileError) else InputError
        raise kind(what, error.why, error.remedy) from error


def _check_model(work: Path, archive: Path) -> None:
    for name in ("plans.json", "dataset.json"):
        if not (work / name).is_file():
            raise InputError(f"{archive} holds no model", f"{name} is missing")
    plans = check_plans(read_json(work / "plans.json"), f"plans.json in {archive}")
    with _named(work / "dataset.json", archive):
        read_description(work)
    checkpoints = sorted(work.glob("fold_*/checkpoint_*.pth"))
    if not checkpoints:
        raise InputError(f"{archive} holds no model", "it has no checkpoint")
    for path in checkpoints:
        name = str(path.relative_to(work))
        with _named(path, archive, name):
            configuration = load_model_state(path)["init_args"]["configuration"]
        if configuration not in plans["configurations"]:
            raise InputError(
                f"{archive} holds no model",
                f"{name} is of configuration {configuration!r}, which plans.json lacks",
            )
