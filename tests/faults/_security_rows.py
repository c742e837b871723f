"""Hostile files: rows S. The canary is an empty file that foreign code would make."""

from __future__ import annotations

import gzip
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _data_rows import data_row, write_images
from _trial import CASES, FAULTY, Trial, limited_memory, prepared
from small_dataset import FAULTS, edit, edit_header, int16, make_dataset

FINAL = "checkpoint_final.pth"
ADDRESS_SPACE = 12 * 2**30


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (self.mark, "w")


def mark(trial: Trial) -> Path:
    """Where the canary would be."""
    return trial.folder / "canary"


def sang(trial: Trial, told: str) -> str:
    """What was told, and whether code ran."""
    return f"{told}; {'**code ran**' if mark(trial).exists() else 'no code ran'}"


def code_in_checkpoint(trial: Trial) -> str:
    """S01: a pickled call in a checkpoint."""
    path = trial.use("trained").program.fold(trial.home) / FINAL
    content = torch.load(path, map_location="cpu", weights_only=False)
    torch.save({**content, "extra": Canary(mark(trial))}, path)
    source = write_images(trial.folder / "in", 1)
    return sang(trial, trial.predict(source, trial.folder / "out").told(FINAL))


def code_in_pretrained(trial: Trial) -> str:
    """S02: the same in ``-pretrained_weights``."""
    if not trial.program.is_stock:
        return "no such option"
    path = trial.use("trained").folder / "weights.pth"
    content = torch.load(trial.program.fold(trial.home) / FINAL, map_location="cpu",
                         weights_only=False)  # fmt: skip
    torch.save({**content, "extra": Canary(mark(trial))}, path)
    shutil.rmtree(trial.home / "results")
    told = trial.train("all", "-pretrained_weights", str(path)).told("weights.pth")
    return sang(trial, told)


def with_plan(trial: Trial, change: Callable[[dict[str, Any]], None]) -> str:
    """Predict with a changed ``plans.json``."""
    path = trial.use("trained").program.model(trial.home) / "plans.json"
    plans = json.loads(path.read_text(encoding="utf-8"))
    change(plans["configurations"]["3d_fullres"]["architecture"])
    path.write_text(json.dumps(plans))
    source = write_images(trial.folder / "in", 1)
    command = trial.program.predicting(trial.home, source, trial.folder / "out")
    told = trial.run(command, PYTHONPATH=str(trial.folder)).told("plans.json")
    return sang(trial, told)


def class_in_plan(trial: Trial) -> str:
    """S03: a class of a file beside."""
    (trial.folder / "evil.py").write_text(
        f"open({str(mark(trial))!r}, 'w')\nfrom torch.nn import Identity as Evil\n"
    )
    return with_plan(trial, lambda net: net.update(network_class_name="evil.Evil"))


def hub_in_plan(trial: Trial) -> str:
    """S04: ``torch.hub.load`` of a local folder."""
    hub = trial.folder / "hub"
    hub.mkdir()
    (hub / "hubconf.py").write_text(f"open({str(mark(trial))!r}, 'w')\ndef evil(**_): ...\n")
    arguments = {"repo_or_dir": str(hub), "model": "evil", "source": "local"}

    def change(net: dict[str, Any]) -> None:
        net.update(network_class_name="torch.hub.load", arch_kwargs=arguments)
        net["_kw_requires_import"] = []

    return with_plan(trial, change)


def code_in_voxels(trial: Trial) -> str:
    """S05: a pickled call beside the voxels."""
    folder = trial.use("planned").program.preprocessed(trial.home)
    files = list(folder.glob(f"{FAULTY}.pkl"))
    (folder / f"{FAULTY}.pkl").write_bytes(pickle.dumps({"extra": Canary(mark(trial))}))
    told = trial.train().told(FAULTY)
    return sang(trial, told if files else f"no pickle is read ({told})")


def code_in_postprocessing(trial: Trial) -> str:
    """S06: a pickled call in ``postprocessing.pkl``."""
    if not trial.program.is_stock:
        return "no such file is read"
    source = write_images(trial.use("trained").folder / "in", 1)
    path = trial.folder / "postprocessing.pkl"
    path.write_bytes(pickle.dumps(Canary(mark(trial))))
    model = trial.program.model(trial.home)
    told = trial.run([
        "nnUNetv2_apply_postprocessing", "-i", str(source), "-o", str(trial.folder / "out"),
        "-pp_pkl_file", str(path), "-plans_json", str(model / "plans.json"),
        "-dataset_json", str(model / "dataset.json"),
    ]).told("postprocessing")  # fmt: skip
    return sang(trial, told)


def model_zip(trial: Trial) -> Path:
    """A zip of the trained model, as each program exports it."""
    kept = trial.bases / trial.program.name / "model.zip"
    if kept.is_file():
        return kept
    home = prepared(trial.program, trial.bases, "trained")
    if trial.program.is_stock:
        with zipfile.ZipFile(kept, "w") as opened:
            for path in trial.program.model(home).rglob("*"):
                if path.is_file():
                    opened.write(path, path.relative_to(home / "results"))
    else:
        trial.run(["gnnunet_export", str(trial.program.model(home)), "-o", str(kept)])
    return kept


def installed(trial: Trial, spoil: Callable[[Path], None], name: str) -> str:
    """Install a spoiled zip into an empty home; what is written."""
    archive = Path(shutil.copy(model_zip(trial), trial.folder / "model.zip"))
    spoil(archive)
    results = trial.home / "results"
    results.mkdir(parents=True, exist_ok=True)
    told = trial.run([trial.program.install, str(archive)]).told(name)
    size = sum(path.stat().st_size for path in results.rglob("*") if path.is_file())
    odd = list(trial.folder.rglob("escaped*"))
    return f"{told}; {size // 2**20} MiB written{', odd files too' if odd else ''}"


