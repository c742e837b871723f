"""Faults of data sets and of images that are to be predicted: rows I and P."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from _trial import CASES, FAULTY, VERIFY, Outcome, Trial
from small_dataset import (
    FAULTS,
    SHAPE,
    Spoil,
    cut,
    edit,
    image_array,
    image_path,
    label_path,
    make_dataset,
    rewrite,
    save,
    set_voxels,
)

FORMATS = {"I05": ".mha", "I10": ".mha", "I11": ".mha"}
CHANNELS = {"I19": 2, "I21": 2}
NAMES = {**dict.fromkeys(("I20", "I43", "I52"), "dataset.json"), "I30": "labelsTr"}
"""What a reader needs to know where it is not the case."""


def no_foreground(folder: Path) -> None:
    """Every label map is background."""
    for path in (folder / "labelsTr").iterdir():
        rewrite(path, np.zeros(SHAPE, np.uint8))


def without_second_channel(folder: Path) -> None:
    """``dataset.json`` lists a channel that no case has."""
    edit(folder, channel_names={"0": "T1", "1": "T2"})


OTHER_FAULTS: dict[str, tuple[str, Spoil]] = {
    "I05": ("`.mha` cut to 60 %", lambda f: cut(image_path(f), 0.6)),
    "I10": ("NaN in `.mha`", lambda f: set_voxels(image_path(f), np.nan)),
    "I11": ("Inf in `.mha`", lambda f: set_voxels(image_path(f), np.inf)),
    "I19": (
        "channels differ in shape",
        lambda f: rewrite(image_path(f, 1), image_array(5)[2:]),
    ),
    "I20": ("`dataset.json` lists a channel too many", without_second_channel),
    "I21": ("a channel of one case is missing", lambda f: image_path(f, 1).unlink()),
    "I29": (
        "one label map is background",
        lambda f: rewrite(label_path(f), np.zeros(SHAPE, np.uint8)),
    ),
    "I30": ("all label maps are background", no_foreground),
    "I32": ("stray text file", lambda f: (f / "imagesTr" / "notes.txt").write_text("hello")),
    "I34": (
        "side file of macOS",
        lambda f: (f / "imagesTr" / "._case_001_0000.nii.gz").write_bytes(b"\0\5\26\7"),
    ),
    "I43": (
        "label values as text",
        lambda f: edit(f, labels={"background": "0", "a": "1", "b": "2"}),
    ),
    "I46": (
        "a case without label",
        lambda f: (label_path(f).unlink(), edit(f, numTraining=len(CASES) - 1)),
    ),
    "I47": (
        "constant image",
        lambda f: rewrite(image_path(f), np.full(SHAPE, 42, np.int16)),
    ),
    "I52": (
        "HTML and shell characters in label names",
        lambda f: edit(f, labels={"background": 0, "<script>": 1, "$(rm)": 2}),
    ),
}
TITLES = {
    "I01": "truncated `.nii.gz`", "I02": "gzip of half the voxels", "I03": "gzip trailer missing",
    "I03b": "one flipped bit", "I04": "truncated label map", "I06": "header claims more voxels",
    "I07": "empty file", "I08": "NaN in an image", "I09": "Inf in an image",
    "I12": "NaN in a label map", "I13": "2D image in a 3D set", "I14": "4D image",
    "I15": "label map of another shape", "I16": "label map of another spacing",
    "I17": "label map of another origin", "I18": "label map flipped",
    "I22": "a channel too many", "I23": "label value that no name has", "I24": "label value 0.5",
    "I25": "label value 1.9999", "I26": "label value -1", "I27": "label map missing",
    "I28": "label map without image", "I31": "the same scan twice",
    "I33": "image without channel number", "I35": "name without `_0000`", "I36": "a pipe",
    "I37": "no `dataset.json`", "I38": "`dataset.json` cut off", "I39": "a key is missing",
    "I40": "wrong file ending", "I41": "two names, one value", "I42": "no background",
    "I44": "wrong `numTraining`", "I45": "labels 0, 1, 3", "I48": "all-zero image",
    "I49": "spacing 1000 mm", "I50": "spacing 0.01 mm", "I51": "spacing 0 in the header",
}  # fmt: skip


def data_row(code: str, spoil: Spoil, name: str) -> Callable[[Trial], str]:
    """Plan a data set with one fault; nnU-Net without and with its verification."""

    def run(trial: Trial) -> str:
        make_dataset(trial.raw, FORMATS.get(code, ".nii.gz"), CHANNELS.get(code, 1), CASES)
        spoil(trial.raw)
        seen = trial.plan().told(name)
        if not trial.program.is_stock:
            return seen
        shutil.rmtree(trial.home / "preprocessed", ignore_errors=True)
        return f"{seen}; verified: {trial.plan(VERIFY).told(name)}"

    return run


def data_rows() -> dict[str, tuple[str, Callable[[Trial], str]]]:
    """Title and trial of each row; of several faults of a row the first."""
    rows: dict[str, tuple[str, Callable[[Trial], str]]] = {}
    for code, spoil, _words, name in FAULTS:
        if not code.startswith("I"):
            continue
        rows.setdefault(code, (TITLES[code], data_row(code, spoil, name)))
    for code, (title, spoil) in OTHER_FAULTS.items():
        rows[code] = (title, data_row(code, spoil, NAMES.get(code, FAULTY)))
    return dict(sorted(rows.items()))


def write_images(folder: Path, n: int = 6) -> Path:
    """Images to predict, as nnU-Net wants them."""
    for number in range(n):
        save(image_array(number), folder / f"new_{number}_0000.nii.gz")
    return folder


def predicted(trial: Trial, spoil: Spoil, name: str) -> str:
    """Predict six images of which one is spoiled."""
    trial.use("trained")
    source = write_images(trial.folder / "in")
    spoil(source)
    target = trial.folder / "out"
    return with_count(trial.predict(source, target), target, name)


def with_count(outcome: Outcome, target: Path, name: str) -> str:
    """What was told, and how many label maps there are."""
    return f"{outcome.told(name)}; {len(list(target.glob('new_*.nii.gz')))} label maps"


SPOILED = "new_2_0000.nii.gz"


def one_slice(source: Path) -> None:
    """Write one slice as a 2D file."""
    sitk.WriteImage(sitk.GetImageFromArray(image_array(4)[3]), str(source / SPOILED), True)


def empty_folder(trial: Trial) -> str:
    """Predict nothing."""
    trial.use("trained")
    (trial.folder / "in").mkdir()
    return trial.predict(trial.folder / "in", trial.folder / "out").told("trial/in")


def missing_folder(trial: Trial) -> str:
    """Predict a folder that is not there."""
    trial.use("trained")
    return trial.predict(trial.folder / "in", trial.folder / "out").told("trial/in")


def missing_checkpoint(trial: Trial) -> str:
    """Predict with a fold that was not trained."""
    trial.use("trained")
    (trial.program.fold(trial.home) / "checkpoint_final.pth").unlink()
    source = write_images(trial.folder / "in")
    return trial.predict(source, trial.folder / "out").told("checkpoint_final.pth")


def output_is_input(trial: Trial) -> str:
    """Predict into the folder of the images, twice."""
    trial.use("trained")
    source = write_images(trial.folder / "in")
    first, second = (trial.predict(source, source).told("trial/in") for _ in range(2))
    return f"{first}; again: {second}"


def prediction_rows() -> dict[str, tuple[str, Callable[[Trial], str]]]:
    """Title and trial of each row."""
    spoils: dict[str, tuple[str, Spoil]] = {
        "P01": ("one of six images is empty", lambda f: (f / SPOILED).write_bytes(b"")),
        "P02": ("one of six is truncated", lambda f: cut(f / SPOILED, 0.5)),
        "P03": (
            "one of six has a channel too many",
            lambda f: shutil.copy(f / SPOILED, f / "new_2_0001.nii.gz"),
        ),
        "P04": ("one of six is 2D", one_slice),
        "P05": ("a stray image", lambda f: shutil.copy(f / SPOILED, f / "scout.nii.gz")),
        "P06": ("one of six is all zero", lambda f: rewrite(f / SPOILED, np.zeros(SHAPE))),
    }
    rows: dict[str, tuple[str, Callable[[Trial], str]]] = {
        code: (title, partial(predicted, spoil=spoil, name="scout" if code == "P05" else "new_2"))
        for code, (title, spoil) in spoils.items()
    }
    return rows | {
        "P07": ("empty folder", empty_folder),
        "P08": ("folder that is missing", missing_folder),
        "P09": ("fold without checkpoint", missing_checkpoint),
        "P10": ("output into the input", output_is_input),
    }
