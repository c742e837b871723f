"""What a user gives to be predicted: a file, a folder of volumes, or a folder of DICOM series.

Everything is taken that ``gnnunet_convert`` takes. A case id is made from the user's name where
that has to be; the label map carries the user's name, and ``names.csv`` keeps both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from graphnn_unet.dataset_conversion import dicom
from graphnn_unet.dataset_conversion.forms import Request
from graphnn_unet.dataset_conversion.records import Case, Source
from graphnn_unet.errors import BadFileError, Fault, InputError, MissingFileError
from graphnn_unet.images.cases import CaseFiles, Wanted, find_cases, stem_of
from graphnn_unet.images.find import (
    PICTURES,
    VOLUMES,
    all_parts,
    file_ending,
    image_files,
    is_dicom,
    safe_id,
    some,
    split_channel,
)
from graphnn_unet.images.flat_picture import RAW_ENDING
from graphnn_unet.models.cases import CHECK_STAGE
from graphnn_unet.models.picture_cases import picture_cases
from graphnn_unet.models.prediction_record import RECORD, is_predicted
from graphnn_unet.prediction.dicom_objects import require_references
from graphnn_unet.storage.atomic import write_csv
from graphnn_unet.storage.csv_cells import own_rows

NAMES = "names.csv"
"""Table of what was given, the case ids and the label maps."""
_NAMES_COLUMNS = ("input", "case", "output")

_REMEDY = "Add the file or remove the case (all channels, always in the same order)"


@dataclass(frozen=True)
class InputCase:
    """One case to predict.

    Attributes:
        sources: A file or a function that reads, one a channel, in channel order.
        output: Stem of the files that are written: the user's own name.
        given: The first file or the folder of the case, as the user sees it.
        files: All files that hold its voxels, in the order of the channels.
    """

    sources: tuple[Source, ...]
    output: str
    given: str
    files: tuple[Path, ...] = ()

    @property
    def is_series(self) -> bool:
        """Whether the files are a DICOM series."""
        return not isinstance(self.sources[0], Path)


@dataclass
class Inputs:
    """What there is to predict.

    Attributes:
        cases: By case id.
        faults: Of cases that cannot be predicted.
        left_out: Files that are no cases, with the reason.
        notes: What was assumed.
    """

    cases: dict[str, InputCase] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        sources: Sequence[Source],
        name: str,
        given: Path | str,
        files: Sequence[Path] = (),
    ) -> None:
        """Note one case under an id of its own; ``files`` where the sources are none."""
        plain = case = safe_id(name)
        count = 2
        while case in self.cases:
            case, count = f"{plain}_{count}", count + 1
        paths = [source for source in sources if isinstance(source, Path)]
        files = files or all_parts(paths)
        self.cases[case] = InputCase(tuple(sources), name, str(given), tuple(files))

    def require_series(self, source: Path, kinds: Sequence[str]) -> None:
        """Take out cases that DICOM objects cannot refer to, with a fault each.

        Args:
            source: What was given, for messages.
            kinds: Of objects.

        Raises:
            InputError: The cases are no DICOM series.
        """
        if any(not case.is_series for case in self.cases.values()):
            raise InputError(
                f"{' and '.join(kinds)} cannot be written for {source}",
                "such objects refer to the DICOM images of a case, and these are no DICOM series",
                "Give the DICOM series with -i, or take --output-type nifti",
            )
        for name, case in list(self.cases.items()):
            try:
                require_references(case.files, kinds)
            except BadFileError as error:
                self.faults.append(error.as_fault(name, CHECK_STAGE))
                del self.cases[name]

    def write_names(self, target: Path, ending: str) -> None:
        """Write ``names.csv``: what was given, the case id and the label map of each case.

        Rows of earlier calls stay as long as their label maps are there.
        """
        rows = [
            {"input": case.given, "case": name, "output": f"{case.output}{ending}"}
            for name, case in self.cases.items()
        ]
        mine = {row["output"] for row in rows}
        rows += [
            row for row in own_rows(target / NAMES, _NAMES_COLUMNS)
            if row["output"] not in mine and (target / row["output"]).is_file()
        ]  # fmt: skip
        write_csv(target / NAMES, sorted(rows, key=lambda row: row["case"]), _NAMES_COLUMNS)


def find_inputs(
    source: Path, channels: Sequence[str], target: Path | None = None, ending: str = ".nii.gz"
) -> Inputs:
    """Cases of a file or folder.

    Args:
        source: A volume or a DICOM file; a folder of volumes, of one folder a patient, or of DICOM
            series.
        channels: The model's channels, in order.
        target: Output folder, which holds no input.
        ending: Of the model's files; ``.png`` of a model of pictures.

    Raises:
        MissingFileError: There is no such file or folder.
        InputError: Nothing to predict, label maps of this program, or names that do not tell what
            belongs together.
    """
    if not source.exists():
        raise MissingFileError(f"input {source} is missing", "", "Give a file or folder with -i")
    if is_predicted(source):
        what = "holds label maps" if source.is_dir() else "is a label map"
        raise InputError(
            f"{source} {what} that gnnunet_predict wrote", f"{RECORD} there tells of them",
            "Give the scans with -i",
        )  # fmt: skip
    if ending == RAW_ENDING:
        return _pictures(source, len(channels))
    if not source.is_dir():
        return _from_file(source, channels)
    exclude = None if target is None else target.resolve()
    wanted = Wanted(tuple(channels), type_channels="", type_labels="", exclude=exclude)
    try:
        images = find_cases([source], wanted)
    except MissingFileError:
        return _from_series(source, channels)
    inputs = _checked(images, len(channels))
    for name, reason in image_files(source, VOLUMES).unusable().items():
        case = safe_id(split_channel(stem_of(Path(name)))[0])
        fault = Fault(case, CHECK_STAGE, f"{name} is {reason}", "Remove or replace it", code="I36")
        inputs.faults.append(fault)
        inputs.left_out = [x for x in inputs.left_out if x[0] != f"{source.name}/{name}"]
    return inputs


def _pictures(source: Path, n_channels: int) -> Inputs:
    """One case a picture of a folder, or the one that is given."""
    folder = source if source.is_dir() else source.parent
    cases, faults, skipped = picture_cases(folder, n_channels)
    inputs = Inputs(faults=faults, left_out=[(name, "no picture") for name in skipped])
    for name, paths in sorted(cases.items()):
        if source.is_dir() or source in paths:
            inputs.add(paths, name, paths[0])
    if not source.is_dir():
        inputs.faults, inputs.left_out = [], []
        if not inputs.cases:
            kinds = ", ".join(PICTURES)
            raise InputError(f"{source} cannot be predicted", f"read are pictures ({kinds})")
    return inputs


def _checked(images: CaseFiles, n_channels: int) -> Inputs:
    """Cases with all their channels, and a fault for each other."""
    inputs = Inputs(left_out=images.left_out, notes=images.notes)
    for name, files in sorted(images.cases.items()):
        missing = [channel for channel in images.channels if channel not in files]
        surplus = sorted(set(files) - set(images.channels))
        if len(images.channels) != n_channels:
            missing = [f"{number:04d}" for number in range(len(images.channels), n_channels)]
        if surplus:
            cause = f"it has channel {', '.join(surplus)}, the model takes {n_channels}"
            inputs.faults.append(_fault(name, cause, "Remove or rename the file", "I22"))
        elif missing:
            cause = f"channel {', '.join(missing)} is missing"
            inputs.faults.append(_fault(name, cause, _REMEDY, "I21"))
        else:
            sources = [files[channel] for channel in images.channels]
            inputs.add(sources, name, sources[0])
    return inputs


def _fault(name: str, cause: str, remedy: str, code: str) -> Fault:
    return Fault(safe_id(name), CHECK_STAGE, cause, remedy, code=code)


def _from_file(source: Path, channels: Sequence[str]) -> Inputs:
    """The one case of a file; of one channel's file, the case with all its channels."""
    inputs = Inputs()
    if file_ending(source):
        case, number = split_channel(stem_of(source))
        if len(channels) == 1:
            name = case if number == 0 else stem_of(source)
            inputs.add([source], name, source)
            return inputs
        if number is not None:
            beside = image_files(source.parent, VOLUMES).paths
            files = [path for path in beside if split_channel(stem_of(path))[0] == case]
            by_number = {split_channel(stem_of(path))[1]: path for path in files}
            if set(by_number) >= set(range(len(channels))):
                sources = [by_number[i] for i in range(len(channels))]
                inputs.add(sources, case, source)
                return inputs
        raise InputError(
            f"{source} is one channel, the model takes {len(channels)}",
            f"they are {', '.join(channels)}",
            "Give the folder with the files of all channels",
        )
    if not is_dicom(source) or len(channels) != 1:
        kinds = ", ".join(VOLUMES)
        raise InputError(f"{source} cannot be predicted", f"read are {kinds} and DICOM")
    skipped: list[tuple[str, str]] = []
    for series in dicom.find_series(source.parent, skipped):
        if source.resolve() in {path.resolve() for path in series.files}:
            read = partial(dicom.read_series, series.files)
            inputs.add([read], source.parent.name, source, series.files)
    if not inputs.cases:
        raise InputError(
            f"{source} belongs to no series of a scan",
            "; ".join(f"{where}: {why}" for where, why in skipped),
            "Give the folder of the series, or one of its slices",
        )
    return inputs


