"""Peak memory of every method on the largest image of a set, each in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from _bench import peak_memory_mb

COLUMNS = ("data", "method", "features", "pixels", "memory_mb")
Work = Callable[[int], tuple[np.ndarray, str, float]]


def memory_rows(data: Path, name: str, case: str) -> list[dict[str, str]]:
    """Rows of ``COLUMNS``; memory is that above the read image and the imported libraries."""
    from clustering import methods_of, read_pair

    image, _ = read_pair(data, name, case)
    n_pixels = int(np.prod(image.shape))
    rows = []
    for number, (method, features, _, _) in enumerate(methods_of(image, grid=True)):
        used = peak_memory_mb(_work, _run, str(data), name, case, number, threads=1)
        rows.append({
            "data": name, "method": method, "features": features, "pixels": str(n_pixels),
            "memory_mb": f"{used:.0f}",
        })  # fmt: skip
    return rows


def _work(data: str, name: str, case: str, number: int) -> Work:
    """The method on the image, after one run on a corner of it: libraries are loaded then."""
    from dataclasses import replace

    from clustering import methods_of, read_pair

    image, _ = read_pair(Path(data), name, case)
    corner = replace(
        image, array=image.array[:, :48, :48].copy(), inner=(slice(0, 48), slice(0, 48))
    )
    for part in (corner, image):
        works = [work for _, _, _, work in methods_of(part, grid=True)]
        if part is corner:
            works[number](0)
    return works[number]


def _run(work: Work) -> np.ndarray:
    return work(0)[0]
