"""A study of small pictures."""

from pathlib import Path

import pytest
from small_pictures import write_pictures, write_table

QUICK = {
    "image_size": 24, "max_epochs": 6, "rounds": 3, "n_neighbors": 8, "batch_size": 8,
    "min_steps": 3,
}  # fmt: skip


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
