"""Forms are files: each declares itself, and one more file is one more form."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from volume_makers import image_array, label_array, save

import graphnn_unet
from graphnn_unet import dataset_conversion
from graphnn_unet.commands.convert import main
from graphnn_unet.dataset_conversion.forms import Request, form_named, form_names, forms
from graphnn_unet.errors import InputError, MissingFileError

FLAT = '''
"""Scans and masks side by side."""

from graphnn_unet.dataset_conversion.forms import Form
from graphnn_unet.dataset_conversion.records import Case, ConvertedDataset


def read(request):
    cases = []
    for image in sorted(request.source_folder.glob("*_scan.nii.gz")):
        label = image.with_name(image.name.replace("_scan", "_mask"))
        name = image.name.split("_")[0]
        cases.append(Case(name, (image,), label, "labeled", name, (image, label)))
    return ConvertedDataset(
        "Flat", None, "flat", request.source_folder, {0: "MRI"},
        {"background": 0, "organ": 1}, cases,
    )


FORM = Form(name="flat", help="ID_scan.nii.gz beside ID_mask.nii.gz", read=read)
'''


@pytest.fixture
def one_more_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A further file in the folder of the forms."""
    folder = tmp_path / "more_forms"
    folder.mkdir()
    (folder / "flat_folder.py").write_text(textwrap.dedent(FLAT))
    monkeypatch.setattr(dataset_conversion, "__path__", [*dataset_conversion.__path__, str(folder)])
    yield
    sys.modules.pop(f"{dataset_conversion.__name__}.flat_folder", None)


@pytest.mark.usefixtures("one_more_form")
def test_one_more_file_is_one_more_form(raw: Path, tmp_path: Path, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "ACDC, LA, MSD, Pancreas, dicom, flat, nifti or pictures" in out
    assert "flat ID_scan.nii.gz beside ID_mask.nii.gz" in out
    for number, name in enumerate("ab"):
        save(image_array(number), tmp_path / "in" / f"{name}_scan.nii.gz")
        save(label_array(), tmp_path / "in" / f"{name}_mask.nii.gz")
    assert main(["Flat", str(tmp_path / "in"), "--labeled", "1"]) == 0
    assert "Dataset501_Flat: 1 label" in capsys.readouterr().out
    assert (raw / "Dataset501_Flat" / "labelsTr" / "a.nii.gz").is_file()
    assert main(["flat", str(tmp_path / "in"), "--labels", str(tmp_path)]) == 2
    assert "--labels belongs to forms Pancreas, dicom, nifti and pictures, not to flat" in (
        capsys.readouterr().err
    )


def test_what_a_file_declares_is_what_it_is_when_imported():
    for form in forms().values():
        module = sys.modules[form_module(form)]
        assert (module.FORM.name, module.FORM.help, module.FORM.takes) == (
            form.name, form.help, form.takes,
        )  # fmt: skip
        assert module.FORM.read is module.read


def form_module(form) -> str:
    """The module that reads a form, imported by a source that does not exist."""
    with pytest.raises((MissingFileError, InputError)):
        form.read(Request("/nowhere/at/all"))
    (name,) = form.read.args
    return name


def test_forms_are_listed_without_importing_any():
    code = (
        "import sys\nfrom graphnn_unet.dataset_conversion.forms import forms\n"
        "assert len(forms()) == 7\n"
        "loaded = [name for name in sys.modules if name.startswith('graphnn_unet.dataset_conv')]\n"
        "assert len(loaded) == 2, loaded\n"
        "assert not {'numpy', 'SimpleITK', 'h5py'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr


def test_names_of_forms_in_any_case():
    assert form_names() == "ACDC, LA, MSD, Pancreas, dicom, nifti or pictures"
    assert form_named("la").name == "LA"
    with pytest.raises(InputError, match=r"form 'XYZ' is unknown\. Use one of ACDC, LA, "):
        form_named("XYZ")


@pytest.mark.parametrize("name", ["ACDC", "LA", "MSD", "Pancreas", "dicom"])
def test_a_folder_of_another_form_is_refused(tmp_path: Path, name: str):
    words = {"Pancreas": "PANCREAS_0001", "dicom": "no DICOM series"}.get(name, str(tmp_path))
    with pytest.raises(MissingFileError, match=words):
        form_named(name).read(Request(tmp_path))


def test_only_options_that_a_form_takes_are_accepted(tmp_path: Path):
    form_named("dicom").check(Request(tmp_path, labels=tmp_path))
    form_named("nifti").check(Request(images=tmp_path, test_labels=tmp_path))
    with pytest.raises(InputError, match="--images belongs to forms nifti and pictures, not to LA"):
        form_named("LA").check(Request(tmp_path, images=tmp_path))
    with pytest.raises(
        InputError, match="--labels belongs to forms Pancreas, dicom, nifti and pictures"
    ):
        form_named("ACDC").check(Request(tmp_path, labels=tmp_path))
    with pytest.raises(InputError, match="form LA needs the folder"):
        form_named("LA").check(Request())
    with pytest.raises(MissingFileError, match=r"the list .* is missing"):
        form_named("LA").check(Request(tmp_path, test=tmp_path / "none.list"))


def test_all_keywords_of_the_function_make_one_request(data: Path):
    result = graphnn_unet.convert(
        "nifti", None, dataset="My", labeled=2, unlabeled=1, test="1", images=[data / "images"],
        labels=str(data / "labels"), test_images=None, test_labels=None, label_names={1: "organ"},
        channels=["T1"], patient_regex=r"^(pat\d_scan\d)", exclude=["pat0_scan0"],
        fix_geometry="header", overwrite=True, dry_run=True, n_workers=0,
    )  # fmt: skip
    assert "".join(row.role[0] for row in result.rows) == "llut"
    assert not result.folder.exists()
    assert result.labels == {"background": 0, "organ": 1}
    with pytest.raises(TypeError, match="colour"):
        graphnn_unet.convert("nifti", colour="red")
