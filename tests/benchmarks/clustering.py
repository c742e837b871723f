"""Unsupervised segmentation against what a user would otherwise take, and its speed.

    python tests/benchmarks/clustering.py quality --data DIR --rows FILE [--part report|dev]
    python tests/benchmarks/clustering.py pool --data DIR --rows FILE --work DIR
    python tests/benchmarks/clustering.py bound --data DIR --rows FILE --work DIR
    python tests/benchmarks/clustering.py memory DATA CSV
    python tests/benchmarks/clustering.py agreement DATA CSV
    python tests/benchmarks/clustering.py table ROWS CSV PAGE DATA MAPS
    python tests/benchmarks/clustering.py speed [--quick] [--json FILE] [--volume FILE]

``quality`` adds rows image by image in a fixed random order and goes on where it was stopped, so a
table of fewer images is that of a random sample. Nothing is chosen on these images: every third
image of a class is the development part, on which constants were chosen. ``pool`` adds the method
that trains on all images of a set first, ``bound`` a network trained with the masks of the
development part, ``memory`` measures the peak of each method on the largest
image of each set, ``agreement`` how well two drawings of one object agree, and ``table`` brings
rows and memory together.
"""

from __future__ import annotations

import csv
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

SETS = {"EMDS5": ".jpg", "WBC": ".png"}
COLUMNS = ("data", "method", "features", "seed", "case", "iou", "dice", "oracle_iou", "seconds",
           "flags")  # fmt: skip
N_SEEDS = 3
GRID_CELL, NAMED_CELL = 4, 8
"""Cells of the grid of layers and losses, and of the published graphs of all pairs, in pixels."""


