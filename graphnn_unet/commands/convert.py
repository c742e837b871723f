"""``gnnunet_convert``: any known form of data to a raw folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from graphnn_unet.commands import _command

if TYPE_CHECKING:
    from graphnn_unet.dataset_conversion.prepare import CaseRow
    from graphnn_unet.dataset_conversion.write_raw import ConversionResult

_EXAMPLES = (
    'gnnunet_convert LA "2018LA_Seg_Training Set" --labeled 8',
    "gnnunet_convert nifti --images scans --labels masks -d MyStudy --test 10 --dry-run",
    "gnnunet_convert pictures --images photos --masks masks -d Skin --labeled 50 --test 100",
    "gnnunet_convert nifti --images t1 flair --labels masks -d Brain --channels T1 FLAIR",
    "gnnunet_convert --add-corrected edited_masks -d MyStudy",
)
_WITH_CORRECTED = {
    "add_corrected", "dataset", "images", "channels", "patient_regex", "exclude", "fix_geometry",
    "nifti_form", "overwrite", "dry_run", "quiet", "verbose",
}  # fmt: skip
"""Options that go with ``--add-corrected``."""


def _parser() -> argparse.ArgumentParser:
    from graphnn_unet.dataset_conversion.forms import form_names, forms

    width = max(map(len, forms()))
    lines = [f"  {name:{width}}  {form.help}" for name, form in forms().items()]
    parser = _command.parser(
        "gnnunet_convert",
        "Convert data to a raw folder. Cases with a label map become labeled cases, those "
        "without unlabeled ones.",
        "\n".join(["forms and what SOURCE is:", *lines]),
        _EXAMPLES,
    )
    add = parser.add_argument
    form = add("form", metavar="FORM", help=form_names())
    add("source", nargs="?", metavar="SOURCE", help="folder of the data")
    add("-d", dest="dataset", metavar="NAME_OR_ID", help="name, id or Dataset501_Name of the new "
        "data set (default: the form's own)")  # fmt: skip
    add("--labeled", type=_command.number(int), metavar="N",
        help="keep the label maps of the first N labeled cases only; the others become "
        "unlabeled")  # fmt: skip
    add(
        "--unlabeled",
        type=_command.number(int),
        metavar="N",
        help="keep the first N unlabeled cases only",
    )
    add("--test", metavar="N|FILE", help="the last N labeled cases, or those listed in FILE, "
        "are kept for testing")  # fmt: skip
    add(
        "--images",
        nargs="+",
        action="extend",
        metavar="DIR",
        help="nifti: image folder, or one a channel; pictures: their folder",
    )
    add("--labels", "--masks", metavar="DIR",
        help="nifti, pictures, dicom, Pancreas: folder of label maps")  # fmt: skip
    add(
        "--test-images",
        nargs="+",
        action="extend",
        metavar="DIR",
        help="nifti, pictures: the same for test images",
    )
    add("--test-labels", metavar="DIR", help="nifti, pictures: label maps of the test images")
    add("--label-names", metavar="1=NAME,2=NAME", help="names of the stored label values, or of "
        "the colors of masks: '#ff0000=NAME,#00ff00=NAME'")  # fmt: skip
    add("--channels", nargs="+", action="extend", metavar="NAME", default=[],
        help="names of the channels, in "
        "order (CT is normalized as Hounsfield units); some of the form's own names select "
        "these")  # fmt: skip
    add("--patient-regex", metavar="REGEX", help="finds the patient in a case id, e.g. "
        "'^(pat[0-9]+)_'; scans of one patient stay together")  # fmt: skip
    add(
        "--exclude",
        nargs="+",
        action="extend",
        metavar="CASE",
        default=[],
        help="leave these cases out",
    )
    add("--fix-geometry", choices=["header", "resample"], help="for label maps off the image's "
        "grid: give them its header (same voxels), or resample them by both headers")  # fmt: skip
    add("--nifti-form", choices=["sform", "qform"], help="for files whose NIfTI header gives two "
        "places: take this one, and write it as both")  # fmt: skip
    add("--sparse", nargs="?", const="auto", choices=["auto", "z", "y", "x"],
        help="nifti: only some slices of the masks are drawn, across this axis as stored (auto: "
        "that of the largest spacing); slices without any label are ignored")  # fmt: skip
    add("--sparse-slices", metavar="CSV", help="with --sparse: slices that are drawn though empty, "
        "in columns case and slices ('3 9 15', or all)")  # fmt: skip
    add("--add-corrected", metavar="DIR",
        help="no FORM: masks of DIR, edited in 3D Slicer, ITK-SNAP or napari, become labeled cases "
        "of the data set -d; --images DIR has the images of scans that are new")  # fmt: skip
    add("--overwrite", action="store_true", help="replace an existing raw folder (with "
        "--add-corrected: label maps of labeled cases)")  # fmt: skip
    add("--dry-run", action="store_true", help="show what would be written; write nothing")
    _command.add_workers(parser, "worker processes (default: by cores and data)")
    _needless_beside_corrected(parser, form)
    return parser


def _needless_beside_corrected(parser: argparse.ArgumentParser, form: argparse.Action) -> None:
    """With ``--add-corrected`` no FORM is given.

    An optional FORM would not do: argparse then takes it for left out where options come first.
    """
    parse = parser.parse_known_args

    def parse_known_args(args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else list(args)
        if any(word.partition("=")[0] == "--add-corrected" for word in words):
            form.nargs, form.required = "?", False
        return parse(words, namespace)

    parser.parse_known_args = parse_known_args


def _label_names(text: str | None) -> dict[int | str, str]:
    """``1=atrium,2=wall`` or ``#ff0000=atrium`` as a table."""
    import re

    from graphnn_unet.errors import InputError

    names: dict[int | str, str] = {}
    for part in text.split(",") if text else ():
        value, equals, name = part.partition("=")
        color = re.fullmatch("#[0-9a-f]{6}", value.strip().lower())
        if not equals or not (color or value.strip().isdigit()) or not name.strip():
            raise InputError(
                f"--label-names {text!r} cannot be read", "", "Write it like 1=atrium,2=wall"
            )
        names[color[0] if color else int(value)] = name.strip()
    return names


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.dataset_conversion.convert import convert
    from graphnn_unet.dataset_conversion.forms import Request
    from graphnn_unet.images.find import left_out_line
    from graphnn_unet.progress import say

    _command.show_folders()
    if arguments.add_corrected:
        _add_corrected(arguments)
        return
    given = {
        **vars(arguments),
        "label_names": _label_names(arguments.label_names),
        "channels": _names(arguments.channels),
        "n_workers": None if arguments.np is None else (0 if arguments.np <= 1 else arguments.np),
    }
    options = {field.name: given[field.name] for field in fields(Request)}
    result = convert(arguments.form, **options)
    left_out = left_out_line("the data set", result.skipped)
    if arguments.dry_run:
        _print_cases(result.rows)
        if left_out:  # of a dry run that is a result
            print(left_out)
    elif left_out:
        say(left_out)
    for note in result.notes:
        say(f"note: {note}")
    _print_summary(result)
    name = result.dataset.partition("_")[2]
    if not result.written:
        say("next: the same command without --dry-run")
    elif result.count("labeled"):
        _command.say_next("gnnunet_plan_and_preprocess", "-d", name)
    else:
        say(
            f"next: gnnunet_suggest -d {name} --count 5 says what to label first; where label maps "
            "are there, the same command with --labels and --overwrite"
        )


