import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_study import real_data

from graphnn_unet.commands.classify import main
from graphnn_unet.progress import set_quiet

COMMAND = "import sys; from graphnn_unet.commands.classify import main; sys.exit(main())"
QUICK = ("--epochs", 2, "--rounds", 1, "--image-size", 16, "--batch-size", 4, "-device", "cpu")


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def gnnunet_classify(capsys):
    """Run the command in this process: a new one spends seconds on importing torch."""

    def run(*arguments: object) -> Done:
        capsys.readouterr()
        try:
            status = main([str(word) for word in arguments])
        except SystemExit as end:  # argparse
            status = int(end.code or 0)
        return Done(status, *capsys.readouterr())

    yield run
    set_quiet(False)


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Twelve pictures, bright above or below; labels of six, truth of all."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        array = rng.integers(0, 60, (20, 20))
        array[slice(10) if number % 2 else slice(10, 20)] += 150
        Image.fromarray(array.astype(np.uint8)).save(folder / f"p{number:02d}.png")
        rows.append(f"p{number:02d},{['below', 'above'][number % 2]}")
    labels, truth = tmp_path / "labels.csv", tmp_path / "truth.csv"
    labels.write_text("\n".join(["case,class", *rows[:6]]))
    truth.write_text("\n".join(["case,class", *rows]))
    return folder, labels, truth


def test_writes_tables_and_pictures_and_prints_the_figures(gnnunet_classify, pictures, tmp_path):
    images, labels, truth = pictures
    out = tmp_path / "out"
    done = gnnunet_classify("-i", images, "--labels", labels, "-o", out, "--truth", truth, *QUICK)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"folders: images={images} output={out}")
    assert done.stdout.splitlines()[0] == "on the images whose class was not given:"
    assert done.stdout.splitlines()[2].split()[:2] == ["class", "6"]
    for name in ("map.png", "confusion.png"):
        assert Image.open(out / name).size[0] > 100
    for name in ("predictions.csv", "summary.json", "rounds.csv", "model.pth"):
        assert (out / name).is_file(), name
    assert not list(out.glob(".*partial*"))
    later = gnnunet_classify("--model", out, "-i", images, "-o", tmp_path / "later", "--quiet")
    assert later.returncode == 0, later.stderr
    assert later.stderr == ""
    assert (tmp_path / "later" / "map.png").is_file()
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "new.png").write_bytes((images / "p00.png").read_bytes())
    single = gnnunet_classify("--model", out, "-i", alone, "-o", tmp_path / "single", "--quiet")
    assert (single.returncode, single.stderr) == (0, "")
    assert (tmp_path / "single" / "predictions.csv").is_file()
    again = gnnunet_classify("-i", images, "--labels", labels, "-o", out, *QUICK)
    assert again.returncode == 2
    assert "has results already" in again.stderr


def test_unreadable_image_ends_with_three_and_the_others_are_there(
    gnnunet_classify, pictures, tmp_path
):
    images, labels, _ = pictures
    (images / "p11.png").write_bytes(b"no picture")
    done = gnnunet_classify("-i", images, "--labels", labels, "-o", tmp_path / "out", *QUICK)
    assert done.returncode == 3
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert error.startswith("error: p11: p11.png cannot be read")
    assert (tmp_path / "out" / "failures.csv").is_file()
    assert (
        len((tmp_path / "out" / "predictions.csv").read_text(encoding="utf-8").splitlines()) == 12
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "error: nothing says what to classify"),
        (("--labels", "LABELS", "--alpha", "1"), "error: alpha = 1.0 cannot be used"),
        (("--labels", "LABELS", "--encoder", "resnet19"), "error: encoder 'resnet19' is unknown"),
        (("--labels", "LABELS", "--encoder", "resnet18:none.pth"), "none.pth are missing"),
        (("--labels", "LABELS", "--encoder", "autoencoder"), "error: encoder 'autoencoder' is"),
        (("--labels", "LABELS", "--trust", "all"), "invalid choice: 'all'"),
        (("--labels", "nowhere.csv"), "error: the table nowhere.csv is missing"),
        (("--labels", "LABELS", "--c"), "nothing to continue"),
        (("--labels", "LABELS", "--p", "3"), "invalid choice: 3"),
        (("--model", "OUT"), "checkpoint OUT/model.pth is missing"),
    ],
)
def test_wrong_input_ends_with_two_and_one_line(
    gnnunet_classify, pictures, tmp_path, arguments, message
):
    images, labels, _ = pictures
    words = [str(labels) if word == "LABELS" else word for word in arguments]
    done = gnnunet_classify("-i", images, "-o", tmp_path / "out", *words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_light():
    code = COMMAND.replace("sys.exit(main())", "") + (
        "\ntry: main(['--help'])\nexcept SystemExit: pass"
        "\nheavy = {'numpy', 'scipy', 'torch', 'PIL', 'matplotlib'} & set(sys.modules)"
        "\nsys.exit(f'imported {heavy}' if heavy else 0)"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 2  # the limit is 0.5 s on an idle machine
    assert "any-orientation" in done.stdout


@pytest.mark.slow
def test_class_with_one_image_in_real_data_is_refused_by_name(gnnunet_classify, tmp_path):
    folder = real_data("WBC")
    done = gnnunet_classify(
        "-i", folder / "images", "--labels", folder / "classes.csv", "-o", tmp_path / "out", *QUICK
    )
    assert done.returncode == 2
    assert "class basophil has 1 labeled case" in done.stderr


@pytest.mark.slow
def test_real_cells_are_told_apart_better_than_by_chance(gnnunet_classify, tmp_path):
    folder = real_data("WBC")
    rows = (folder / "classes.csv").read_text(encoding="utf-8").splitlines()
    rows = [row for row in rows if "basophil" not in row]
    (tmp_path / "labels.csv").write_text("\n".join(rows[:80]))
    (tmp_path / "truth.csv").write_text("\n".join(rows))
    done = gnnunet_classify(
        "-i", folder / "images", "--labels", tmp_path / "labels.csv", "-o", tmp_path / "out",
        "--truth", tmp_path / "truth.csv", "--augmentation", "any-orientation",
        "--epochs", 30, "--rounds", 5, "-device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["scores"][
        "class"
    ]
    assert scores["balanced_accuracy"] > 0.5
