"""A trained model, and code that leaves a mark when a file makes it run."""

from pathlib import Path

import pytest
from models.small_models import opened_model, write_good_images


@pytest.fixture(scope="module")
def model(trained_home, tmp_path_factory) -> Path:
    """GraphCL with an open gate. Read only."""
    return opened_model(trained_home, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """One good image. Read only."""
    return write_good_images(tmp_path_factory.mktemp("images"), ("a",))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """The mark of ``evil.py``, which lies in the current folder and is a proper trainer."""
    mark = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(
        f"open({str(mark)!r}, 'w')\nfrom graphnn_unet.trainers import GraphCLTrainer as Evil\n"
    )
    return mark
