"""``gnnunet_cluster``: unsupervised segmentation of a folder of images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command


def _parser() -> argparse.ArgumentParser:
    made = _command.parser(
        "gnnunet_cluster",
        "Segment images without labels: their patches are the nodes of a graph, a small graph "
        "network clusters them.",
    )
    made.add_argument("-i", required=True, metavar="IN", help="folder of images")
    made.add_argument("-o", required=True, metavar="OUT", help="folder for label maps")
    made.add_argument("--method", default="auto", help="auto (default)")
    made.add_argument("--layer", choices=("gcn", "gat", "arma"), help="layer of the graph network")
    made.add_argument("--loss", choices=("ncut", "cc", "dmon"), help="what makes a good clustering")
    made.add_argument("--clusters", type=int, metavar="K", help="number of clusters (2)")
    made.add_argument("--features", default="auto", help="auto (default)")
    made.add_argument("--seed", type=int, default=0, help="of the initial weights (0)")
    made.add_argument("--refine", action="store_true", help="move edges to those of the image")
    made.add_argument("--overwrite", action="store_true", help="replace label maps that are there")
    made.add_argument("-np", type=int, metavar="N", help="worker processes (default: by cores)")
    return made


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.clustering.cluster import cluster
    from graphnn_unet.errors import InputError

    if arguments.np is not None and arguments.np < 1:
        raise InputError(f"-np {arguments.np} is out of range", "", "Use 1 or more")
    result = cluster(
        arguments.i,
        arguments.o,
        method=arguments.method,
        layer=arguments.layer,
        loss=arguments.loss,
        clusters=arguments.clusters,
        features=arguments.features,
        seed=arguments.seed,
        refine=arguments.refine,
        overwrite=arguments.overwrite,
        n_workers=0 if arguments.np == 1 else arguments.np,
    )
    kept = f", {len(result.kept)} were there already" if result.kept else ""
    print(f"{len(result.clustered)} images clustered{kept}: {arguments.o}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