def images_of(data: Path, name: str, part: str) -> list[str]:
    """Names of the images of a part, in a fixed random order."""
    by_class: dict[str, list[str]] = {}
    with (data / name / "classes.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            by_class.setdefault(row["class"], []).append(row["case"])
    selected = [
        case
        for cases in by_class.values()
        for number, case in enumerate(sorted(cases))
        if (number % 3 == 1) == (part == "dev")
    ]
    random.Random(0).shuffle(selected)
    return selected


def source_of(data: Path, name: str, case: str):
    """Where an image is."""
    from graphnn_unet.clustering.images import Source

    return Source(case, (data / name / "images" / (case + SETS[name]),), ".png")


def read_truth(data: Path, name: str, case: str) -> np.ndarray:
    """True mask."""
    from PIL import Image as Pillow

    return np.asarray(Pillow.open(data / name / "masks" / f"{case}.png")) > 0


def read_pair(data: Path, name: str, case: str):
    """Image and true mask."""
    from graphnn_unet.clustering.images import read_image

    return read_image(source_of(data, name, case)), read_truth(data, name, case)


def largest_of(data: Path, name: str) -> str:
    """The image with the most pixels."""
    from PIL import Image as Pillow

    def n_pixels(case: str) -> int:
        with Pillow.open(source_of(data, name, case).paths[0]) as picture:
            return picture.width * picture.height

    return max(images_of(data, name, "report"), key=n_pixels)


Work = Callable[[int], tuple[np.ndarray, str, float]]


class Once:
    """Features of one image, computed once; their time is added to every method that uses them."""

    def __init__(self, source: Any, image: Any):
        self._source, self._image = source, image
        self._nodes: Any = None
        self.seconds = 0.0

    def __call__(self) -> Any:
        if self._nodes is None:
            began = time.perf_counter()
            self._nodes = self._source(self._image)
            self.seconds = time.perf_counter() - began
        return self._nodes


def methods_of(image: Any, *, grid: bool) -> Iterator[tuple[str, str, int, Work]]:
    """Method, features, number of seeds, and a function of the seed.

    The function returns mask, flags and seconds. ``grid``: also the grid of layers and losses, the
    named methods and further seeds, which take most of the time.
    """
    from _classical import CLASSICAL, kmeans_nodes

    from graphnn_unet.clustering.features import BorderFeatures, HandFeatures
    from graphnn_unet.clustering.segment import segment_image
    from graphnn_unet.clustering.settings import METHODS, PostProcessing, make_settings

    part = image.array[(slice(None), *image.inner)]
    rgb = np.moveaxis(part if len(part) == 3 else np.repeat(part, 3, axis=0), 0, -1)

    def whole(mask: np.ndarray) -> np.ndarray:
        from graphnn_unet.clustering.segment import resized_labels

        whole_mask = np.zeros(image.shape, dtype=bool)
        inner = tuple(p.stop - p.start for p in image.inner)
        whole_mask[image.inner] = resized_labels(mask.astype(np.int64), inner) > 0
        return whole_mask

    def ours(nodes: Once, settings: Any, finish: Any) -> Work:
        def work(seed: int) -> tuple[np.ndarray, str, float]:
            ready = nodes()
            began = time.perf_counter()
            result = segment_image(image, ready, settings.model_copy(update={"seed": seed}), finish)
            seconds = time.perf_counter() - began + nodes.seconds
            return result.labels > 0, str(result.facts["flags"]), seconds

        return work

    def plain(function: Callable[[Any], np.ndarray], nodes: Once | None = None) -> Work:
        def work(seed: int) -> tuple[np.ndarray, str, float]:
            given = rgb if nodes is None else nodes()
            began = time.perf_counter()
            mask = whole(function(given))
            return mask, "", time.perf_counter() - began + (nodes.seconds if nodes else 0)

        return work

    border, hand = Once(BorderFeatures(), image), Once(HandFeatures(), image)
    main = PostProcessing(main_components=True)
    auto = PostProcessing(main_components=True, color_edges=True)
    yield "auto", "border", N_SEEDS if grid else 1, ours(border, make_settings(), auto)
    for name, function in CLASSICAL.items():
        yield name, "", 1, plain(function)
    yield "k-means", "hand", 1, plain(kmeans_nodes, hand)
    yield "k-means", "border", 1, plain(kmeans_nodes, border)
    if not grid:
        return
    for shown, finish in (
        ("auto --refine", PostProcessing(main_components=True, color_edges=True, refine=True)),
        ("auto, all components", PostProcessing(color_edges=True)),
        ("auto, edges of cells", main),
    ):
        yield shown, "border", 1, ours(border, make_settings(), finish)
    middle = Once(BorderFeatures(192, GRID_CELL), image)
    for loss in ("ncut", "cc", "dmon"):
        for layer in ("gcn", "gat", "arma"):
            settings = make_settings(layer=layer, loss=loss, steps=40, lr=1e-2)
            yield f"{loss} {layer}", "border", N_SEEDS, ours(middle, settings, main)
    for features, kind, n_seeds in (("border", BorderFeatures, N_SEEDS), ("hand", HandFeatures, 1)):
        coarse = Once(kind(192, NAMED_CELL), image)
        for name, settings in METHODS.items():
            if name not in ("auto", "grid", "unsegmedgat_c"):
                yield name, features, n_seeds, ours(coarse, settings, PostProcessing())


class Rows:
    """The files of rows, one a set: what they have, and one row more at a time."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._paths = {name: path.with_stem(f"{path.stem}_{name}") for name in SETS}
        self._done: set[tuple[str, ...]] = set()
        for rows_path in self._paths.values():
            if not rows_path.is_file():
                rows_path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
            with rows_path.open(encoding="utf-8", newline="") as file:
                for row in csv.DictReader(file):
                    self._done.add(tuple(row[key] for key in COLUMNS[:5]))

    def has(self, name: str, method: str, features: str, seed: int, case: str) -> bool:
        """Whether this row is there."""
        return (name, method, features, str(seed), case) in self._done

    def add(
        self, name: str, method: str, features: str, seed: int, case: str, mask: np.ndarray,
        truth: np.ndarray, flags: str, seconds: float,
    ) -> None:  # fmt: skip
        """Score a mask and append its row."""
        from graphnn_unet.metrics.unsupervised import foreground_scores

        iou, dice = foreground_scores(mask, truth)
        oracle, _ = foreground_scores(mask, truth, oracle=True)
        row = (name, method, features, seed, case, f"{iou:.5f}", f"{dice:.5f}", f"{oracle:.5f}",
               f"{seconds:.3f}", flags)  # fmt: skip
        with self._paths[name].open("a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow(row)


def quality(data: Path, rows: Rows, part: str, limit: int | None, n_grid: int) -> None:
    """Append rows until all images are done."""
    lists = {name: images_of(data, name, part)[:limit] for name in SETS}
    for number in range(max(map(len, lists.values()))):
        for name, cases in lists.items():
            if number >= len(cases):
                continue
            case = cases[number]
            image, truth = read_pair(data, name, case)
            for method, features, n_seeds, work in methods_of(image, grid=number < n_grid):
                for seed in range(n_seeds):
                    if rows.has(name, method, features, seed, case):
                        continue
                    try:
                        mask, flags, seconds = work(seed)
                    except ImportError as missing:
                        print(f"left out: {method} ({missing})", file=sys.stderr)
                        continue
                    rows.add(name, method, features, seed, case, mask, truth, flags, seconds)


def pool(data: Path, rows: Rows, part: str, limit: int | None, work: Path) -> None:
    """Append the rows of the method that learns from all images of a set first."""
    from _clustering_pool import shared_rows

    for seed in range(N_SEEDS):
        for name in SETS:
            sources = [source_of(data, name, case) for case in images_of(data, name, part)[:limit]]
            (work / name).mkdir(parents=True, exist_ok=True)
            has = partial(rows.has, name)
            for *key, mask, flags, seconds in shared_rows(sources, work / name, seed, has):
                rows.add(name, *key, mask, read_truth(data, name, key[-1]), flags, seconds)


def bound(data: Path, rows: Rows, part: str, limit: int | None, work: Path) -> None:
    """Append the rows of a network trained with masks."""
    from _clustering_bound import FEATURES, METHOD, bound_rows, home, trained

    home(work)
    for name in SETS:
        cases = images_of(data, name, "dev")
        masks = {case: read_truth(data, name, case) for case in cases}
        model = trained(name, work, [source_of(data, name, case) for case in cases], masks)
        sources = [source_of(data, name, case) for case in images_of(data, name, part)[:limit]]
        if all(rows.has(name, METHOD, FEATURES, 0, source.case) for source in sources):
            continue
        for *key, mask, flags, seconds in bound_rows(model, name, work, sources):
            rows.add(name, *key, mask, read_truth(data, name, key[-1]), flags, seconds)


def agreement(data: Path, target: Path) -> None:
    """Write the table of objects that were drawn twice, and print its means."""
    from _clustering_agreement import COLUMNS as AGREEMENT
    from _clustering_agreement import agreement_row, same_object
    from PIL import Image as Pillow

    from graphnn_unet.storage.atomic import write_csv

    table = []
    for name in SETS:
        cases = [case for part in ("dev", "report") for case in images_of(data, name, part)]
        pictures, masks = {}, {}
        for case in cases:
            with Pillow.open(source_of(data, name, case).paths[0]) as picture:
                pictures[case] = np.asarray(picture.convert("L"), dtype=np.float64)
            masks[case] = read_truth(data, name, case)
        rows = [agreement_row(name, pair, masks) for pair in same_object(pictures)]
        for column in ("iou", "most"):
            values = np.array([float(str(row[column])) for row in rows])
            print(f"{name}: {column} {values.mean():.4f} ± {values.std():.4f} ({len(rows)} pairs)")
        table += rows
    write_csv(target, table, AGREEMENT)


def main() -> None:
    """Take the subcommand from the command line."""
    if len(sys.argv) > 1 and sys.argv[1] in ("quality", "pool", "bound"):
        import argparse

        import torch

        parser = argparse.ArgumentParser(description=__doc__)
        parser.add_argument("what")
        parser.add_argument("--data", type=Path, required=True)
        parser.add_argument("--rows", type=Path, required=True)
        parser.add_argument("--part", choices=("report", "dev"), default="report")
        parser.add_argument("--limit", type=int, help="images of each set")
        parser.add_argument("--grid", type=int, default=1000, help="images for the slow methods")
        parser.add_argument("--work", type=Path, help="for pool and bound: keeps what was trained")
        options = parser.parse_args()
        torch.set_num_threads(1)
        rows = Rows(options.rows)
        if options.what != "quality":
            act = pool if options.what == "pool" else bound
            act(options.data, rows, options.part, options.limit, options.work)
        else:
            quality(options.data, rows, options.part, options.limit, options.grid)
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
        return
    if len(sys.argv) > 1 and sys.argv[1] == "memory":
        from _clustering_memory import COLUMNS as MEMORY
        from _clustering_memory import memory_rows

        from graphnn_unet.storage.atomic import write_csv

        data, target = map(Path, sys.argv[2:4])
        memory_table = [
            row for name in SETS for row in memory_rows(data, name, largest_of(data, name))
        ]
        write_csv(target, memory_table, MEMORY)
        return
    if len(sys.argv) > 1 and sys.argv[1] == "agreement":
        agreement(*map(Path, sys.argv[2:4]))
        return
    if len(sys.argv) > 1 and sys.argv[1] == "table":
        from _clustering_table import write_sheet, write_table

        rows, target, page, data, maps = map(Path, sys.argv[2:7])
        write_table(rows, target, page)
        write_sheet(data, rows, maps, target.with_suffix(".png"))
        return
    from _clustering_speed import measure

    measure()


if __name__ == "__main__":
    main()
