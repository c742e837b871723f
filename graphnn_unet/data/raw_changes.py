"""Raw files that are no longer those that were preprocessed."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path

from graphnn_unet.data.check_files import file_stamp
from graphnn_unet.data.preprocess import manifest_path, read_manifest


def changed_files(
    raw: Path, preprocessed: Path, identifier: str, cases: Collection[str]
) -> list[str]:
    """Files of cases that were edited or removed after they were preprocessed.

    Files with the time and size that they had in the check are not opened. A manifest of an earlier
    version does not tell these: then files that are older than it are not.

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
    finished = manifest_path(preprocessed, identifier).stat().st_mtime_ns
    return sorted(
        name
        for case in cases
        if (entry := manifest["cases"].get(case))
        for name, sha256 in entry.get("sources", {}).items()
        if _is_changed(raw / name, sha256, entry.get("stamps", {}).get(name), finished)
    )


def _is_changed(path: Path, sha256: str, stamp: Sequence[int] | None, finished: int) -> bool:
    if not path.is_file():
        return True
    now = file_stamp(path)
    if list(now) == stamp if stamp else now[0] <= finished:
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() != sha256
