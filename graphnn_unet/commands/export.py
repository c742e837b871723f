"""``gnnunet_export``: a trained model as a plain nnU-Net model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_export",
        "Write a model that stock nnU-Net, or another program, predicts with without this package.",
        "then: nnUNetv2_predict_from_modelfolder -i IN -o OUT -m EXPORTED -f FOLD",
        (
            "gnnunet_export MODEL_FOLDER -o model.zip",
            "gnnunet_export MODEL_FOLDER -o exported -f 0 1 2 --overwrite",
            "gnnunet_export MODEL_FOLDER -o bundle --format monai-bundle",
        ),
    )
    parser.add_argument("model", help="model folder")
    parser.add_argument("-o", required=True, metavar="OUT", help="folder, or file ending in .zip")
    parser.add_argument(
        "-f", nargs="+", action="extend", metavar="FOLD", help="folds (default: all)"
    )
    parser.add_argument(
        "-chk", default="checkpoint_final.pth", metavar="FILE", help="checkpoint of each fold"
    )
    parser.add_argument(
        "--format",
        choices=["nnunet", "onnx", "torch-export", "monai-bundle"],
        default="nnunet",
        help="nnunet (default), onnx, torch-export, or monai-bundle for MONAI's runner",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an older export")
    parser.add_argument(
        "--scan-graph",
        action="store_true",
        help="put the labeled scans in for gnnunet_predict --scan-graph (patient data!)",
    )
    parser.add_argument(
        "-tr", metavar="FILE.py:CLASS", help="file of your own trainer, for a model of it"
    )
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.models.export import export
    from graphnn_unet.progress import say

    _command.show_folders()
    result = export(
        arguments.model,
        arguments.o,
        folds=_command.folds_of(arguments.f),
        checkpoint=arguments.chk,
        overwrite=arguments.overwrite,
        trainer=arguments.tr,
        scan_graph=arguments.scan_graph,
        format=arguments.format,
    )
    print(
        f"{result.target}: folds {', '.join(map(str, result.folds))}; logits differ by at most "
        f"{result.difference:.1e} from the trained network"
    )
    for note in result.notes:
        print(f"note: {note}")
    if arguments.format == "monai-bundle":
        _command.say_next(
            "python", "-m", "monai.bundle", "run", "--bundle_root", result.target, "--config_file",
            result.target / "configs" / "inference.json", "--dataset_dir", "NEW_SCANS",
            "--output_dir", "OUT",
        )  # fmt: skip
    elif arguments.format != "nnunet":
        say(f"what comes before and behind the networks: inference.json in {result.target}")
    elif result.target.suffix == ".zip":
        _command.say_next("gnnunet_install_model", result.target, where="on another machine")
    else:
        _command.say_next(
            "nnUNetv2_predict_from_modelfolder", "-i", "NEW_SCANS", "-o", "OUT", "-m",
            result.target, "-f", *result.folds,
        )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
