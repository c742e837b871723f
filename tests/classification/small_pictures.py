"""Small pictures whose class a tiny network learns in seconds, and tables of them."""

from pathlib import Path

import numpy as np
from PIL import Image

KINDS = ("bar", "disk", "ring")


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
