"""The bytes of a volume file, decoded to their last one.

The usual readers hide damage: SimpleITK fills the missing part of a cut file with zeros and turns
NaN in NIfTI files into 0, nibabel does not look at gzip's checksum, and both take a spacing of 0
as 1. So the bytes are decoded here: the compressed stream to its end with its checksum, the byte
count against the header before any memory is taken, the voxels as they are stored.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from graphnn_unet.errors import BadFileError
from graphnn_unet.images.find import VOLUMES, file_ending
from graphnn_unet.images.header import last_line, quiet_itk, require_spacing
from graphnn_unet.images.nifti_forms import parse_header, scale_of
from graphnn_unet.images.one_file import KIND
from graphnn_unet.images.room import require_room

_MAX_DEFLATE_RATIO = 1040
"""Deflate cannot pack more than about 1032 bytes into one; a header that claims more lies."""

_LONGEST_WORD = 64
"""Letters of a number that is written as text."""

_METAIMAGE_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2",
    "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
"""A long has 4 bytes on every system, as ITK has it."""

_NRRD_TYPES = {
    "signed char": "i1", "int8": "i1", "int8_t": "i1",
    "uchar": "u1", "unsigned char": "u1", "uint8": "u1", "uint8_t": "u1",
    "short": "i2", "short int": "i2", "signed short": "i2", "int16": "i2", "int16_t": "i2",
    "ushort": "u2", "unsigned short": "u2", "uint16": "u2", "uint16_t": "u2",
    "int": "i4", "signed int": "i4", "int32": "i4", "int32_t": "i4",
    "uint": "u4", "unsigned int": "u4", "uint32": "u4", "uint32_t": "u4",
    "longlong": "i8", "long long": "i8", "int64": "i8", "int64_t": "i8",
    "ulonglong": "u8", "unsigned long long": "u8", "uint64": "u8", "uint64_t": "u8",
    "float": "f4", "double": "f8",
}  # fmt: skip

_NRRD_KINDS_OF_SPACE = {"domain", "space", "???", "none"}


def decode_volume(
    content: bytes,
    path: Path,
    name: str,
    n_dims: int | None,
    unpacked: Callable[[bytes], None] | None = None,
) -> np.ndarray:
    """Voxels ``(z, y, x)`` as they are stored, with the header's scale applied; read-only.

    Args:
        content: All bytes of the file, as ``as_one_file`` gives them.
        path: The file; its ending tells the format.
        name: How messages call it.
        n_dims: Number of axes the file must have; ``None`` for 2 or 3.
        unpacked: Is given what a whole ``.nii.gz`` unpacks to.

    Raises:
        BadFileError: Cut off, damaged, of another dimension, without a usable spacing ...
    """
    kind = KIND.get(file_ending(path), file_ending(path))
    if kind in (".nii.gz", ".nii"):
        return _nifti(content, name, n_dims, unpacked, packed=kind == ".nii.gz")
    if kind == ".mha":
        return _metaimage(content, name, n_dims)
    if kind == ".nrrd":
        return _nrrd(content, path, name, n_dims)
    raise BadFileError(
        "I40", f"{name} is no image file that can be read", f"Use {', '.join(VOLUMES)}"
    )


def _nifti(
    content: bytes,
    name: str,
    n_dims: int | None,
    unpacked: Callable[[bytes], None] | None,
    *,
    packed: bool,
) -> np.ndarray:
    header_bytes = content[:540]
    if packed:
        try:
            header_bytes = zlib.decompressobj(31).decompress(content, 540)
        except zlib.error as error:
            raise BadFileError("I03b", f"{name} is no gzip file ({error})") from error
    header = parse_header(header_bytes, name)
    shape = _nifti_shape(header, name)
    _require_dims(len(shape), n_dims, name)
    dtype = header.get_data_dtype()
    if dtype.fields or dtype.kind not in "iuf":
        raise BadFileError(
            "I14", f"{name} holds {dtype.name} voxels", "Give one 3D file of numbers per channel"
        )
    spacing = [float(value) for value in header["pixdim"][1 : min(len(shape), 3) + 1]]
    require_spacing(spacing, name)
    offset = max(int(header["vox_offset"]), int(header["sizeof_hdr"]) + 4)
    n_bytes = offset + math.prod(shape) * dtype.itemsize
    _require_claim(math.prod(shape), n_bytes, len(content), name, packed=packed)
    layer = math.prod(shape[:2]) * dtype.itemsize  # some writers pad the end; none by a layer
    data = _unpack(content, n_bytes, layer - 1, name) if packed else content
    _require_bytes(len(data), n_bytes, name, code="I02" if packed else "I05")
    if len(data) >= n_bytes + layer:
        raise _surplus(n_bytes, len(data), name)
    if packed and unpacked is not None:
        unpacked(data)
    array = np.frombuffer(data, dtype, math.prod(shape), offset).reshape(shape[::-1])
    slope, intercept = scale_of(header)[0]
    if (slope, intercept) != (1.0, 0.0):
        array = array * slope + intercept
    return array


def _nifti_shape(header: nib.Nifti1Header, name: str) -> tuple[int, ...]:
    """Axes of the file, x first, without closing axes of length 1 beyond the third."""
    dim = [int(value) for value in header["dim"]]
    shape = dim[1 : dim[0] + 1]
    if not 1 <= dim[0] <= 7 or min(shape) < 1:
        raise BadFileError("I06", f"{name} has a damaged header (dim = {dim})")
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    return tuple(shape)


def _unpack(content: bytes, n_expected: int, slack: int, name: str) -> bytes:
    """Decompress a gzip file of one or more members, to the checksum at its end."""
    parts: list[bytes] = []
    n_bytes = 0
    rest = content
    while rest[:2] == b"\x1f\x8b":
        member = zlib.decompressobj(31)
        try:
            # one byte more than expected is enough to see that there is more
            part = member.decompress(rest, max(1, n_expected + 1 - n_bytes))
            n_bytes += len(part)
            # a little more is counted, for the message; a bomb is not unpacked to its end
            while not member.eof and n_bytes <= 2 * n_expected + 2**26:
                surplus = member.decompress(member.unconsumed_tail, 2**20)
                if not surplus and not member.unconsumed_tail:
                    break
                n_bytes += len(surplus)
        except zlib.error as error:
            raise BadFileError(
                "I03b", f"{name} is damaged: its gzip stream is not valid ({error})"
            ) from error
        parts.append(part)
        if n_bytes > n_expected + slack:
            raise _surplus(n_expected, n_bytes, name)
        if not member.eof:
            if n_bytes >= n_expected:
                cause = f"{name} has lost the end of its gzip stream (checksum and length)"
                raise BadFileError("I03", cause)
            cause = (
                f"{name} is truncated: it should hold {n_expected} bytes, {n_bytes} can be unpacked"
            )
            raise BadFileError("I01", cause)
        rest = member.unused_data
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _surplus(n_expected: int, n_bytes: int, name: str) -> BadFileError:
    claim = f"the header claims {n_expected} bytes, the file holds {n_bytes}"
    return BadFileError("I06", f"{name}: {claim}")


def _require_possible(n_packed: int, n_expected: int, name: str) -> None:
    if n_expected > n_packed * _MAX_DEFLATE_RATIO + 2**16:
        claim = f"the header claims {n_expected} bytes"
        raise BadFileError("I06", f"{name}: {claim}, {n_packed} compressed bytes cannot hold them")


def _require_bytes(n_bytes: int, n_expected: int, name: str, code: str) -> None:
    if n_bytes >= n_expected:
        return
    claim = f"the header claims {n_expected} bytes, the file holds {n_bytes}"
    if n_expected > 4 * n_bytes:
        raise BadFileError("I06", f"{name}: {claim}")
    raise BadFileError(code, f"{name} is truncated: {claim}")


def _require_dims(n_stored: int, n_dims: int | None, name: str) -> None:
    if n_stored in ((2, 3) if n_dims is None else (n_dims,)):
        return
    if n_dims is not None and n_stored < n_dims:
        cause = f"{name} has {n_stored} dimensions, the data set has {n_dims}"
        remedy = "Give whole volumes, or one slice as a volume with one layer and its true spacing"
        raise BadFileError("I13", cause, remedy)
    wanted = "2D or 3D file a case" if n_dims is None else f"{n_dims}D file per channel"
    raise BadFileError("I14", f"{name} is a {n_stored}D file", f"Give one {wanted}")


def _metaimage(content: bytes, name: str, n_dims: int | None) -> np.ndarray:
    fields: dict[str, str] = {}
    start = 0
    while "ElementDataFile" not in fields:
        end = content.find(b"\n", start, start + 2**16)
        key, separator, value = content[start : max(end, start)].decode("latin-1").partition("=")
        if not separator:
            raise BadFileError("I06", f"{name} has no readable MetaImage header")
        fields[key.strip()] = value.strip()
        start = end + 1
    try:
        shape = tuple(int(value) for value in fields["DimSize"].split())
        kind = fields["ElementType"]
        spacing = [float(v) for v in fields.get("ElementSpacing", "1 " * len(shape)).split()]
        n_components = int(fields.get("ElementNumberOfChannels", "1"))
        n_packed = int(fields.get("CompressedDataSize", "0"))
        n_header = int(fields.get("HeaderSize", "0"))
    except (KeyError, ValueError) as error:
        raise BadFileError("I06", f"{name} has a damaged MetaImage header ({error})") from error
    if kind not in _METAIMAGE_TYPES:
        known = ", ".join(_METAIMAGE_TYPES)
        cause = f"{name} has voxels of the type {kind}, which is not read"
        raise BadFileError("I14", cause, f"Save it with one of {known}")
    dtype = np.dtype(_METAIMAGE_TYPES[kind])
    if fields["ElementDataFile"].upper() != "LOCAL":
        raise BadFileError("I06", f"{name} keeps its voxels elsewhere", "Save it as one file")
    if n_components > 1:
        cause = f"{name} has {n_components} values a voxel"
        raise BadFileError("I14", cause, "Give one file of single numbers per channel")
    _require_dims(len(shape), n_dims, name)
    require_spacing(spacing, name)
    _require_plain_scale(fields, name)
    order = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
    dtype = dtype.newbyteorder(">" if order.lower() == "true" else "<")
    n_bytes = _require_size(shape, dtype, name)
    is_packed = fields.get("CompressedData", "False").lower() == "true"
    _require_claim(math.prod(shape), n_bytes, len(content), name, packed=is_packed)
    if is_packed:
        _require_bytes(len(content) - start, n_packed, name, "I05")
        return _as_array(_inflate(content[start:], n_bytes, name), shape, dtype, name)
    if fields.get("BinaryData", "True").lower() == "false":
        return _text_voxels(content[start:], shape, dtype, name)
    if n_header < 0:
        start = max(start, len(content) - n_bytes)
    elif n_header > 0:  # counted from the start of the file
        start = n_header
    return _as_array(content[start:], shape, dtype, name)


def _require_plain_scale(fields: dict[str, str], name: str) -> None:
    """Refuse a scale of intensities that SimpleITK, and so nnU-Net, does not apply."""
    slope, offset = (fields.get(f"ElementToIntensityFunction{w}") for w in ("Slope", "Offset"))
    try:
        is_plain = float(slope or 1) == 1 and float(offset or 0) == 0
    except ValueError:
        is_plain = False
    if not is_plain:
        cause = f"{name} has a scale of intensities that most programs do not apply"
        raise BadFileError("I54", cause, "Write the scaled values")


def _require_size(shape: tuple[int, ...], dtype: np.dtype, name: str) -> int:
    """Bytes of the voxels that a header claims."""
    if min(shape) < 1:
        raise BadFileError("I06", f"{name} has a damaged header (sizes {shape})")
    return math.prod(shape) * dtype.itemsize


def _require_claim(n_voxels: int, n_bytes: int, n_stored: int, name: str, *, packed: bool) -> None:
    """Refuse what the file cannot hold and what the memory cannot, before it is unpacked."""
    if packed:
        _require_possible(n_stored, n_bytes, name)
    elif n_bytes > 4 * n_stored:
        _require_bytes(n_stored, n_bytes, name, "I06")
    require_room(n_voxels, n_bytes, name)


def _text_voxels(data: bytes, shape: tuple[int, ...], dtype: np.dtype, name: str) -> np.ndarray:
    """Voxels written as words, as MetaIO reads them: through double precision."""
    words = data.split()
    n_voxels = math.prod(shape)
    if len(words) != n_voxels:
        claim = f"the header claims {n_voxels} voxels, the file lists {len(words)}"
        raise BadFileError("I05", f"{name} is no whole text file: {claim}")
    if max(map(len, words)) > _LONGEST_WORD:  # all of them would take as much room as the longest
        raise BadFileError("I05", f"{name} has words among its voxels")
    try:
        values = np.array(words).astype(np.float64)
    except ValueError as error:
        raise BadFileError("I05", f"{name} has words among its voxels ({error})") from error
    array = values.astype(dtype.newbyteorder("="))
    if dtype.kind in "iu" and not np.array_equal(array, values):
        raise BadFileError("I06", f"{name} has voxels that its type {dtype.name} cannot hold")
    return array.reshape(shape[::-1])


def _nrrd(content: bytes, path: Path, name: str, n_dims: int | None) -> np.ndarray:
    head, separator, data = min(
        content.partition(b"\n\n"), content.partition(b"\r\n\r\n"), key=lambda cut: len(cut[0])
    )
    lines = head.decode("latin-1").splitlines()
    if not separator or not lines or not lines[0].startswith("NRRD"):
        raise BadFileError("I06", f"{name} has no readable NRRD header")
    # "key:=value" is the user's own and no field
    pairs = (line.partition(":") for line in lines[1:] if line[:1] != "#")
    fields = {
        key.strip().lower(): value.strip() for key, _, value in pairs if not value.startswith("=")
    }
    if {"data file", "datafile"} & set(fields):
        raise BadFileError("S14", f"{name} keeps its voxels in another file", "Save it as one file")
    try:
        shape = tuple(int(value) for value in fields["sizes"].split())
        dtype = np.dtype(_NRRD_TYPES[fields["type"].lower()])
        spacing = _nrrd_spacing(fields)
        skip_lines, skip_bytes = (
            int(fields.get(f"{unit} skip", fields.get(f"{unit}skip", "0")))
            for unit in ("line", "byte")
        )
    except (KeyError, ValueError) as error:
        raise BadFileError("I06", f"{name} has a damaged NRRD header ({error})") from error
    strange = sorted(set(fields.get("kinds", "").split()) - _NRRD_KINDS_OF_SPACE)
    if strange and len(shape) <= 3:
        cause = f"{name} has an axis of kind {strange[0]!r}"
        raise BadFileError("I14", cause, "Give one volume of numbers per file")
    _require_dims(len(shape), n_dims, name)
    require_spacing(spacing, name)
    dtype = dtype.newbyteorder(">" if fields.get("endian") == "big" else "<")
    encoding = fields.get("encoding", "raw").lower()
    is_packed = encoding in ("gzip", "gz")
    n_bytes = _require_size(shape, dtype, name)
    _require_claim(math.prod(shape), n_bytes, len(content), name, packed=is_packed)
    if not (encoding == "raw" or is_packed) or (is_packed and skip_bytes < 0):
        # a voxel written as text takes a byte at least
        _require_bytes(len(data), 0 if is_packed else math.prod(shape), name, "I05")
        return _by_simpleitk(path, name)
    for _ in range(skip_lines):
        data = data.partition(b"\n")[2]
    if is_packed:
        data = _inflate(data, n_bytes + skip_bytes, name)
    data = data[skip_bytes:] if skip_bytes >= 0 else data[max(0, len(data) - n_bytes) :]
    return _as_array(data, shape, dtype, name)


def _nrrd_spacing(fields: dict[str, str]) -> list[float]:
    if "spacings" in fields:
        return [float(value) for value in fields["spacings"].split()]
    spacing = []
    for vector in fields.get("space directions", "").replace("(", " ").replace(")", " ").split():
        values = [float(v) for v in vector.split(",") if v not in ("none", "")]
        spacing.append(math.sqrt(sum(v * v for v in values)) if values else 1.0)
    return spacing


def _inflate(data: bytes, n_expected: int, name: str) -> bytes:
    """Decompress a zlib or gzip stream inside a file."""
    _require_possible(len(data), n_expected, name)
    stream = zlib.decompressobj(47)
    try:
        unpacked = stream.decompress(data, n_expected + 1)
    except zlib.error as error:
        cause = f"{name} is damaged: its compressed stream is not valid ({error})"
        raise BadFileError("I03b", cause) from error
    _require_bytes(len(unpacked), n_expected, name, "I05")
    if not stream.eof and not stream.unconsumed_tail:
        raise BadFileError("I03", f"{name} has lost the end of its stream")
    return unpacked


def _as_array(data: bytes, shape: tuple[int, ...], dtype: np.dtype, name: str) -> np.ndarray:
    n_bytes = math.prod(shape) * dtype.itemsize
    _require_bytes(len(data), n_bytes, name, "I05")
    if len(data) >= n_bytes + math.prod(shape[:2]) * dtype.itemsize:  # as of NIfTI
        raise _surplus(n_bytes, len(data), name)
    return np.frombuffer(data, dtype, math.prod(shape)).reshape(shape[::-1])


def _by_simpleitk(path: Path, name: str) -> np.ndarray:
    try:
        with quiet_itk():
            return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError as error:
        raise BadFileError("I05", f"{name} cannot be read ({last_line(error)})") from error
