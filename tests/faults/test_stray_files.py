"""Files that no user takes for images stay out of every step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tiny_study import DATASET, plan_in, write_raw_dataset


def test_what_macos_writes_beside_files_changes_no_plan(tmp_path: Path):
    plain, copied = tmp_path / "plain", tmp_path / "copied"
    write_raw_dataset(plain / "raw")
    shutil.copytree(plain, copied)
    for path in list((copied / "raw" / DATASET).rglob("*.nii.gz")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
    plans = []
    for home in (plain, copied):
        plan_in(home)
        folder = home / "preprocessed" / DATASET
        assert not list(folder.rglob("._*"))
        plans.append(json.loads((folder / "gnnunetPlans.json").read_text(encoding="utf-8")))
    assert plans[0] == plans[1]
