"""Arrays on disk that are read in parts."""

import numpy as np
import pytest

from graphnn_unet.errors import InputError
from graphnn_unet.storage import arrays
from graphnn_unet.storage.arrays import facts_of, open_array, write_array


def test_what_is_written_is_read_in_parts(tmp_path):
    array = np.arange(60, dtype=np.float16).reshape(3, 4, 5)
    path = tmp_path / "new" / "a.b2nd"
    write_array(path, array[:, ::-1], {"stride": [1, 2, 4]})
    stored = open_array(path, "Remove it")
    np.testing.assert_array_equal(stored[1:, :2], array[:, ::-1][1:, :2])
    assert facts_of(stored) == {"stride": [1, 2, 4]}
    assert [file.name for file in path.parent.iterdir()] == ["a.b2nd"]
    write_array(path, array)
    assert facts_of(open_array(path, "")) == {}


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_damaged_or_missing_file_is_named_with_the_remedy(tmp_path, content):
    path = tmp_path / "a.b2nd"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.b2nd cannot be read: .*\. Make it again"):
        open_array(path, "Make it again")


def test_files_are_not_mapped_on_windows(tmp_path, monkeypatch):
    keywords = []
    with monkeypatch.context() as patch:
        patch.setattr(arrays.blosc2, "open", lambda **given: keywords.append(given))
        open_array(tmp_path / "a.b2nd", "")
        patch.setattr(arrays, "os", type("Windows", (), {"name": "nt"}))
        open_array(tmp_path / "a.b2nd", "")
    assert keywords[0]["mmap_mode"] == "r"
    assert "mmap_mode" not in keywords[1]
