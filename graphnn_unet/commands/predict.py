"""``gnnunet_predict``: label maps for a folder of images."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphnn_unet.commands import _command

if TYPE_CHECKING:
    from graphnn_unet.models.predict import PredictionResult

FAST_STEP = 0.75
"""Step of ``--fast``: about a third of the tiles that a step of 0.5 takes in a volume."""


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_predict",
        "Predict a file or folder; label maps carry the names of the input. Without -m or -d the "
        "training\nthat finished last is used; where trainings of several data sets have finished, "
        "-d or -m is needed.",
        "Writes label maps, volumes.csv (ml of each class), prediction.json (of which image and "
        "which model\neach label map is), labels.ctbl and labels_itksnap.txt (names and colors for "
        "3D Slicer and\nITK-SNAP) and, where cases failed, failures.csv. Moved to OUT/set_aside "
        "before new ones are written:\nlabel maps that were edited since they were written, and "
        "those of an earlier run whose case fails.\nThose of another model whose cases are not "
        "among the inputs are refused.\n",
        (
            "gnnunet_predict -i new_scans -o predictions",
            "gnnunet_predict -i new_scans -o predictions -d MyStudy -tr GraphCLTrainer "
            "--continue_prediction",
            "gnnunet_predict -i dicom_study -o predictions --output-type nifti dicom_seg",
        ),
    )
    parser.add_argument(
        "-i",
        required=True,
        metavar="IN",
        help="a volume, or a folder of volumes, of one folder a patient or of DICOM series",
    )
    parser.add_argument("-o", required=True, metavar="OUT", help="folder for label maps")
    parser.add_argument(
        "--output-type",
        nargs="+",
        action="extend",
        choices=["nifti", "dicom_seg", "dicom_rtstruct"],
        metavar="TYPE",
        help="nifti (default: label maps as the model's files), dicom_seg, dicom_rtstruct; the two "
        "of DICOM series alone",
    )
    parser.add_argument("-m", nargs="+", metavar="MODEL", help="model folder; several are averaged")
    parser.add_argument("-d", metavar="DATASET", help="data set whose model is used")
    parser.add_argument(
        "-tr",
        metavar="TRAINER",
        help="trainer, where several models fit, or file.py:Class of yours",
    )
    parser.add_argument("-c", metavar="CONF", help="configuration, where several models fit")
    parser.add_argument("-p", metavar="PLANS", help="plans, where several models fit")
    parser.add_argument(
        "-f", nargs="+", action="extend", metavar="FOLD", help="folds to average (default: all)"
    )
    parser.add_argument(
        "-chk", default="checkpoint_final.pth", metavar="FILE", help="checkpoint of each fold"
    )
    parser.add_argument(
        "-step_size",
        type=_command.number(float, 0, 1),
        help="of the sliding window, as a share of the patch (0.5)",
    )
    parser.add_argument("--save_probabilities", action="store_true", help="also CASE.npz and .pkl")
    parser.add_argument(
        "--uncertainty", action="store_true", help="also CASE_uncertainty: entropy in [0, 1]"
    )
    parser.add_argument(
        "--for-editing",
        action="store_true",
        help="also for_editing/CASE.seg.nrrd, named and colored segments for 3D Slicer; "
        "gnnunet_convert --add-corrected takes what was edited",
    )
    parser.add_argument(
        "--continue_prediction",
        action="store_true",
        help="keep label maps that are whole, of the same image, model and options (see "
        "prediction.json), redo the rest",
    )
    parser.add_argument(
        "--disable_tta", action="store_true", help="no mirrored copies (8 x faster)"
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help=f"no mirrored copies, and a step of {FAST_STEP} where -step_size does not say another",
    )
    parser.add_argument(
        "--scan-graph",
        action="store_true",
        help="register the training's labeled scans to each image and blend their vote in",
    )
    parser.add_argument(
        "--scan-graph-blend",
        type=_command.number(float, 0, 1, above=False),
        metavar="B",
        help="share of that vote (default: scan_graph.blend of the model's recipe)",
    )
    parser.add_argument(
        "--scan-graph-cache",
        metavar="DIR",
        help="keep that vote there, for other models with the same labeled scans",
    )
    parser.add_argument(
        "--nifti-form",
        choices=["sform", "qform"],
        help="for images whose NIfTI header gives two places: take this one",
    )
    parser.add_argument(
        "--memory-budget",
        type=_command.number(float),
        metavar="GB",
        help="memory one case may take for its export",
    )
    parser.add_argument(
        "-num_parts", type=_command.number(int, 1), default=1, help="share the cases among N calls"
    )
    parser.add_argument(
        "-part_id", type=_command.number(int), default=0, help="which of them this is, from 0"
    )
    parser.add_argument("-device", default="auto", help="auto (default), cuda, cuda:1, mps, cpu")
    _command.add_workers(parser, "processes to prepare and export", cluster=True)
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.models.predict import CasesNotPredictedError, predict

    _command.show_folders()
    step_size = FAST_STEP if arguments.fast else 0.5
    try:
        result = predict(
            arguments.i,
            arguments.o,
            model=arguments.m,
            dataset=arguments.d,
            trainer=arguments.tr,
            configuration=arguments.c,
            plans=arguments.p,
            folds=_command.folds_of(arguments.f),
            checkpoint=arguments.chk,
            save_probabilities=arguments.save_probabilities,
            uncertainty=arguments.uncertainty,
            continue_prediction=arguments.continue_prediction,
            mirroring=not (arguments.disable_tta or arguments.fast),
            step_size=arguments.step_size or step_size,
            nifti_form=arguments.nifti_form,
            memory_budget_gb=arguments.memory_budget,
            num_parts=arguments.num_parts,
            part_id=arguments.part_id,
            device=arguments.device,
            n_workers=arguments.np,
            scan_graph=arguments.scan_graph,
            scan_graph_blend=arguments.scan_graph_blend,
            scan_graph_cache=arguments.scan_graph_cache,
            for_editing=arguments.for_editing,
            output_types=arguments.output_type or ["nifti"],
        )
    except CasesNotPredictedError as error:
        _show(error.result, arguments.o, error.n_cases)
        raise
    _show(result, arguments.o)
    if "nifti" in (arguments.output_type or ["nifti"]):
        source = Path(arguments.i)
        labels = source.with_name(source.name.replace("images", "labels"))
        is_labeled = labels != source and labels.is_dir()
        _command.say_next(
            "gnnunet_evaluate", "-p", arguments.o, "-g", labels if is_labeled else "LABELS"
        )


def _show(result: PredictionResult, output: str, n_cases: int | None = None) -> None:
    """What was done, of how many cases where some failed, and the tables beside the label maps."""
    from graphnn_unet.progress import counted, say

    n_predicted = len(result.predicted)
    number = counted(n_predicted, "case")
    if n_cases is not None:
        number = f"{n_predicted} of {counted(n_cases, 'case')}"
    kept = f", {len(result.kept)} were there already" if result.kept else ""
    print(f"{number} predicted{kept}: {output}")
    # of pictures, which have no size in ml, there are no color tables
    what = "volumes of each class in ml" if result.color_tables else "pixels of each class"
    tables = ", ".join(path.name for path in result.color_tables)
    viewers = f"; names and colors for 3D Slicer and ITK-SNAP: {tables}" if tables else ""
    say(f"{what}: {result.volumes_csv}{viewers}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
