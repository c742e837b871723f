"""Raw folders below a temporary one, and six scans of a user."""

from __future__ import annotations

from pathlib import Path

import pytest
from volume_makers import image_array, label_array, save


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    return tmp_path / "nnUNet_raw"


@pytest.fixture
def data(tmp_path: Path, raw: Path) -> Path:
    """Six scans, five label maps, and a place for raw folders."""
    for i in range(6):
        save(image_array(i), tmp_path / "in" / "images" / f"pat{i // 2}_scan{i}.nii.gz")
        if i < 5:
            save(label_array(), tmp_path / "in" / "labels" / f"pat{i // 2}_scan{i}.nii.gz")
    return tmp_path / "in"
