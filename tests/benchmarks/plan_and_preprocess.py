"""gnnunet_plan_and_preprocess against nnUNetv2_plan_and_preprocess, one after the other.

The same raw data set of our conversion, the same configuration, two workers each: CPU time, wall
time, peak memory of the processes, and whether the preprocessed voxels are the same. nnU-Net
checks its files too (``--verify_dataset_integrity``), as ours always does.

Run: python tests/benchmarks/plan_and_preprocess.py --images FOLDER --labels FOLDER [--cases N]
     [--repeats N] [--coarse] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from _bench import Bench, arguments
from _commands import PLAN_OURS, PLAN_STOCK, Run, run

DATASET = "Dataset990_Bench"
SIDES = ("ours", "stock")


def convert_some(
    images: Path, labels: Path, n_cases: int, home: Path, *, coarse: bool = False
) -> None:
    """The first cases of the folders as a raw data set; ``coarse`` keeps every second slice."""
    import SimpleITK as sitk

    from graphnn_unet import convert
    from graphnn_unet.progress import set_quiet

    set_quiet(True)
    os.environ |= with_folders(home, "ours")
    names = sorted(path.name for path in labels.glob("*.nii.gz"))[:n_cases]
    for kind, folder in (("images", images), ("labels", labels)):
        (home / kind).mkdir(parents=True)
        for number, name in enumerate(names):
            if not coarse or number % 2:
                (home / kind / name).symlink_to((folder / name).resolve())
            else:  # so that cases have to be resampled to the median spacing
                image = sitk.ReadImage(str(folder / name))
                sitk.WriteImage(image[:, :, ::2], str(home / kind / name))
    convert("nifti", images=home / "images", labels=home / "labels", dataset=DATASET)


def with_folders(home: Path, side: str) -> Mapping[str, str]:
    """Environment of one side: the raw data of both, preprocessed cases of its own."""
    return {"nnUNet_raw": str(home / "raw"), "nnUNet_results": str(home / "results"),
            "nnUNet_preprocessed": str(home / f"preprocessed_{side}")}  # fmt: skip


def plan(home: Path, side: str, n_workers: int = 2) -> Run:
    """One run of a side, ``ours`` or ``stock``, that finds nothing done.

    Raises:
        SystemExit: It failed.
    """
    code, words = {
        "ours": (PLAN_OURS, ["-d", DATASET]),
        "stock": (PLAN_STOCK, ["-d", "990", "-npfp", str(n_workers), "--verify_dataset_integrity"]),
    }[side]
    os.environ |= with_folders(home, side)
    shutil.rmtree(home / f"preprocessed_{side}", ignore_errors=True)
    done = run(code, *words, "-c", "3d_fullres", "-np", str(n_workers))
    if done.status:
        raise SystemExit(f"{side} ended with status {done.status}")
    return done


def same_voxels(home: Path) -> float:
    """Share of cases whose preprocessed image is the same to 1e-5."""
    import blosc2

    folders = [home / f"preprocessed_{side}" / DATASET for side in SIDES]
    ours, stock = ({p.name: p for p in f.glob("*/*.b2nd") if "_seg" not in p.name} for f in folders)
    if not stock or ours.keys() != stock.keys():
        raise SystemExit(f"cases differ: {len(ours)} of ours, {len(stock)} of nnU-Net")
    same = 0
    for name, path in stock.items():
        a, b = (np.asarray(blosc2.open(str(p))[:]) for p in (ours[name], path))
        same += a.shape == b.shape and bool(np.allclose(a, b, atol=1e-5))
    return same / len(stock)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of this script."""
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--coarse", action="store_true", help="leave out every second slice of "
                        "every second case")  # fmt: skip


def main() -> int:
    """Both sides in turn; ratios of medians."""
    options = arguments(__doc__.splitlines()[0], add_flags)
    bench = Bench(options)
    with tempfile.TemporaryDirectory(prefix="gnnunet-bench-") as folder:
        home = Path(folder)
        convert_some(options.images, options.labels, options.cases, home, coarse=options.coarse)
        runs: dict[str, list[Run]] = {side: [] for side in SIDES}
        for _ in range(options.repeats):
            for side in SIDES:
                runs[side].append(plan(home, side))
        median = {
            side: {
                key: statistics.median(getattr(each, key) for each in made)
                for key in ("cpu_s", "wall_s", "peak_gb")
            }
            for side, made in runs.items()
        }
        facts = {"cases": options.cases, "ours": median["ours"], "nnU-Net": median["stock"]}
        for key, what, goal in (("cpu_s", "CPU time", 0.5), ("wall_s", "wall time", 0.5),
                                ("peak_gb", "peak memory", 0.5)):  # fmt: skip
            ratio = median["ours"][key] / median["stock"][key]
            bench.add(f"plan and preprocess: {what} against nnU-Net", ratio, "x", at_most=goal,
                      **facts)  # fmt: skip
        bench.add("cases with the same preprocessed voxels", same_voxels(home), "", at_least=1)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
