"""``gnnunet_classify``: few labels in, classes of all images out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from graphnn_unet.commands import _command

if TYPE_CHECKING:
    from graphnn_unet.classification.run import ClassificationResult

_EPILOG = """\
IMAGES    pictures (png, jpg, tif, bmp) or volumes (nii.gz, nii, mha, nrrd) of any size; the file
          name without its ending is the case id
CSV       first line case,class or case,FINDING,FINDING...; an empty cell, or no line, is no label;
          a column patient keeps the images of one patient together
encoder   small (default), resnet18, resnet50, vgg16, one of these with :WEIGHTS (a file of
          weights), unet:MODEL (encoder of a trained segmentation model), or
          FILE.py:Class (a torch.nn.Module of your own, made with (n_channels, n_dims))

Writes predictions.csv, summary.json, rounds.csv, model.pth and pictures.
Later images:  gnnunet_classify --model OUT -i NEW -o NEW_OUT
Exit status: 0 done, 2 nothing could be done, 3 some images could not be read.
"""
_SETTINGS = (
    "mode", "p", "variation", "n_neighbors", "gamma", "symmetrize", "alpha", "prior",
    "descriptor_share", "final_uses_validation", "image_size", "batch_size",
    "learning_rate", "averaging", "dropout", "max_epochs", "patience", "rounds",
    "round_patience", "validation_share", "a_max", "tta", "augmentation", "seed",
)  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    made = _command.parser(
        "gnnunet_classify",
        "Classify images from a few labels, on a graph of what a network sees in them.",
        _EPILOG,
    )
    add = made.add_argument
    add("-i", required=True, metavar="IMAGES", help="folder of images")
    add("--labels", metavar="CSV", help="table with a few labels")
    add("-o", required=True, metavar="OUT", help="folder for the results")
    add("--model", metavar="OUT", help="results of an earlier run: place new images in its graph")
    add("--truth", metavar="CSV", help="true classes, for figures at the end only")
    add("--encoder", metavar="NAME", help="network that sees (below)")
    add("-device", default="auto", metavar="D", help="auto, cuda, cuda:1, mps or cpu")
    add("--c", action="store_true", help="continue an interrupted run")
    add("--overwrite", action="store_true", help="replace older results")
    _add_settings(made)
    return made


def _add_settings(made: argparse.ArgumentParser) -> None:
    add = made.add_argument_group("how").add_argument
    add("--mode", choices=("one-pass", "dynamic"), help="diffuse once, or train on (default)")
    add("--p", type=int, choices=(2, 1), help="quadratic energy (default) or total variation")
    add("--variation", choices=("tv", "ratio"), help="for --p 1: exact cut (default) or balanced")
    add("--k", dest="n_neighbors", type=int, metavar="N",
        help="neighbours (a twentieth of the images, 10 to 50)")  # fmt: skip
    add("--descriptors", dest="descriptor_share", type=float, metavar="SHARE",
        help="of hand-made descriptors in the cosine, 0 for the network alone (0.7)")  # fmt: skip
    add("--gamma", type=float, help="power of the cosine (8)")
    add("--symmetrize", choices=("sum", "max", "mutual"), help="directed links (sum)")
    add("--alpha", type=float, help="reach of the diffusion, below 1 (0.9)")
    add("--prior", action="store_true", default=None, help="same mass of labels for every class")
    add("--final-uses-validation", action="store_true", default=None,
        help="held-out labels take part in the last diffusion")  # fmt: skip
    add("--image-size", type=int, metavar="N", help="edge in pixels (64; volumes 32)")
    add("--batch-size", type=int, metavar="N", help="images a step (32)")
    add("--lr", dest="learning_rate", type=float, help="learning rate of Adam (0.001)")
    add("--averaging", type=float, help="decay of the moving average of the weights (0.98)")
    add("--dropout", type=float, help="before the last layer (0.2)")
    add("--epochs", dest="max_epochs", type=int, metavar="N", help="at most (40)")
    add("--patience", type=int, metavar="N", help="epochs without a better loss (10)")
    add("--rounds", type=int, metavar="N", help="of the dynamic pass at most (10)")
    add("--round-patience", type=int, metavar="N", help="rounds without a better loss (5)")
    add("--validation-share", type=float, help="labels held out to stop (0.1)")
    # what the only way of today was called when there were two
    add("--trust", choices=("agreed",), help=argparse.SUPPRESS)
    add("--a-max", type=float, help="largest weight of diffused labels (1)")
    add("--tta", type=int, metavar="N", help="views whose features are averaged (1)")
    add("--augmentation", choices=("standard", "any-orientation", "none"),
        help="any-orientation suits microscopy (standard)")  # fmt: skip
    add("--seed", type=int, help="of everything random (0)")


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.classification.run import PartlyClassifiedError, classify
    from graphnn_unet.progress import say

    say(f"folders: images={arguments.i} output={arguments.o}")
    chosen: dict[str, Any] = {
        name: value for name in _SETTINGS if (value := getattr(arguments, name)) is not None
    }
    try:
        result = classify(
            arguments.i, arguments.labels, arguments.o, truth=arguments.truth,
            model=arguments.model, encoder=arguments.encoder, device=arguments.device,
            resume=arguments.c, overwrite=arguments.overwrite, **chosen,
        )  # fmt: skip
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
        rows.append([
            name, str(score.n), f"{score.accuracy:.4f}", f"{low:.4f} to {high:.4f}",
            *(f"{value:.4f}" for value in figures),
        ])  # fmt: skip
    if rows:
        print("on the images whose class was not given:")
        _command.print_table(head, rows)
    pictures = ", ".join(path.name for path in draw_classification(result))
    say(f"wrote {result.output / 'predictions.csv'}, summary.json, {pictures}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
