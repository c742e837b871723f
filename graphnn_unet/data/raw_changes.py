"""Raw files that are no longer those that were preprocessed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from graphnn_unet.data.paths import REPORT
from graphnn_unet.storage.safe_load import read_json


def changed_files(raw: Path, preprocessed: Path, cases: Collection[str]) -> list[str]:
    """Files of cases that were edited or removed after the last check of the data set.

    Files that are older than the report of that check are not opened.

    Args:
        raw: ``$nnUNet_raw/DatasetNNN_Name``; training elsewhere may have none.
        preprocessed: ``$nnUNet_preprocessed/DatasetNNN_Name``.
        cases: Whose files are looked at.

    Returns:
        Paths relative to ``raw``, sorted; empty where nothing can be told.
    """
    report = preprocessed / REPORT
    if not (raw.is_dir() and report.is_file()):
        return []
    content, checked = read_json(report), report.stat().st_mtime
    entries = content.get("cases", {}) if isinstance(content, dict) else {}
    return sorted(
        name
        for case in cases
        for name, sha256 in entries.get(case, {}).get("sha256", {}).items()
        if _is_changed(raw / name, sha256, checked)
    )


def _is_changed(path: Path, sha256: str, checked: float) -> bool:
    if not path.is_file():
        return True
    if path.stat().st_mtime <= checked:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() != sha256
