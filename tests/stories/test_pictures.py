"""Pictures with masks from a user's folders to figures, by the commands."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from tiny_study import TINY, real_data, use_home

from graphnn_unet.commands import convert, evaluate, plan_and_preprocess, predict, train
from graphnn_unet.errors import FaultsError
from graphnn_unet.metrics.evaluate import evaluate as score
from graphnn_unet.report.overlay import OverlayRow, save_contact_sheet

QUICK = [
    *(setting for setting in TINY if not setting.startswith(("plan.", "optimizer.lr"))),
    "plan.patch_size=[32,32]",
    "optimizer.lr=0.01",
]
SIZE = (40, 52)


def cell_picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A violet cell (128) with a dark nucleus (255) on pink."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(SIZE)
    center = np.array(SIZE) / 2 + rng.uniform(-5, 5, 2)
    distance = np.hypot(y - center[0], x - center[1])
    mask = np.where(distance < 6, 255, np.where(distance < 13, 128, 0)).astype(np.uint8)
    colors = {0: (230, 180, 190), 128: (150, 120, 200), 255: (70, 30, 120)}
    picture = np.zeros((*SIZE, 3))
    for value, color in colors.items():
        picture[mask == value] = color
    return np.clip(picture + rng.normal(0, 8, picture.shape), 0, 255).astype(np.uint8), mask


@pytest.fixture
def photos(tmp_path):
    """Folder with photos (JPEG, one turned by EXIF, one TIFF) and masks of three of four."""
    for name in ("photos", "masks", "new"):
        (tmp_path / name).mkdir()
    for number in range(9):
        picture, mask = cell_picture(number)
        stem = f"cell {number}"
        if number == 0:  # the camera was held upright
            exif = Image.Exif()
            exif[0x0112] = 6
            turned = Image.fromarray(np.rot90(picture).copy())
            turned.save(tmp_path / "photos" / f"{stem}.jpg", exif=exif, quality=97)
        else:
            ending = "TIF" if number == 1 else "jpeg"
            Image.fromarray(picture).save(tmp_path / "photos" / f"{stem}.{ending}")
        if number < 7:
            Image.fromarray(mask).save(tmp_path / "masks" / f"{stem}_segmentation.png")
    for number in range(2):
        Image.fromarray(cell_picture(20 + number)[0]).save(tmp_path / "new" / f"n{number}.bmp")
    return tmp_path


def run(command, *arguments) -> int:
    return command.main([str(argument) for argument in arguments])


def test_pictures_from_folders_to_figures(photos, monkeypatch, capsys):
    home = use_home(photos / "home", monkeypatch)
    source = ("--images", photos / "photos", "--masks", photos / "masks")
    names = "128=cytoplasm,255=nucleus"
    assert not run(convert, "pictures", *source, "-d", "Cells", "--test", 2, "--label-names", names)
    assert "5 labeled, 2 unlabeled, 2 test cases, 3 channels" in capsys.readouterr().out
    raw = home / "raw" / "Dataset501_Cells"
    shown = np.asarray(Image.open(raw / "imagesTr" / "cell_0_0000.png")).astype(int)
    assert np.abs(shown - cell_picture(0)[0]).mean() < 6
    assert not run(plan_and_preprocess, "-d", "Cells", "-np", 1, "--set", *QUICK)
    plans = json.loads(
        (home / "preprocessed" / raw.name / "gnnunetPlans.json").read_text(encoding="utf-8")
    )
    assert set(plans["configurations"]) == {"2d"}
    assert plans["image_reader_writer"] == "NaturalImage2DIO"
    for trainer in ("SupervisedTrainer", "BCPTrainer", "GraphCLTrainer"):
        assert not run(train, "Cells", "2d", trainer, "-device", "cpu")
    assert not run(predict, "-i", photos / "new", "-o", photos / "out", "-device", "cpu")
    line = f"pixels of each class: {photos / 'out' / 'volumes.csv'}"
    assert line in capsys.readouterr().err.splitlines()  # they have no size in ml
    answer = Image.open(photos / "out" / "n1.png")
    assert (answer.mode, answer.size) == ("P", SIZE[::-1])
    target = photos / "test"
    assert not run(predict, "-i", raw / "imagesTs", "-o", target, "-device", "cpu", "--uncertainty")
    capsys.readouterr()
    assert not run(evaluate, "-p", target, "-g", raw / "labelsTs")
    assert "distances in pixel" in capsys.readouterr().out
    with (target / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["distance_unit"] for row in rows} == {"pixel"}
    assert {row["class"] for row in rows} == {"cytoplasm", "nucleus"}
    case = rows[0]["case"]
    image, true = raw / "imagesTs" / f"{case}_0000.png", raw / "labelsTs" / f"{case}.png"
    save_contact_sheet([OverlayRow(image, target / f"{case}.png", true)], photos / "sheet.png")
    assert (photos / "sheet.png").stat().st_size > 1000


def test_network_learns_from_pictures(photos, monkeypatch, tmp_path):
    from graphnn_unet import convert, plan_and_preprocess, predict, train

    home = use_home(tmp_path / "home", monkeypatch)
    convert("pictures", images=photos / "photos", labels=photos / "masks", dataset="Cells", test=2)
    steps = ["schedule.pretrain_steps=60", "schedule.steps_per_epoch=60"]
    plan_and_preprocess("Cells", overrides=[*QUICK, *steps], n_workers=0)
    model = train("Cells", "2d", "SupervisedTrainer", device="cpu", n_loader_workers=0).model
    raw = home / "raw" / "Dataset501_Cells"
    predict(raw / "imagesTs", tmp_path / "out", model=model, device="cpu")
    assert score(tmp_path / "out", raw / "labelsTs").mean["dice"].value > 0.8


COPIES = {"WBC": ["139"], "EMDS5": ["EMDS5-g20-15"]}
"""Pictures that are in the public sets twice."""


@pytest.mark.parametrize(("name", "labels"), [("WBC", 3), ("EMDS5", 2)])
def test_real_pictures_are_converted_as_they_lie(name, labels, monkeypatch, tmp_path):
    from graphnn_unet import convert

    folder = real_data(name)
    use_home(tmp_path / "home", monkeypatch)
    given = {"images": folder / "images", "labels": folder / "masks", "dry_run": True}
    with pytest.raises(FaultsError, match="its images equal those of"):
        convert("pictures", **given, n_workers=0)
    result = convert("pictures", **given, exclude=COPIES[name], n_workers=0)
    assert len(result.labels) == labels
    assert len(result.channel_names) == 3
    assert result.count("labeled") == len(list((folder / "masks").iterdir())) - 1
