"""``gnnunet_cluster``: unsupervised segmentation of a folder of images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command

_EPILOG = """\
features  border   distance to the border across edges, and color (default; no weights needed)
          hand     color, gradient and texture at several scales
          dino     DINO ViT-S keys from the weight file given with --dino
methods   auto; deepcut, unseggnet, unsegarmanet, unsegmedgat, unsegmedgat_c as their papers say,
          with --as-released as their programs do; --layer and --loss: any of the nine pairs

No label is read. Run the same command again to go on after an interruption. Score with
gnnunet_evaluate --unsupervised. Writes label maps, clusters.csv, clustering.json and, where images
failed, failures.csv. Exit status: 0 done, 2 nothing done, 3 some images failed.
"""


def _parser() -> argparse.ArgumentParser:
    made = _command.parser(
        "gnnunet_cluster",
        "Segment images without labels: patches are nodes, a small graph network clusters them.",
        _EPILOG,
    )
    made.add_argument(
        "-i", required=True, metavar="IN", help="folder of PNG, JPEG, TIFF or NIfTI, 2D or 3D"
    )
    made.add_argument("-o", required=True, metavar="OUT", help="folder for label maps")
    made.add_argument("--method", default="auto", metavar="NAME", help="see below (auto)")
    made.add_argument("--layer", choices=("gcn", "gat", "arma"), help="layer of the graph network")
    made.add_argument("--loss", choices=("ncut", "cc", "dmon"), help="what makes a good clustering")
    made.add_argument("--clusters", type=int, metavar="K", help="number of clusters (2)")
    made.add_argument("--two-stage", action="store_true", help="split the foreground into parts")
    made.add_argument("--features", default="auto", metavar="NAME", help="see below (auto)")
    made.add_argument("--dino", metavar="FILE", help="weights of DINO ViT-S/8 or ViT-S/16")
    made.add_argument("--stride", type=int, metavar="N", help="pixels between DINO's patches")
    made.add_argument("--branch", default="student", help="of a DINO checkpoint (student)")
    made.add_argument("--side", type=int, metavar="PX", help="longest side of the working image")
    made.add_argument("--cell", type=int, metavar="PX", help="edge of a node in the working image")
    made.add_argument("--graph", choices=("linear", "published"), help="linear in time, or n x n")
    made.add_argument("--tau", type=float, help="threshold of the cosine (dmon)")
    made.add_argument("--alpha", type=float, help="threshold divisor (cc)")
    made.add_argument("--signed", action="store_true", help="cc: messages along negative edges")
    made.add_argument("--balance", type=float, metavar="W", help="weight against unequal clusters")
    made.add_argument("--steps", type=int, metavar="T", help="optimizer steps an image")
    made.add_argument("--lr", type=float, help="learning rate")
    made.add_argument(
        "--shared-steps", type=int, metavar="T0", help="passes over the folder, shared weights"
    )
    made.add_argument("--seed", type=int, default=0, help="of the initial weights (0)")
    made.add_argument("--as-released", action="store_true", help="as the released program does")
    made.add_argument("--refine", action="store_true", help="move edges to those of the image")
    made.add_argument("--keep-holes", action="store_true", help="do not fill holes")
    made.add_argument("--largest-component", action="store_true", help="keep only the largest")
    made.add_argument("--slices", action="store_true", help="volumes slice by slice")
    made.add_argument(
        "--as-labels", metavar="NAME", help="also write a raw data set with the maps as labels"
    )
    made.add_argument("--overwrite", action="store_true", help="replace label maps that are there")
    made.add_argument("-device", default="auto", help="for dino (auto)")
    made.add_argument("-np", type=int, metavar="N", help="worker processes (default: by cores)")
    return made


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.clustering.cluster import cluster
    from graphnn_unet.errors import InputError
    from graphnn_unet.progress import say

    if arguments.np is not None and arguments.np < 1:
        raise InputError(f"-np {arguments.np} is out of range", "", "Use 1 or more")
    if arguments.as_labels:
        _command.show_folders()
    say(f"folders: images={arguments.i} output={arguments.o}")
    result = cluster(
        arguments.i,
        arguments.o,
        method=arguments.method,
        layer=arguments.layer,
        loss=arguments.loss,
        clusters=arguments.clusters,
        features=arguments.features,
        side=arguments.side,
        cell=arguments.cell,
        dino=arguments.dino,
        stride=arguments.stride,
        branch=arguments.branch,
        as_released=arguments.as_released,
        refine=arguments.refine,
        fill_holes=not arguments.keep_holes,
        largest_component=arguments.largest_component,
        by_slice=arguments.slices,
        as_labels=arguments.as_labels,
        device=arguments.device,
        overwrite=arguments.overwrite,
        n_workers=0 if arguments.np == 1 else arguments.np,
        two_stage=arguments.two_stage or None,
        graph=arguments.graph,
        tau=arguments.tau,
        alpha=arguments.alpha,
        signed=arguments.signed or None,
        balance_weight=arguments.balance,
        steps=arguments.steps,
        lr=arguments.lr,
        shared_steps=arguments.shared_steps,
        seed=arguments.seed,
    )
    for name in result.skipped:
        say(f"skipped: {name} (no image)")
    kept = f", {len(result.kept)} were there already" if result.kept else ""
    print(f"{len(result.clustered)} images clustered{kept}: {arguments.o}")
    if result.dataset is not None:
        print(f"pseudo-labels: {result.dataset}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
