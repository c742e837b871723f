"""What a converter yields: cases with their files or arrays, and what is published about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from graphnn_unet.errors import Fault
from graphnn_unet.images.find import all_parts
from graphnn_unet.images.flat_picture import MAX_BITS
from graphnn_unet.images.nifti_forms import NiftiForm
from graphnn_unet.images.volume import Volume

Role = Literal["labeled", "unlabeled", "test"]


Source = Path | Callable[[], Volume]
"""A file that can be taken as it is (NIfTI with the right name and type), or a function that reads
one volume when it is its turn; so no converter holds a data set in memory."""


@dataclass(frozen=True)
class Case:
    """One scan.

    Attributes:
        case_id: Letters, digits, ``_``, ``-``, ``.``; becomes a file name.
        images: One source a channel, in channel order.
        label: Source of the label map, or ``None``.
        role: ``labeled`` (trains with its label), ``unlabeled`` or ``test`` (never trains).
        patient: Patient id; cases of one patient stay on one side of every split.
        inputs: All files that were read for this case, for the hashes in ``gnnunet.json``.
        name: The user's own name of it, where the id had to be made from one.
    """

    case_id: str
    images: tuple[Source, ...]
    label: Source | None
    role: Role
    patient: str
    inputs: tuple[Path, ...] = ()
    name: str = ""


def file_case(case_id: str, images: Sequence[Path], label: Path | None, patient: str = "") -> Case:
    """A case whose sources are files; without a label map it is unlabeled."""
    files = (*images, label) if label else tuple(images)
    inputs = tuple(all_parts(files))
    role: Role = "labeled" if label else "unlabeled"
    return Case(case_id, tuple(images), label, role, patient or case_id, inputs)


@dataclass(frozen=True)
class LabelContent:
    """What a label map holds.

    Attributes:
        counts: Value to voxels; empty where the file cannot be used.
        is_image: Whether its values are those of an image: fractions, or many that differ from
            voxel to voxel.
        even_axes: Where it seems to be drawn in some slices only, the axis across which these lie
            at equal distances, and that of the largest spacing, both of the image; else ``None``.
    """

    counts: dict[int, int] = field(default_factory=dict)
    is_image: bool = False
    even_axes: tuple[int, int] | None = None


@dataclass(frozen=True)
class ConvertedDataset:
    """A data set on its way to a raw folder.

    Attributes:
        name: Proposed name (``LA``).
        default_id: Proposed id (101), or ``None`` for the next free one.
        form: The converter's name, as in ``gnnunet_convert FORM``.
        source: Where the data were read from.
        channel_names: Channel index to name, as nnU-Net's ``dataset.json`` wants it.
        labels: Label name to id (or list of ids for regions), ``background: 0`` first.
        cases: In published order; the first N labeled ones are those of ``--labeled N``.
        label_mapping: Old id to new id where label values had to be made consecutive.
        published_splits: Name to a table with ``source`` and lists of case ids.
        notes: Lines the user should read (what was assumed, what was left out).
        skipped: Files that were seen and not taken, with the reason.
        nifti_form: What is taken where qform and sform of a NIfTI header disagree.
        reference: What to cite.
        license: Terms of the data as far as known.
        file_ending: Of the files in the raw folder; ``.png`` writes pictures.
        faults: What keeps files from being cases: nothing is written then, and they are told with
            those of the cases.
        label_content: Case id to what its label map holds, where the label table was made of it.
        label_colors: Color ``#rrggbb`` in the masks to id; empty where they hold numbers.
        color_bits: Of colored pictures, by which those of more than 8 bits are reduced to 8.
    """

    name: str
    default_id: int | None
    form: str
    source: Path
    channel_names: dict[int, str]
    labels: dict[str, int | list[int]]
    cases: list[Case]
    label_mapping: dict[int, int] = field(default_factory=dict)
    published_splits: dict[str, dict] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    nifti_form: NiftiForm | None = None
    reference: str = ""
    license: str = ""
    file_ending: str = ".nii.gz"
    label_colors: dict[str, int] = field(default_factory=dict)
    color_bits: int = MAX_BITS
    label_content: dict[str, LabelContent] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def with_role(self, role: Role) -> list[Case]:
        """Cases of one role, in order."""
        return [case for case in self.cases if case.role == role]
