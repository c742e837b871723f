"""Text as editors and spreadsheets save it."""

from pathlib import Path

import pytest

from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.storage.text import read_text

KINDS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_unicode_is_read(tmp_path: Path, kind: str):
    (tmp_path / "a").write_bytes("Müller\r\nSørensen\r\n".encode(kind))
    assert read_text(tmp_path / "a") == "Müller\nSørensen\n"
    (tmp_path / "a.json").write_bytes('{"ä": 1}\r\n'.encode(kind))
    assert read_json(tmp_path / "a.json") == {"ä": 1}


def test_big_endian_mark_is_heeded(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"\xfe\xff" + "ab".encode("utf-16-be"))
    assert read_text(tmp_path / "a") == "ab"


def test_other_bytes_are_no_text(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"\xff\xe9 caf\xe9")
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "a")
