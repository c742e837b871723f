"""What a file unpacks to is known and bounded before it is unpacked; one bomb costs one case."""

import csv
import gzip
import io
import struct
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from models.small_models import opened_model, write_good_images
from PIL import Image

from graphnn_unet.commands import cluster as cluster_command
from graphnn_unet.commands import install_model as install_command
from graphnn_unet.commands import predict as predict_command
from graphnn_unet.errors import BadFileError, UnsafeFileError
from graphnn_unet.images import room
from graphnn_unet.images.pictures import picture_size, read_picture
from graphnn_unet.images.read import read_volume
from graphnn_unet.storage.safe_load import load_checkpoint

ZEROS = bytes(2**20)


def set_memory(monkeypatch, n_bytes: int) -> None:
    free = SimpleNamespace(available=n_bytes)
    monkeypatch.setattr(room.psutil, "virtual_memory", lambda: free)


@pytest.fixture
def little_memory(monkeypatch) -> None:
    """100 MB are free, and unpacking more than that fails the test."""
    monkeypatch.setattr(
        room.psutil, "virtual_memory", lambda: type("Free", (), {"available": 10**8})
    )
    whole = zlib.decompressobj

    def watched(*options):
        inner = whole(*options)

        class Stream:
            def decompress(self, data, limit=0):
                assert 0 < limit <= 2**20, "unpacked before its size was judged"
                return inner.decompress(data, limit)

            def __getattr__(self, name):
                return getattr(inner, name)

        return Stream()

    monkeypatch.setattr(zlib, "decompressobj", watched)


def gzip_bomb(path: Path, n_mib: int, dtype: type = np.uint8) -> Path:
    """A NIfTI file of zeros whose header and stream agree."""
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    edge = n_mib * 2**20 // np.dtype(dtype).itemsize // 1024
    header.set_data_shape((1024, 32, edge // 32))
    header.set_zooms((1, 1, 1))
    header["vox_offset"] = 352
    header.set_sform(np.eye(4), 1)
    header.set_qform(np.eye(4), 1)
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(header.binaryblock + bytes(4))
        for _ in range(n_mib):
            file.write(ZEROS)
    return path


def mha_bomb(path: Path) -> Path:
    packed = zlib.compress(ZEROS * 200, 9)
    head = (
        "ObjectType = Image\nNDims = 3\nCompressedData = True\n"
        f"CompressedDataSize = {len(packed)}\nDimSize = 1024 1024 200\n"
        "ElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
    )
    path.write_bytes(head.encode() + packed)
    return path


def nrrd_bomb(path: Path) -> Path:
    head = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 1024 1024 200\nencoding: gzip\n\n"
    path.write_bytes(head.encode() + gzip.compress(ZEROS * 200))
    return path


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda path: gzip_bomb(path, 200), "a.nii.gz"),
        (mha_bomb, "a.mha"),
        (nrrd_bomb, "a.nrrd"),
    ],
)
def test_a_volume_larger_than_the_memory_is_refused_unread(tmp_path, little_memory, make, name):
    with pytest.raises(BadFileError, match=r"would unpack to \d+ voxels of 0\.2 GB") as caught:
        read_volume(make(tmp_path / name), name)
    assert caught.value.code == "S15"


def test_more_voxels_than_any_scan_has_are_refused_whatever_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(
        room.psutil, "virtual_memory", lambda: type("Free", (), {"available": 1e15})
    )
    monkeypatch.setattr(room, "MAX_VOXELS", 2**23)
    with pytest.raises(BadFileError, match="would unpack to"):
        read_volume(gzip_bomb(tmp_path / "a.nii.gz", 16), "a")
    assert read_volume(gzip_bomb(tmp_path / "b.nii.gz", 8), "b").array.size == 2**23


def test_a_stream_behind_a_small_header_is_not_unpacked_to_its_end(tmp_path, monkeypatch):
    path = gzip_bomb(tmp_path / "a.nii.gz", 1)
    path.write_bytes(path.read_bytes() + gzip.compress(ZEROS * 300))
    unpacked = []
    whole = zlib.decompressobj

    class Counting:
        def __init__(self, *options):
            self.inner = whole(*options)

        def decompress(self, data, limit=0):
            part = self.inner.decompress(data, limit)
            unpacked.append(len(part))
            return part

        def __getattr__(self, name):
            return getattr(self.inner, name)

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    with pytest.raises(BadFileError, match="the header claims 1048928 bytes"):
        read_volume(path, "a")
    assert sum(unpacked) < 100 * 2**20


