"""Which files are a case: the arrangements that people use, and names that say too little."""

from pathlib import Path

import pytest

from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.images.cases import Wanted, case_of, find_cases, labels_among


def touch(folder: Path, *files: str, ending: str = ".nii.gz") -> Path:
    for name in files:
        path = folder / (name if name.endswith((".txt", ".nii")) else f"{name}{ending}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def cases(folder: Path, *channels: str, labels: bool = False, **wanted) -> dict[str, str]:
    """Case to its files in channel order, below the folder."""
    images = find_cases([folder], Wanted(channels, labels_inside=labels, **wanted))
    return {
        case: " ".join(
            files[name].relative_to(folder).as_posix().removesuffix(".nii.gz")
            if name in files else "-" for name in images.channels
        )
        for case, files in images.cases.items()
    }  # fmt: skip


def label_maps(folder: Path, *channels: str) -> dict[str, list[str]]:
    images = find_cases([folder], Wanted(channels, labels_inside=True))
    return {case: [path.name for path in paths] for case, paths in images.labels.items()}


# ---------------------------------------------------------------- one folder a patient


def test_patients_with_equal_file_names_are_cases_and_files_channels(tmp_path: Path):
    for patient in ("patA", "patB", "patC"):
        touch(tmp_path / patient, "t1", "flair")
    assert cases(tmp_path) == {p: f"{p}/flair {p}/t1" for p in ("patA", "patB", "patC")}
    assert cases(tmp_path, "T1", "FLAIR")["patA"] == "patA/t1 patA/flair"
    assert cases(tmp_path, "t1") == {p: f"{p}/t1" for p in ("patA", "patB", "patC")}


def test_the_patients_name_before_the_channel_is_no_part_of_it(tmp_path: Path):
    for name in ("BraTS-GLI-00000-000", "BraTS-GLI-00001-000"):
        touch(tmp_path / name, *(f"{name}-{c}" for c in ("t1n", "t2f", "seg")))
    with pytest.raises(InputError, match=r"t1n|seg.*Add --labels"):
        cases(tmp_path)
    assert cases(tmp_path, labels=True)["BraTS-GLI-00001-000"] == (
        "BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1n BraTS-GLI-00001-000/BraTS-GLI-00001-000-t2f"
    )
    assert label_maps(tmp_path)["BraTS-GLI-00000-000"] == ["BraTS-GLI-00000-000-seg.nii.gz"]


@pytest.mark.parametrize(
    ("image", "label"),
    [("imaging", "segmentation"), ("{}", "GT"), ("ct", "mask"), ("{}_ct", "{}_label")],
)
def test_label_maps_in_patient_folders_are_named_or_taken(tmp_path: Path, image: str, label: str):
    patients = [f"case_{number:05d}" for number in range(3)]
    for name in patients:
        touch(tmp_path / name, image.format(name), label.format(name))
    with pytest.raises(InputError, match=f"label maps beside the images.*Add --labels {tmp_path}"):
        cases(tmp_path)
    assert cases(tmp_path, labels=True) == {n: f"{n}/{image.format(n)}" for n in patients}
    assert label_maps(tmp_path) == {n: [f"{label.format(n)}.nii.gz"] for n in patients}


def test_patients_in_deep_folders_are_named_by_what_differs(tmp_path: Path):
    touch(tmp_path, "sub-01/ses-1/anat/sub-01_ses-1_T1w", "sub-02/ses-1/anat/sub-02_ses-1_T1w")
    assert sorted(cases(tmp_path)) == ["sub-01", "sub-02"]


def test_masks_of_organs_in_a_subfolder_are_no_images(tmp_path: Path):
    for patient in ("s0000", "s0001"):
        touch(tmp_path / patient, "ct", "segmentations/liver", "segmentations/spleen")
    with pytest.raises(InputError, match=r"s0000/segmentations/liver.nii.gz"):
        cases(tmp_path)
    assert cases(tmp_path, labels=True) == {p: f"{p}/ct" for p in ("s0000", "s0001")}


def test_folders_that_may_be_patients_or_channels_are_not_guessed(tmp_path: Path):
    for folder in ("one", "two"):
        touch(tmp_path / folder, "a", "b")
    with pytest.raises(InputError, match=r"patients or channels.*--channels"):
        cases(tmp_path)
    assert cases(tmp_path, "two", "one") == {"a": "two/a one/a", "b": "two/b one/b"}
    assert cases(tmp_path, "b", "a") == {"one": "one/b one/a", "two": "two/b two/a"}


def test_a_patient_without_a_channel_is_kept_for_its_fault(tmp_path: Path):
    touch(tmp_path, "p1/t1", "p1/flair", "p2/t1")
    assert cases(tmp_path) == {"p1": "p1/flair p1/t1", "p2": "- p2/t1"}


def test_other_files_of_patients_are_left_out_by_name(tmp_path: Path):
    touch(tmp_path, "p1/t1", "p1/t2", "p2/t1", "p2/t2", "p2/notes.txt")
    images = find_cases([tmp_path], Wanted(("t1",)))
    assert dict(images.left_out) == {
        "p1/t2.nii.gz": "none of the channels", "p2/t2.nii.gz": "none of the channels",
        "p2/notes.txt": "no image file",
    }  # fmt: skip


def test_the_folder_above_images_and_labels_is_named_as_what_it_is(tmp_path: Path):
    touch(tmp_path, "imagesTr/a_0000", "imagesTs/b_0000", "labelsTr/a")
    words = f"Give {tmp_path}/imagesTr as the folder of images. Add --labels {tmp_path}/labelsTr"
    with pytest.raises(InputError, match=words):
        cases(tmp_path)
    with pytest.raises(InputError, match=rf"Give {tmp_path}/imagesTr as the folder of images\.$"):
        cases(tmp_path, type_labels="")
    (tmp_path / "dataset.json").touch()
    with pytest.raises(InputError, match=f"Type gnnunet_convert MSD {tmp_path}"):
        cases(tmp_path)


# ---------------------------------------------------------------- images and label maps together


@pytest.mark.parametrize("word", ["_seg", "-label", "_GT", ".mask", "_segmentation"])
def test_label_maps_beside_images_are_told_by_their_word(tmp_path: Path, word: str):
    touch(tmp_path, "a", "b", f"a{word}", f"c{word}")
    with pytest.raises(InputError, match=f"a{word}.nii.gz.*Add --labels"):
        cases(tmp_path)
    assert cases(tmp_path, labels=True) == {"a": "a", "b": "b"}
    assert label_maps(tmp_path) == {"a": [f"a{word}.nii.gz"], "c": [f"c{word}.nii.gz"]}


@pytest.mark.parametrize(
    ("stems", "labels"),
    [
        (["volume-0", "segmentation-0"], {"segmentation-0": "0"}),
        (["img0001", "label0001"], {"label0001": "0001"}),
        (["FLARE_0001_0000", "FLARE_0002_0000", "FLARE_0001"], {"FLARE_0001": "FLARE_0001"}),
        (["a_0000", "a_0001", "a_seg"], {"a_seg": "a"}),
        (["mask_study_1", "mask_study_1_seg"], {"mask_study_1_seg": "mask_study_1"}),
        (["mask_study_1", "mask_study_2"], {}),
        (["a", "b"], {}),
    ],
)
def test_an_image_never_becomes_a_label_map(stems: list[str], labels: dict[str, str]):
    assert labels_among(stems) == labels


def test_channels_by_name_have_their_label_map_beside_them(tmp_path: Path):
    touch(tmp_path, *(f"b{i}_{c}" for i in (1, 2) for c in ("flair", "t1", "seg")))
    assert cases(tmp_path, "t1", "flair", labels=True)["b2"] == "b2_t1 b2_flair"
    assert label_maps(tmp_path, "t1", "flair") == {"b1": ["b1_seg.nii.gz"], "b2": ["b2_seg.nii.gz"]}


def test_names_that_do_not_tell_label_maps_are_refused(tmp_path: Path):
    touch(tmp_path, "a", "b")
    with pytest.raises(InputError, match="do not tell label maps from images"):
        cases(tmp_path, labels=True)


def test_a_label_map_belongs_to_the_one_case_that_fits():
    assert case_of("label0001", ["img0001", "img0002"]) == "img0001"
    assert case_of("segmentation-1", ["volume-1", "volume-11"]) == "volume-1"
    assert case_of("label1", ["img1", "vol1"]) is None
    assert case_of("x_seg", ["x", "img_x"]) == "x"


def test_label_maps_beside_images_are_left_out_where_others_are_given(tmp_path: Path):
    touch(tmp_path, "a", "a_seg")
    images = find_cases([tmp_path], Wanted(exclude=tmp_path / "masks"))
    assert list(images.cases) == ["a"]
    assert images.left_out == [("a_seg.nii.gz", "a label map by its name")]


# ---------------------------------------------------------------- four digits at the end


@pytest.mark.parametrize("numbers", [(1, 2, 3), (7,), (0, 2), tuple(range(6))])
def test_digits_that_are_no_channels_stay_in_the_name(tmp_path: Path, numbers: tuple[int, ...]):
    names = [f"scan_{number:04d}" for number in numbers]
    touch(tmp_path, *names)
    expected = {name: name for name in names}
    assert cases(tmp_path) == expected
    assert cases(tmp_path, "CT") == expected
    notes = find_cases([tmp_path], Wanted(("CT",))).notes
    assert [names[0] in note and "not channels" in note for note in notes] == [True]


def test_few_numbers_from_0_on_are_asked_about(tmp_path: Path):
    touch(tmp_path, "scan_0000", "scan_0001", "scan_0002")
    with pytest.raises(
        InputError, match=r"channels.*Type --channels NAME NAME NAME .*, --channels NAME for cases"
    ):
        cases(tmp_path)
    assert len(cases(tmp_path, "CT")) == 3
    assert cases(tmp_path, "a", "b", "c") == {"scan": "scan_0000 scan_0001 scan_0002"}
    assert list(cases(tmp_path, label_names=frozenset({"scan"}))) == ["scan"]
    assert len(cases(tmp_path, label_names=frozenset({"scan_0000", "scan_0002"}))) == 3


def test_label_maps_beside_tell_a_case_from_its_channels(tmp_path: Path):
    touch(tmp_path, "p_0000", "p_0001", "p_seg")
    assert cases(tmp_path, labels=True) == {"p": "p_0000 p_0001"}


def test_two_channels_for_one_are_refused(tmp_path: Path):
    touch(tmp_path, *(f"{case}_{number:04d}" for case in "ab" for number in (0, 1)))
    assert list(cases(tmp_path)) == ["a", "b"]
    with pytest.raises(InputError, match="one channel is expected, 2 numbers"):
        cases(tmp_path, "CT")


def test_numbered_and_plain_names_side_by_side_are_all_cases(tmp_path: Path):
    touch(tmp_path, "a", "b_0007", "c_0000")
    images = find_cases([tmp_path], Wanted(("CT",)))
    assert {case: sorted(files) for case, files in images.cases.items()} == {
        "a": ["CT"], "b": ["0007"], "c": ["CT"],
    }  # fmt: skip
    (note,) = images.notes  # a stray file would give a case too many
    assert note.startswith("a.nii.gz: no channel number")
    (tmp_path / "c_0000.nii.gz").unlink()
    assert cases(tmp_path, "CT") == {"a": "a", "b_0007": "b_0007"}


def test_names_that_end_in_modalities_are_asked_about(tmp_path: Path):
    touch(tmp_path, *(f"p{i}_{c}" for i in (1, 2) for c in ("t1", "flair")))
    with pytest.raises(InputError, match="Type --channels flair t1"):
        cases(tmp_path)


def test_two_files_of_one_case_are_named(tmp_path: Path):
    touch(tmp_path, "a", "a.nii")
    with pytest.raises(InputError, match=r"a\.nii and .*a\.nii\.gz would be the same case"):
        cases(tmp_path)
    with pytest.raises(MissingFileError):
        cases(touch(tmp_path / "none" / "x", "y.txt").parent)


def test_a_folder_of_dicom_is_named_as_what_it_is(tmp_path: Path):
    touch(tmp_path, "p1/IM1.txt")
    (tmp_path / "p1" / "IM2").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(MissingFileError, match=f"Type gnnunet_convert dicom {tmp_path}"):
        cases(tmp_path)


def test_files_of_a_patient_with_label_maps_of_their_own_are_cases(tmp_path: Path):
    for patient in ("p1", "p2"):
        touch(tmp_path / patient, *(f"{patient}_frame{n}{w}" for n in (1, 2) for w in ("", "_gt")))
    assert sorted(cases(tmp_path, labels=True)) == [
        "p1_frame1", "p1_frame2", "p2_frame1", "p2_frame2",
    ]  # fmt: skip
    assert label_maps(tmp_path)["p2_frame1"] == ["p2_frame1_gt.nii.gz"]


def test_a_folder_called_like_a_channel_is_no_part_of_the_patients_name(tmp_path: Path):
    touch(tmp_path, *(f"sub-{i}/dwi/sub-{i}_{c}" for i in (1, 2) for c in ("dwi", "adc")))
    assert cases(tmp_path)["sub-2"] == "sub-2/dwi/sub-2_adc sub-2/dwi/sub-2_dwi"


def test_modalities_with_their_label_map_are_asked_about(tmp_path: Path):
    touch(tmp_path, *(f"b{i}-{c}" for i in (1, 2) for c in ("flair", "t1", "seg")))
    with pytest.raises(InputError, match="Type --channels flair t1 for channels"):
        cases(tmp_path, labels=True)


@pytest.mark.parametrize("labels", [True, False])
def test_a_folder_of_label_folders_alone_holds_no_image(tmp_path: Path, labels: bool):
    touch(tmp_path, "labels/a", "labels/b")
    with pytest.raises(MissingFileError, match=r"no image in .*labels is called a folder of label"):
        cases(tmp_path, "t1", "flair", labels=labels)