def _add_corrected(arguments: argparse.Namespace) -> None:
    """Masks that were edited become labeled cases."""
    from graphnn_unet.dataset_conversion.corrected import add_corrected
    from graphnn_unet.errors import InputError
    from graphnn_unet.progress import counted, say

    defaults = vars(_parser().parse_args(["--add-corrected", ""]))
    given = {name for name, value in vars(arguments).items() if value != defaults[name]}
    if others := sorted(given - _WITH_CORRECTED):
        flags = ", ".join(_flag(name) for name in others)
        raise InputError(f"{flags} does not go with --add-corrected", "", "Leave it out")
    if arguments.dataset is None:
        raise InputError("--add-corrected needs a data set", "", "Give it with -d")
    result = add_corrected(
        arguments.dataset,
        arguments.add_corrected,
        images=arguments.images,
        channels=_names(arguments.channels),
        patient_regex=arguments.patient_regex,
        exclude=arguments.exclude,
        fix_geometry=arguments.fix_geometry,
        nifti_form=arguments.nifti_form,
        overwrite=arguments.overwrite,
        dry_run=arguments.dry_run,
    )
    for note in result.notes:
        say(f"note: {note}")
    if arguments.dry_run:
        _print_cases(result.rows)
    would = "would be " if arguments.dry_run else ""
    print(
        f"{result.dataset}: {counted(len(result.added), 'case')} {would}added as labeled, "
        f"{counted(len(result.replaced), 'label map')} {would}replaced, {len(result.unchanged)} "
        f"there already; {counted(result.n_labeled, 'labeled case')}"
    )
    name = result.dataset.partition("_")[2]
    if result.written:
        _command.say_next("gnnunet_plan_and_preprocess", "-d", name)
    elif arguments.dry_run:
        say("next: the same command without --dry-run")


def _flag(name: str) -> str:
    return name.upper() if name in ("form", "source") else f"--{name.replace('_', '-')}"


def _names(texts: Sequence[str]) -> list[str]:
    return [name for text in texts for name in text.split(",") if name]


def _print_cases(cases: Sequence[CaseRow]) -> None:
    rows = [
        [
            row.case,
            row.role,
            row.patient,
            str(row.n_channels),
            "x".join(map(str, row.shape)),
            "x".join(f"{value:.4g}" for value in row.spacing),
            row.orientation,
            ",".join(map(str, row.label_values)) or "-",
        ]
        for row in cases
    ]
    head = ["case", "role", "patient", "channels", "shape zyx", "spacing mm", "axes", "labels"]
    _command.print_table(head, rows)


def _print_summary(result: ConversionResult) -> None:
    from graphnn_unet.progress import counted

    names = ", ".join(result.channel_names.values())
    labels = ", ".join(f"{name}={value}" for name, value in result.labels.items())
    counts = ", ".join(
        f"{result.count(role)} {word}"
        for role, word in (("labeled", "labeled"), ("unlabeled", "unlabeled"), ("test", "test"))
    )
    verb = "written to" if result.written else "would go to"
    channels = counted(len(result.channel_names), "channel")
    print(
        f"{result.dataset}: {counts} cases, {channels} ({names}), "
        f"labels {labels}; {verb} {result.folder}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``gnnunet_convert``."""
    return _command.main(_work, _parser(), argv)