def _from_series(source: Path, channels: Sequence[str]) -> Inputs:
    """One case a DICOM series.

    Raises:
        InputError: There is none, or the model takes several channels.
    """
    try:
        dataset = dicom.read(Request(source))
    except MissingFileError as error:
        raise InputError(
            f"no input images in {source}", f"found: {_what_is_there(source)}",
            f"Give a folder with {', '.join(VOLUMES)} or DICOM series, or one file",
        ) from error  # fmt: skip
    if len(channels) != 1:
        raise InputError(
            f"{source} holds DICOM series, the model takes {len(channels)} channels a case",
            "which series belong together is not known",
            "Convert them to CASE_0000.nii.gz, CASE_0001.nii.gz ... first",
        )
    inputs = Inputs(left_out=list(dataset.skipped))
    for case in dataset.cases:
        inputs.add(case.images, *_series_name(source.absolute(), case), case.inputs)
    return inputs


def _series_name(source: Path, case: Case) -> tuple[str, Path]:
    """The name of a series in its folders' own letters, and its folder."""
    folder = case.inputs[0].parent
    parts = folder.relative_to(source).parts if folder.is_relative_to(source) else ()
    name = "_".join(parts or (folder.name,))
    start = safe_id(name)  # behind it stands what tells several series of a folder apart
    is_start = case.case_id.startswith(start)
    return (name + case.case_id[len(start) :] if is_start else case.case_id), folder


def _what_is_there(folder: Path) -> str:
    return some(path.name for path in sorted(folder.iterdir()) if path.name[0] != ".") or "nothing"