def test_a_sparse_file_is_not_read(tmp_path, little_memory):
    with (tmp_path / "a.nii").open("wb") as file:
        file.truncate(10**9)
    with pytest.raises(BadFileError, match="would unpack to"):
        read_volume(tmp_path / "a.nii", "a")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_larger_than_the_memory_is_refused_unread(tmp_path, little_memory, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, shape=(8000, 8000, 3), dtype=np.uint8, photometric="rgb", compression=compression,
        data=None if compression is None else (bytes(8000 * 3 * 64) for _ in range(125)),
        **({} if compression is None else {"rowsperstrip": 64}),
    )  # fmt: skip
    for read in (read_picture, picture_size):
        with pytest.raises(BadFileError, match="would unpack to 192000000 voxels"):
            read(path)


def png_of(width: int, height: int) -> bytes:
    """The head of a PNG, and no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("edge", [8000, 40_000])
def test_a_png_larger_than_the_memory_is_refused_unread(tmp_path, little_memory, edge):
    (tmp_path / "a.png").write_bytes(png_of(edge, edge))
    with pytest.raises(BadFileError, match=r"would unpack to|decompression bomb"):
        read_picture(tmp_path / "a.png")


def test_a_bomb_among_images_costs_no_other_in_prediction(trained_home, tmp_path, monkeypatch):
    model = opened_model(trained_home, tmp_path / "model")
    images = write_good_images(tmp_path / "in", ("a", "c"))
    gzip_bomb(images / "b_0000.nii.gz", 64)
    monkeypatch.setattr(room, "MAX_VOXELS", 2**25)
    given = ["-i", str(images), "-o", str(tmp_path / "out"), "-m", str(model), "-device", "cpu"]
    assert predict_command.main(given) == 3
    assert {p.name for p in (tmp_path / "out").glob("*.nii.gz")} == {"a.nii.gz", "c.nii.gz"}
    with (tmp_path / "out" / "failures.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["case"] == "b"
    assert "would unpack to" in row["cause"]


def test_a_bomb_among_pictures_costs_no_other_in_clustering(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "c"):
        pixels = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    tifffile.imwrite(folder / "b.tif", shape=(900, 900, 3), dtype=np.uint8, photometric="rgb")
    monkeypatch.setattr(room, "MAX_VOXELS", 10**6)
    out = tmp_path / "out"
    assert cluster_command.main(["-i", str(folder), "-o", str(out), "-np", "1"]) == 3
    assert {p.name for p in out.glob("?.png")} == {"a.png", "c.png"}
    assert "would unpack to" in (out / "failures.csv").read_text(encoding="utf-8")


def test_a_zip_that_claims_more_than_any_model_is_refused_before_it_is_unpacked(
    tmp_path, monkeypatch, capsys
):
    name = "Dataset801_Tiny/T__P__2d/fold_all/checkpoint_final.pth"
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, ZEROS * 4)
    monkeypatch.setattr("graphnn_unet.models.install.MAX_BYTES", 2**20)
    monkeypatch.setattr("graphnn_unet.models.install._extract", lambda *_: pytest.fail("unpacked"))
    assert install_command.main([str(tmp_path / "a.zip")]) == 2
    assert "claims to unpack to" in capsys.readouterr().err


def test_a_checkpoint_whose_entries_are_compressed_is_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({"network_weights": {"w": torch.zeros(2**20)}}, buffer)
    (tmp_path / "good.pth").write_bytes(buffer.getvalue())
    assert load_checkpoint(tmp_path / "good.pth")["network_weights"]["w"].numel() == 2**20
    with (
        zipfile.ZipFile(buffer) as plain,
        zipfile.ZipFile(tmp_path / "bad.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in plain.namelist():
            packed.writestr(entry, plain.read(entry))
    with pytest.raises(UnsafeFileError, match=r"would unpack to 4 MB from 0\.0 MB"):
        load_checkpoint(tmp_path / "bad.pth")
