"""``gnnunet_classify``: few labels in, classes of all images out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from graphnn_unet.commands import _command

if TYPE_CHECKING:
    from graphnn_unet.classification.run import ClassificationResult

_EPILOG = """\
IMAGES    pictures (png, jpg, tif, bmp) or volumes (nii.gz, nii, mha, nrrd) of any size; the file
          name without its ending is the case id
CSV       first line case,class or case,FINDING,FINDING...; an empty cell, NaN, NA, N/A or null, or
          no line, is no label; a column patient keeps the images of one patient together
encoder   small (default), resnet18, resnet50, vgg16, one of these with :WEIGHTS (a file of
          weights), unet:MODEL (encoder of a trained segmentation model), or
          FILE.py:Class (a torch.nn.Module of your own, made with (n_channels, n_dims))

Writes predictions.csv, summary.json, rounds.csv, model.pth and pictures.
Exit status: 0 done, 2 nothing could be done, 3 some images could not be read.
"""


def _parser() -> argparse.ArgumentParser:
    from graphnn_unet.classification.settings import ClassifySettings

    parser = _command.parser(
        "gnnunet_classify",
        "Classify images from a few labels, on a graph of what a network sees in them.",
        _EPILOG,
        (
            "gnnunet_classify -i pictures --labels labels.csv -o results",
            "gnnunet_classify --model results -i new_pictures -o new_results",
        ),
    )
    add = parser.add_argument
    add("-i", required=True, metavar="IMAGES", help="folder of images")
    add("--labels", metavar="CSV", help="table with a few labels")
    add("-o", required=True, metavar="OUT", help="folder for the results")
    add("--model", metavar="OUT", help="results of an earlier run: place new images in its graph")
    add("--truth", metavar="CSV", help="ground truth, for figures at the end only")
    add("--encoder", metavar="NAME", help="network that embeds the images (below)")
    add("-device", default="auto", metavar="D", help="auto, cuda, cuda:1, mps or cpu")
    add("--c", action="store_true", help="continue an interrupted run")
    add("--overwrite", action="store_true", help="replace older results")
    _command.add_cluster(parser)
    # what the only way of today was called when there were two
    add("--trust", choices=("agreed",), help=argparse.SUPPRESS)
    _command.add_settings(parser.add_argument_group("how"), ClassifySettings)
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.classification.run import PartlyClassifiedError, classify
    from graphnn_unet.classification.settings import ClassifySettings
    from graphnn_unet.progress import say

    say(f"folders: images={arguments.i} output={arguments.o}")
    try:
        result = classify(
            arguments.i,
            arguments.labels,
            arguments.o,
            truth=arguments.truth,
            model=arguments.model,
            encoder=arguments.encoder,
            device=arguments.device,
            resume=arguments.c,
            overwrite=arguments.overwrite,
            **_command.given_settings(arguments, ClassifySettings),
        )
    except PartlyClassifiedError as error:
        _show(error.result)
        raise
    _show(result)


def _show(result: ClassificationResult) -> None:
    from graphnn_unet.progress import say
    from graphnn_unet.report.class_map import draw_classification

    head = ["finding", "n", "accuracy", "95 % interval", "balanced", "macro F1", "AUC", "ECE"]
    rows = []
    for name, score in result.scores.items():
        low, high = score.accuracy_interval
        figures = (score.balanced_accuracy, score.macro_f1, score.auc, score.calibration_error)
        numbers = [f"{score.accuracy:.4f}", f"{low:.4f} to {high:.4f}"]
        rows.append([name, str(score.n), *numbers, *(f"{value:.4f}" for value in figures)])
    if rows:
        print(f"on the {result.evaluated_on}:")
        _command.print_table(head, rows)
    pictures = [path.name for path in draw_classification(result)]
    say(f"wrote {', '.join([str(result.output / 'predictions.csv'), 'summary.json', *pictures])}")
    if (result.output / "model.pth").is_file():
        _command.say_next(
            "gnnunet_classify", "--model", result.output, "-i", "NEW_IMAGES", "-o", "NEW_OUT"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
