"""The forms in which data arrive, and what a user asks of one.

A form is one file of this package: a function ``read(request)`` and a record ``FORM`` that says
what the form is called and takes. Nothing else lists it; the command, its help and its checks find
it here. Help must answer at once, so ``FORM`` is read from the source of the file, and the file is
imported only when its form is converted.
"""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from graphnn_unet import dataset_conversion
from graphnn_unet.errors import InputError, MissingFileError

if TYPE_CHECKING:
    from graphnn_unet.dataset_conversion.records import ConvertedDataset
    from graphnn_unet.images.nifti_forms import NiftiForm

FIXES = ("header", "resample")
SEVERAL_PATIENTS = "--patient-regex '(.*)'"
"""What a user types where what counts as one patient is several: each case is a patient then."""

_FOLDER_OPTIONS = ("images", "labels", "test_images", "test_labels")
"""Options that only some forms take; the others change what any form has read."""

_Folders = Path | str | Sequence[Path | str] | None


@dataclass(frozen=True)
class Request:
    """What a user asks of ``convert``.

    Attributes:
        source: Folder of the data; for ``nifti`` the images, unless ``images`` is given.
        dataset: Name, id or both of the new data set; the form's own without it.
        labeled: Keep the label maps of the first N labeled cases; the others become unlabeled
            and their label maps are not written. All without it.
        unlabeled: Keep the first N unlabeled cases and leave the others out. All without it.
        test: The last N labeled cases become test cases; or a list file with their ids.
        images: Image folder, or one a channel (``nifti``, ``pictures``).
        labels: Folder of label maps (``nifti``, ``pictures``, ``dicom``, ``Pancreas``).
        test_images: Folder of test images, or one a channel (``nifti``, ``pictures``).
        test_labels: Folder of their label maps (``nifti``, ``pictures``).
        label_names: Names of the stored label values, or of the colors ``#rrggbb`` of masks.
        channels: Names of the channels, in order; a subset of the form's own names selects.
        patient_regex: Searched in each case id; its first group names the patient.
        exclude: Case ids to leave out.
        fix_geometry: What to do with label maps (or channels) that do not lie on the image's grid:
            ``header`` pairs voxels by index, ``resample`` trusts both headers.
        nifti_form: ``sform`` or ``qform``: what to take where the two disagree in the header of a
            NIfTI file; without it such files are refused. The raw folder gets one place.
        sparse: Only some slices of the masks are drawn, across this axis (``z``, ``y``, ``x`` as
            stored, or ``auto`` for the largest spacing); the others are ignored (``nifti``).
        sparse_slices: Table of slices that count as drawn although they are empty.
        overwrite: Replace an existing raw folder.
        dry_run: Find out what would be written; write nothing.
        n_workers: Worker processes, 0 for none; by the size of the data without it.
    """

    source: Path | str | None = None
    dataset: str | None = None
    labeled: int | None = None
    unlabeled: int | None = None
    test: int | str | Path | None = None
    images: _Folders = None
    labels: Path | str | None = None
    test_images: _Folders = None
    test_labels: Path | str | None = None
    label_names: Mapping[int | str, str] | None = None
    channels: Sequence[str] = ()
    patient_regex: str | None = None
    exclude: Sequence[str] = ()
    fix_geometry: str | None = None
    nifti_form: NiftiForm | None = None
    sparse: str | None = None
    sparse_slices: Path | str | None = None
    overwrite: bool = False
    dry_run: bool = False
    n_workers: int | None = None

    @property
    def source_folder(self) -> Path:
        """The folder of the data.

        Raises:
            MissingFileError: It is not there.
        """
        (folder,) = existing_folders(self.source)  # Form.check has looked that it is given
        return folder

    @property
    def label_folder(self) -> Path | None:
        """The folder of label maps, where one is given.

        Raises:
            MissingFileError: It is not there.
        """
        return next(iter(existing_folders(self.labels)), None)

    @property
    def names_of_values(self) -> dict[int, str]:
        """``label_names`` without those of colors."""
        return {v: name for v, name in (self.label_names or {}).items() if isinstance(v, int)}

    @cached_property
    def listed_test(self) -> frozenset[str]:
        """Case ids of the list file of test cases; empty when a number or nothing was given."""
        if self.test is None or str(self.test).isdigit():
            return frozenset()
        from graphnn_unet.dataset_conversion.volumes import read_list

        return frozenset(read_list(Path(self.test).expanduser()))  # pyright: ignore[reportArgumentType]  # no number


