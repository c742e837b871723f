from pathlib import Path

import pytest
from pictures import blob, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures with a disc."""
    for seed in range(3):
        save(tmp_path / "in" / f"p{seed}.png", blob(seed=seed)[0])
    return tmp_path / "in"
