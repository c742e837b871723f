"""Raw files that are no longer those that were preprocessed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from graphnn_unet.data.preprocess import manifest_path, read_manifest


def changed_files(
    raw: Path, preprocessed: Path, identifier: str, cases: Collection[str]
) -> list[str]:
    """Files of cases that were edited or removed after they were preprocessed.

    Files that are older than the manifest of the preprocessed set are not opened.

    Args:
        raw: ``$nnUNet_raw/DatasetNNN_Name``; training elsewhere may have none.
        preprocessed: ``$nnUNet_preprocessed/DatasetNNN_Name``.
        identifier: Of the preprocessed set, as in the plan.
        cases: Whose files are looked at.

    Returns:
        Paths relative to ``raw``, sorted; empty where nothing can be told.
    """
    manifest = read_manifest(preprocessed, identifier)
    if manifest is None or not raw.is_dir():
        return []
    finished = manifest_path(preprocessed, identifier).stat().st_mtime
    entries = manifest["cases"]
    return sorted(
        name
        for case in cases
        for name, sha256 in entries.get(case, {}).get("sources", {}).items()
        if _is_changed(raw / name, sha256, finished)
    )


def _is_changed(path: Path, sha256: str, finished: float) -> bool:
    if not path.is_file():
        return True
    if path.stat().st_mtime <= finished:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() != sha256