@dataclass(frozen=True)
class Form:
    """One form of data.

    Attributes:
        name: As in ``gnnunet_convert FORM``.
        help: What SOURCE is, one line.
        read: Finds the cases.
        takes: Which of ``images``, ``labels``, ``test_images``, ``test_labels`` it takes. A form
            that takes ``images`` needs no source.
    """

    name: str
    help: str
    read: Callable[[Request], ConvertedDataset]
    takes: tuple[str, ...] = ()

    def check(self, request: Request) -> None:
        """Refuse folders that the form has no use for, and files that are missing.

        Raises:
            InputError: The first option that does not fit, with the forms that take it.
            MissingFileError: The list of test cases is missing.
        """
        for option in _FOLDER_OPTIONS:
            if option not in self.takes and getattr(request, option) is not None:
                owners = [form.name for form in forms().values() if option in form.takes]
                flag = f"--{option.replace('_', '-')}"
                plural = "s" if len(owners) > 1 else ""
                raise InputError(
                    f"{flag} belongs to form{plural} {_listed(owners, 'and')}, not to {self.name}"
                )
        if "images" not in self.takes and request.source is None:
            raise InputError(
                f"form {self.name} needs the folder of the data", "", "Give it as SOURCE"
            )
        if self.name != "pictures" and len(request.names_of_values) != len(
            request.label_names or {}
        ):
            raise InputError("--label-names names colors, which only form pictures has")
        if (request.sparse or request.sparse_slices) and self.name != "nifti":
            raise InputError(f"--sparse belongs to form nifti, not to {self.name}")
        request.listed_test  # noqa: B018  # a bad list is found before the data are read


def forms() -> dict[str, Form]:
    """All forms by name; none of their files is imported."""
    modules = pkgutil.iter_modules(dataset_conversion.__path__, f"{dataset_conversion.__name__}.")
    declared = (_declared(module.name) for module in modules)
    return {form.name: form for form in sorted(filter(None, declared), key=lambda f: f.name)}


def form_named(name: str) -> Form:
    """The form of a name in any case.

    Raises:
        InputError: There is none.
    """
    known = forms()
    for form in known.values():
        if form.name.lower() == name.lower():
            return form
    raise InputError(f"form {name!r} is unknown", "", f"Use one of {', '.join(known)}")


def form_names() -> str:
    """All forms for a sentence: ``ACDC, LA or nifti``."""
    return _listed(list(forms()), "or")


def existing_folders(paths: _Folders) -> list[Path]:
    """Absolute folders of one path, several or none.

    Raises:
        MissingFileError: One is not there.
    """
    listed = [paths] if isinstance(paths, (str, Path)) else paths or ()
    folders = [Path(path).expanduser() for path in listed]
    for folder in folders:
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist"
            raise MissingFileError(f"{folder} {what}", "", "Give an existing folder")
    return [folder.absolute() for folder in folders]


def _declared(module: str) -> Form | None:
    """The record ``FORM`` in the source of a module; ``read`` imports the module when called."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        return None
    source = Path(spec.origin).read_text(encoding="utf-8")
    for node in ast.parse(source).body if "\nFORM = " in source else ():
        if (
            isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == "FORM"
            and isinstance(node.value, ast.Call)
        ):
            plain = {
                keyword.arg: ast.literal_eval(keyword.value)
                for keyword in node.value.keywords
                if keyword.arg not in (None, "read")
            }
            return Form(read=partial(_read_with, module), **plain)
    return None


def _read_with(module: str, request: Request) -> ConvertedDataset:
    return import_module(module).FORM.read(request)


def _listed(names: Sequence[str], word: str) -> str:
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))
