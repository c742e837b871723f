"""What a class is called in DICOM: a code of SNOMED CT where its name has one, else one of ours.

The numbers are those that DICOM itself lists (PS3.16, as pydicom's dictionary has them); here
stands only which plain names mean which of its terms, and whether they are anatomy or disease.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.sr.coding import Code

PRIVATE_SCHEME = "99GNNUNET"
"""Coding scheme designator of classes without a code of SNOMED CT; 99 marks private ones."""

_MAX_VALUE, _MAX_MEANING = 16, 64
"""Characters that DICOM allows in the value and in the meaning of a code."""

_ANATOMY, _DISEASE = "AnatomicalStructure", "MorphologicallyAbnormalStructure"
_NAMES = {
    _ANATOMY: (
        "adrenal gland", "amygdala", "aorta", "bone", "brain", "brain stem", "breast", "bronchus",
        "cartilage", "cerebellum", "cerebrospinal fluid", "clavicle", "colon", "duodenum",
        "esophagus", "eye", "eyeball", "femur", "gallbladder", "gray matter", "heart",
        "hepatic vein", "hippocampus", "humerus", "inferior vena cava", "kidney", "larynx",
        "left atrium", "left ventricle", "liver", "lung", "lymph node", "mandible", "meniscus",
        "optic nerve", "ovary", "pancreas", "parotid gland", "patella", "pituitary", "portal vein",
        "prostate", "pulmonary artery", "pulmonary vein", "putamen", "rectum", "right atrium",
        "right ventricle", "sacrum", "scapula", "skeletal muscle", "small intestine", "spinal cord",
        "spleen", "sternum", "stomach", "superior vena cava", "testis", "thalamus", "thymus",
        "thyroid", "tibia", "trachea", "uterus", "vertebra", "white matter",
    ),
    _DISEASE: ("cyst", "edema", "hemorrhage", "lesion", "metastasis", "necrosis", "neoplasm",
               "nodule", "tumor"),
}  # fmt: skip
_OTHER_NAMES = {
    "bladder": "Bladder", "urinary bladder": "Bladder", "brainstem": "BrainStem",
    "csf": "CerebrospinalFluid", "oedema": "Edema", "oesophagus": "Esophagus",
    "lv myocardium": "LeftVentricleMyocardium",
    "left ventricle myocardium": "LeftVentricleMyocardium",
    "left ventricular myocardium": "LeftVentricleMyocardium",
    "peripheral zone of the prostate": "PeripheralZoneOfTheProstate",
    "transition zone of the prostate": "TransitionZoneOfTheProstate",
    "parotid": "ParotidGland", "thyroid gland": "Thyroid", "tumour": "Tumor",
    "haemorrhage": "Hemorrhage", "postcava": "InferiorVenaCava", "ivc": "InferiorVenaCava",
}  # fmt: skip
_DISEASES_TOO = {"Edema", "Tumor", "Hemorrhage"}
_SIDES = {"left": "Left", "right": "Right"}


@dataclass(frozen=True)
class ClassCode:
    """How DICOM names a class.

    Attributes:
        category: What kind of thing it is.
        kind: What it is.
        side: Left or right, where the name says so and the code of the thing does not.
    """

    category: Code
    kind: Code
    side: Code | None = None


def class_code(name: str) -> ClassCode:
    """The code of a class by its name; underscores, hyphens and capitals do not count.

    Example:
        >>> left = class_code("Kidney_left")
        >>> left.kind.value, left.kind.scheme_designator, left.side.meaning
        ('64033007', 'SCT', 'Left')
        >>> class_code("shell").kind
        Code(value='shell', scheme_designator='99GNNUNET', meaning='shell', scheme_version=None)
    """
    plain = " ".join(re.split(r"[^a-z0-9]+", name.lower())).strip()
    words = plain.split()
    if keyword := _keyword(plain):
        return _in_snomed(*keyword)
    side = next((_SIDES[word] for word in words if word in _SIDES), "")
    rest = " ".join(word for word in words if word not in _SIDES)
    if side and len(words) - len(rest.split()) == 1 and (keyword := _keyword(rest)):
        return _in_snomed(*keyword, side)
    from pydicom.sr.coding import Code

    meaning = name.strip()[:_MAX_MEANING] or "unnamed"
    kind = Code(_private_value(name), PRIVATE_SCHEME, meaning)
    return ClassCode(Code("class", PRIVATE_SCHEME, "Class of a segmentation model"), kind)


def _keyword(plain: str) -> tuple[str, str] | None:
    """Category and term of pydicom's dictionary."""
    if plain in _OTHER_NAMES:
        term = _OTHER_NAMES[plain]
        return _DISEASE if term in _DISEASES_TOO else _ANATOMY, term
    for category, names in _NAMES.items():
        if plain in names:
            return category, "".join(word.capitalize() for word in plain.split())
    return None


def _in_snomed(category: str, term: str, side: str = "") -> ClassCode:
    from pydicom.sr.codedict import codes

    code = codes.SCT
    return ClassCode(getattr(code, category), getattr(code, term), getattr(code, side or "-", None))


def _private_value(name: str) -> str:
    """Equal for equal names of whatever model, other for others."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    if plain == name and 0 < len(plain) <= _MAX_VALUE:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"{plain[:7]}_{digest[: _MAX_VALUE - len(plain[:7]) - 1]}"