def add(archive: Path, name: str, content: bytes) -> None:
    """Add an entry."""
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(name, content)


def zip_outside(trial: Trial) -> str:
    """S08: names that lead outside."""
    return installed(trial, lambda path: add(path, "../../escaped.txt", b"x"), "escaped")


def zip_over_model(trial: Trial) -> str:
    """S09: over an installed model."""
    results = trial.home / "results"
    installed(trial, lambda path: None, "model")
    (final,) = results.rglob(FINAL)
    final.write_bytes(b"mine")
    told = trial.run([trial.program.install, str(trial.folder / "model.zip")]).told("model")
    return f"{told}; {'kept' if final.read_bytes() == b'mine' else 'replaced'}"


def zip_bomb(trial: Trial) -> str:
    """S10: 1 GiB of zeros."""

    def spoil(path: Path) -> None:
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as opened:
            root = opened.namelist()[0].rsplit("/", 1)[0]
            with opened.open(f"{root}/zeros.json", "w", force_zip64=True) as sink:
                for _ in range(1024):
                    sink.write(bytes(2**20))

    return installed(trial, spoil, "zeros")


def zip_truncated(trial: Trial) -> str:
    """S11: 1000 bytes of a zip."""
    return installed(trial, lambda p: p.write_bytes(p.read_bytes()[:1000]) and None, "model.zip")


def path_outside(trial: Trial) -> str:
    """S14: a label map outside the data set, by a variable."""
    make_dataset(trial.raw, cases=CASES)
    secret = Path(shutil.copy(trial.raw / "labelsTr" / f"{FAULTY}.nii.gz",
                              trial.folder / "secret.nii.gz"))  # fmt: skip
    section = {
        case: {"images": [f"imagesTr/{case}_0000.nii.gz"], "label": f"labelsTr/{case}.nii.gz"}
        for case in CASES
    }
    section[FAULTY]["label"] = "$SECRET/secret.nii.gz"
    edit(trial.raw, dataset=section)
    return trial.run(trial.program.plan, SECRET=str(secret.parent)).told()


def header_bomb(trial: Trial) -> str:
    """S15: a header that claims 108 GB, on a machine with 12 GiB."""
    source = write_images(trial.use("trained").folder / "in", 3)
    edit_header(source / "new_1_0000.nii.gz", 42, int16(3000, 3000, 3000))
    command = trial.program.predicting(trial.home, source, trial.folder / "out")
    told = trial.run(command, limit=limited_memory(ADDRESS_SPACE)).told("new_1")
    return f"{told}; {len(list((trial.folder / 'out').glob('new_*.nii.gz')))} of 2 label maps"


def bytes_bomb(trial: Trial) -> str:
    """S15: 10 MB that unpack to 10 GB, on a machine with 12 GiB."""
    source = write_images(trial.use("trained").folder / "in", 2)
    header = bytearray(gzip.decompress((source / "new_1_0000.nii.gz").read_bytes())[:352])
    header[42:48] = int16(1400, 1400, 1400)
    with gzip.open(source / "new_1_0000.nii.gz", "wb", 1) as sink:
        sink.write(bytes(header))
        for _ in range(1400):
            sink.write(bytes(4 * 1400 * 1400))
    command = trial.program.predicting(trial.home, source, trial.folder / "out")
    told = trial.run(command, limit=limited_memory(ADDRESS_SPACE)).told("new_1")
    return f"{told}; {len(list((trial.folder / 'out').glob('new_*.nii.gz')))} of 1 label maps"


def class_in_checkpoint(trial: Trial) -> str:
    """S16: a trainer's name that is a file of the current folder."""
    path = trial.use("trained").program.fold(trial.home) / FINAL
    content = torch.load(path, map_location="cpu", weights_only=False)
    base = ("nnunetv2.training.nnUNetTrainer.nnUNetTrainer", "nnUNetTrainer")
    if not trial.program.is_stock:
        base = ("graphnn_unet.trainers", "SupervisedTrainer")
    (trial.folder / "evil.py").write_text(
        f"open({str(mark(trial))!r}, 'w')\nfrom {base[0]} import {base[1]} as Evil\n"
    )
    torch.save({**content, "trainer_name": "evil.py:Evil"}, path)
    source = write_images(trial.folder / "in", 1)
    return sang(trial, trial.predict(source, trial.folder / "out").told("evil"))


def security_rows() -> dict[str, tuple[str, Callable[[Trial], str]]]:
    """Title and trial of each row."""
    names = {"S12": "case id with `..`", "S13": "case id with `;` and `$(...)`"}
    ids = {code: (names[code], data_row(code, spoil, name))
           for code, spoil, _words, name in FAULTS if code in names}  # fmt: skip
    return {
        "S01": ("code in a checkpoint", code_in_checkpoint),
        "S02": ("code in pretrained weights", code_in_pretrained),
        "S03": ("any class in `plans.json`", class_in_plan),
        "S04": ("`torch.hub.load` in `plans.json`", hub_in_plan),
        "S05": ("code beside the voxels", code_in_voxels),
        "S06": ("code in `postprocessing.pkl`", code_in_postprocessing),
        "S08": ("zip with names that lead outside", zip_outside),
        "S09": ("zip over an installed model", zip_over_model),
        "S10": ("zip bomb of 1 GiB", zip_bomb),
        "S11": ("truncated zip", zip_truncated),
        **ids,
        "S14": ("label map outside the data set", path_outside),
        "S15": ("header claims 108 GB", header_bomb),
        "S15b": ("10 MB that unpack to 10 GB", bytes_bomb),
        "S16": ("file named as trainer in a checkpoint", class_in_checkpoint),
    }
