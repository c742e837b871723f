"""A header never leads to voxels in another file."""

from pathlib import Path

import numpy as np
import pytest

from graphnn_unet.errors import BadFileError
from graphnn_unet.images.read import read_volume

HEAD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 4 4 4\nspacings: 1 1 1\nencoding: raw\n"


def write(path: Path, *fields: str) -> Path:
    path.write_bytes((HEAD + "".join(f"{field}\n" for field in fields) + "\n").encode() + bytes(64))
    return path


@pytest.mark.parametrize(
    "field",
    ["data file: {}", "Data File: {}", "datafile: {}", "data file: LIST\n{}", "data file: a:={}"],
)
@pytest.mark.parametrize("place", ["../secret.raw", "secret.raw"])
def test_voxels_in_another_file_are_refused(tmp_path, field, place):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / place).write_bytes(bytes(range(64)))
    path = write(folder / "a.nrrd", field.format(place))
    with pytest.raises(BadFileError, match=r"a keeps its voxels in another file") as caught:
        read_volume(path, "a")
    assert caught.value.code == "S14"


def test_a_users_own_key_is_no_field(tmp_path):
    path = write(tmp_path / "a.nrrd", "data file:=notes.txt", "who:=a: b")
    assert np.array_equal(read_volume(path, "a").array, np.zeros((4, 4, 4)))
