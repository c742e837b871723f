"""``gnnunet_cluster``: unsupervised segmentation of a folder of images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

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
    from graphnn_unet.clustering.settings import SECTIONS

    parser = _command.parser(
        "gnnunet_cluster",
        "Segment images without labels: patches are nodes, a small graph network clusters them.",
        _EPILOG,
        (
            "gnnunet_cluster -i pictures -o clusters",
            "gnnunet_cluster -i pictures -o clusters --features hand --clusters 3",
        ),
    )
    parser.add_argument(
        "-i", required=True, metavar="IN", help="folder of PNG, JPEG, TIFF or NIfTI, 2D or 3D"
    )
    parser.add_argument("-o", required=True, metavar="OUT", help="folder for label maps")
    _command.add_workers(parser, low=1, cluster=True)
    for section, title in zip(
        SECTIONS, ("clusters", "features", "label maps", "folder"), strict=True
    ):
        _command.add_settings(parser.add_argument_group(title), section)
    return parser


def _work(arguments: argparse.Namespace) -> None:
    if arguments.as_labels:
        from graphnn_unet.clustering.as_labels import raw_folder

        _command.show_folders()
        # before PyTorch is loaded, which takes longer
        raw_folder(arguments.as_labels, overwrite=bool(arguments.overwrite))
    from graphnn_unet.clustering.cluster import cluster
    from graphnn_unet.clustering.settings import SECTIONS
    from graphnn_unet.progress import counted, say

    options: dict[str, Any] = {"n_workers": 0 if arguments.np == 1 else arguments.np}
    for section in SECTIONS:
        options |= _command.given_settings(arguments, section)
    say(f"folders: images={arguments.i} output={arguments.o}")
    result = cluster(arguments.i, arguments.o, **options)
    kept = f", {len(result.kept)} were there already" if result.kept else ""
    print(f"{counted(len(result.clustered), 'image')} clustered{kept}: {arguments.o}")
    if result.dataset is not None:
        print(f"pseudo-labels: {result.dataset}")
        _command.say_next(
            "gnnunet_plan_and_preprocess", "-d", result.dataset.name.partition("_")[2]
        )
    else:
        _command.say_next("gnnunet_evaluate", "-p", arguments.o, "-g", "LABELS", "--unsupervised")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
