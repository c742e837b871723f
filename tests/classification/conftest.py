"""Small pictures whose class a tiny network learns in seconds."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

KINDS = ("bar", "disk", "ring")
QUICK = {
    "image_size": 24, "max_epochs": 6, "rounds": 3, "n_neighbors": 8, "batch_size": 8,
    "min_steps": 3,
}  # fmt: skip


def picture(kind: str, seed: int, size: int = 28) -> np.ndarray:
    """One shape on noise, ``(y, x)`` uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2 + rng.uniform(-2, 2, (2, 1, 1))
    radius = np.hypot(y, x)
    shape = {"bar": np.abs(y) < 3, "disk": radius < 8, "ring": np.abs(radius - 9) < 2}[kind]
    return (60 + 120 * shape + rng.normal(0, 12, (size, size))).clip(0, 255).astype(np.uint8)


def write_pictures(folder: Path, n: int, first: int = 0) -> dict[str, str]:
    """Write ``n`` pictures, kinds in turn; returns the class of each case."""
    folder.mkdir(parents=True, exist_ok=True)
    classes = {}
    for number in range(first, first + n):
        kind = KINDS[number % 3]
        Image.fromarray(picture(kind, number)).save(folder / f"case_{number:03d}.png")
        classes[f"case_{number:03d}"] = kind
    return classes


def write_table(path: Path, rows: dict[str, str], head: str = "case,class") -> Path:
    path.write_text("\n".join([head, *(f"{case},{cells}" for case, cells in rows.items())]) + "\n")
    return path


class Study:
    """A folder of 36 pictures, 12 of them labeled."""

    def __init__(self, root: Path):
        self.root, self.images = root, root / "images"
        self.classes = write_pictures(self.images, 36)
        few = dict(list(self.classes.items())[:12])
        self.labels = write_table(root / "labels.csv", few)
        self.truth = write_table(root / "truth.csv", self.classes)
        self.given = few

    def table(self, name: str, rows: dict[str, str], head: str = "case,class") -> Path:
        """One more table."""
        return write_table(self.root / name, rows, head)

    def more(self, n: int) -> Path:
        """A folder with other pictures of the same kinds."""
        folder = self.root / "more"
        self.later = write_pictures(folder, n, first=100)
        return folder


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path)


@pytest.fixture
def quick() -> dict:
    """Settings under which a run takes seconds."""
    return dict(QUICK)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory):
    """A study and its dynamic run, shared by the tests of a module."""
    from graphnn_unet import classify

    study = Study(tmp_path_factory.mktemp("finished"))
    result = classify(
        study.images, study.labels, study.root / "out", truth=study.truth, device="cpu", **QUICK
    )
    return study, result
