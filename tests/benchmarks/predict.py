"""gnnunet_predict against nnUNetv2_predict_from_modelfolder, whole processes one after the other.

The same model (exported to a plain one) and the same images: CPU time, wall time, peak memory of
the processes, and the share of voxels with the same label.
Run: python tests/benchmarks/predict.py [--quick] [--model FOLDER --images FOLDER] [--no-mirroring]
     [--repeats N] [--json FILE] [--device cuda]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import SimpleITK as sitk
from _bench import Bench, arguments
from _commands import OURS, STOCK, predict
from _study import DATASET, study

PLAN = ["plan.spacing=[1.5,1.0,1.0]", "plan.patch_size=[32,40,40]", "network.max_stages=4"]


@contextmanager
def model_and_images(options: argparse.Namespace) -> Iterator[tuple[Path, Path]]:
    """A plain model and a folder of images that it takes: those given, or small made-up ones."""
    from graphnn_unet import export, train

    if options.model is not None:
        with tempfile.TemporaryDirectory(prefix="gnnunet-bench-") as folder:
            yield export(options.model, Path(folder) / "plain").target, options.images
        return
    n_cases, width = (3, 8) if options.quick else (20, 16)
    with study([*PLAN, f"network.base_features={width}"], n_test=n_cases) as small_study:
        trained = train(
            DATASET, "3d_fullres", "GraphCLTrainer", device=options.device,
            overrides=["schedule.pretrain_steps=2", "schedule.selftrain_steps=2"],
        )  # fmt: skip
        yield export(trained.model, small_study.home / "plain").target, small_study.test_images


def same_share(first: Path, second: Path) -> float:
    """Share of voxels with the same label."""
    same = total = 0
    for path in sorted(second.glob("*.nii.gz")):
        a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(p / path.name))) for p in (first, second))
        same, total = same + int((a == b).sum()), total + a.size
    return same / total


def add_options(parser: argparse.ArgumentParser) -> None:
    """Flags for a model and images that are there."""
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="a trained model")
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="images for it")
    parser.add_argument("--repeats", type=int, default=5, help="of each command")
    parser.add_argument("--no-mirroring", action="store_true", help="--disable_tta on both sides")


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__, add_options)
    bench = Bench(options)
    with (
        model_and_images(options) as (model, images),
        tempfile.TemporaryDirectory(prefix="gnnunet-bench-") as folder,
    ):
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        common = ["-i", str(images), "-m", str(model), "-device", options.device]
        common += ["--disable_tta"] if options.no_mirroring else []
        pairs = [
            (
                predict(OURS, ours, *common),
                predict(STOCK, theirs, *common, "-f", "all", "-npp", "2", "-nps", "2"),
            )
            for _ in range(options.repeats)
        ]
        if any(side.status for pair in pairs for side in pair):
            raise SystemExit(f"a command failed: {pairs}")
        n_cases = len(list(images.iterdir()))
        same = same_share(ours, theirs)
    for name, field, goal in [
        ("throughput a CPU second", "cpu_s", {"at_least": 2.5}),
        ("throughput", "wall_s", {"at_least": 2.5}),
        ("peak memory", "peak_gb", {"at_most": 0.5}),
    ]:
        a, b = (statistics.median(getattr(pair[side], field) for pair in pairs) for side in (0, 1))
        ratio = a / b if field == "peak_gb" else b / a
        print(f"{name}: ours {a:.2f}, nnU-Net {b:.2f}")
        bench.add(f"{name} of gnnunet_predict / nnUNetv2_predict, {n_cases} cases", ratio, "x",
                  **goal, ours=round(a, 3), nnunet=round(b, 3))  # fmt: skip
    bench.add("voxels with the same label", same, "", at_least=1)
    return bench.finish()


if __name__ == "__main__":
    sys.exit(main())
