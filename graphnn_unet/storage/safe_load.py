"""Reading files that came from elsewhere without running what is in them.

Checkpoints load as tensors and plain values, properties through an unpickler with a closed list,
plans only with networks, operations and functions that nnU-Net itself ships.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeGuard

from graphnn_unet.errors import InputError, MissingFileError, UnsafeFileError
from graphnn_unet.storage.text import read_text

CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

_NETWORKS = {
    f"dynamic_network_architectures.architectures.unet.{name}"
    for name in ("PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet")
}
_LAYERS = {
    f"torch.nn.modules.{module}.{kind}{dim}d"
    for module, kind in (
        ("conv", "Conv"),
        ("instancenorm", "InstanceNorm"),
        ("batchnorm", "BatchNorm"),
        ("dropout", "Dropout"),
    )
    for dim in (2, 3)
} | {
    "torch.nn.LeakyReLU",
    "torch.nn.ReLU",
    "torch.nn.modules.activation.LeakyReLU",
    "torch.nn.modules.activation.ReLU",
}
_PREPROCESSORS = {"DefaultPreprocessor"}
_RESAMPLING = {
    "resample_data_or_seg_to_shape",
    "resample_torch_simple",
    "resample_torch_fornnunet",
    "no_resampling_hack",
}
_NORMALIZATION = {
    "CTNormalization",
    "ZScoreNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
}
_ORIENTATION = re.compile("|(?=.*[LR])(?=.*[AP])(?=.*[IS])[LRAPIS]{3}")
_READERS = {
    "SimpleITKIO",
    "SimpleITKIOWithReorient",
    "NibabelIO",
    "NibabelIOWithReorient",
    "NaturalImage2DIO",
    "Tiff3DIO",
}
_LABEL_MANAGERS = {"LabelManager"}
_NAMES = {
    "preprocessor_name": _PREPROCESSORS,
    "resampling_fn_data": _RESAMPLING,
    "resampling_fn_seg": _RESAMPLING,
    "resampling_fn_probabilities": _RESAMPLING,
}
"""Keys of a configuration that nnU-Net looks up by name, and the names it may find."""
_NUMBERS: dict[str, type | tuple[type, ...]] = {
    "patch_size": int,
    "batch_size": int,
    "spacing": (int, float),
}


def read_json(path: Path | str) -> Any:
    """Read a JSON file in UTF-8 or UTF-16; errors name the file, line and column.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is not valid JSON.
    """
    path = Path(path)
    try:
        return json.loads(read_text(path))
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} is missing") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not valid JSON",
            f"line {error.lineno}, column {error.colno}: {error.msg}",
            "Restore the file or write it again",
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file", str(error)) from error
    except RecursionError as error:
        raise InputError(f"{path} cannot be read", "its tables are nested too deeply") from error


_DAMAGED_PICKLE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
"""What the unpickler raises for bytes that are not those that were written."""


class _PlainUnpickler(pickle.Unpickler):
    """Admits numpy arrays and scalars and built-in containers, nothing that can run code."""

    _ALLOWED = frozenset(
        {
            ("collections", "OrderedDict"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("_codecs", "encode"),
        }
        | {
            (module, name)
            for module in (
                "numpy.core.multiarray",
                "numpy._core.multiarray",
                "numpy._core.numeric",
                "numpy.core.numeric",
            )
            for name in ("_reconstruct", "scalar", "_frombuffer")
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._ALLOWED:
            return super().find_class(module, name)
        raise UnsafeFileError(
            f"a pickle asks for {module}.{name}", "only arrays and plain values are read"
        )


def load_properties(path: Path | str) -> dict[str, Any]:
    """Read nnU-Net's ``CASE.pkl`` of a preprocessed case without running code from it.

    Raises:
        InputError: The file is missing, cut off or no pickle; names it.
        UnsafeFileError: It holds something else than arrays and plain values; names it.
    """
    path = Path(path)
    try:
        content = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} is missing") from error
    except UnsafeFileError as error:
        raise UnsafeFileError(f"{path} is refused", error.line.rstrip(".")) from error
    except _DAMAGED_PICKLE as error:
        raise _unreadable_properties(path, str(error) or "it is cut off") from error
    if not _is_dict(content):
        raise _unreadable_properties(path, f"it holds a {type(content).__name__}, not a table")
    return content


def _unreadable_properties(path: Path, why: str) -> InputError:
    return InputError(
        f"{path} cannot be read", why.rstrip("."), "Run gnnunet_plan_and_preprocess again"
    )


def load_plain(path: Path, what: str = "checkpoint", remedy: str = "") -> Any:
    """Load a file that ``torch.save`` wrote onto the CPU, as tensors and plain values.

    Stock nnU-Net checkpoints hold numpy scalars in their logs, and checkpoints of DINO a table of
    options; these are on the list.

    Args:
        path: The file, which is there.
        what: What it is, for messages.
        remedy: What the user can do, for messages.

    Raises:
        InputError: It is cut off or no such file.
        UnsafeFileError: It holds an object outside the closed list.
    """
    import numpy as np
    import torch

    multiarray: Any = import_module(
        f"numpy.{'_core' if hasattr(np, '_core') else 'core'}.multiarray"
    )
    admitted: list[Any] = [multiarray.scalar, np.dtype, np.ndarray, multiarray._reconstruct]
    admitted += [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    admitted += [(SimpleNamespace, "argparse.Namespace")]
    try:
        with torch.serialization.safe_globals(admitted):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" in str(error) or "GLOBAL" in str(error):
            raise UnsafeFileError(
                f"{what} {path} is refused",
                "it holds an object that is neither a tensor nor a plain value",
                remedy or "Load only models from people you trust, saved as plain tensors",
            ) from error
        raise _broken(path, error, what, remedy) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _broken(path, error, what, remedy) from error


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Load a checkpoint onto the CPU as tensors and plain values; see :func:`load_plain`.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is cut off or no checkpoint.
        UnsafeFileError: It holds an object outside the closed list.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"checkpoint {path} is missing")
    content = load_plain(path)
    if not _is_dict(content) or "network_weights" not in content:
        raise InputError(f"{path} is not a checkpoint of this program or of nnU-Net")
    return content


def _broken(path: Path, error: Exception, what: str, remedy: str) -> InputError:
    return InputError(
        f"{what} {path} cannot be read",
        f"it is cut off or damaged ({str(error).splitlines()[0][:120] if str(error) else 'empty'})",
        remedy or "Use another checkpoint of the same folder or copy the file again",
    )


def check_plans(plans: Any, source: Path | str) -> dict[str, Any]:
    """Return ``plans`` if every class and function it names is on the closed list.

    nnU-Net imports and calls whatever the names in a plan point to; a plan from elsewhere is
    therefore checked before it reaches nnU-Net.

    Raises:
        InputError: The file is no nnU-Net plan.
        UnsafeFileError: A name is not on the list; says which.
    """
    if not _is_dict(plans) or not _is_dict(plans.get("configurations")):
        raise InputError(f"{source} is not an nnU-Net plan")
    _require(plans.get("image_reader_writer"), _READERS, "image_reader_writer", source)
    _require(plans.get("label_manager", "LabelManager"), _LABEL_MANAGERS, "label_manager", source)
    if not _ORIENTATION.fullmatch(str(plans.get("orientation", ""))):
        raise _no_plan(source, f"orientation = {plans['orientation']!r}")
    for name, configuration in plans["configurations"].items():
        _check_configuration(
            _table(configuration, f"configurations.{name}", source),
            f"configurations.{name}",
            source,
        )
    return plans


def _check_configuration(configuration: Mapping[str, Any], where: str, source: Path | str) -> None:
    for key, allowed in _NAMES.items():
        if key in configuration:
            _require(configuration[key], allowed, f"{where}.{key}", source)
    schemes = configuration.get("normalization_schemes", [])
    if not _is_sequence(schemes):
        raise _no_plan(source, f"{where}.normalization_schemes is no list")
    for scheme in schemes:
        _require(scheme, _NORMALIZATION, f"{where}.normalization_schemes", source)
    for key, kind in _NUMBERS.items():
        if key in configuration and not _are_positive(configuration[key], kind):
            raise _no_plan(source, f"{where}.{key} = {configuration[key]!r}")
    if configuration.get("architecture") is not None:
        where = f"{where}.architecture"
        _check_architecture(_table(configuration["architecture"], where, source), where, source)


def _check_architecture(architecture: Mapping[str, Any], where: str, source: Path | str) -> None:
    _require(
        architecture.get("network_class_name"), _NETWORKS, f"{where}.network_class_name", source
    )
    keywords = _table(architecture.get("arch_kwargs", {}), f"{where}.arch_kwargs", source)
    imported = architecture.get("_kw_requires_import", [])
    if not _is_sequence(imported):
        raise _no_plan(source, f"{where}._kw_requires_import is no list")
    for key in imported:
        if not isinstance(key, str):
            raise _no_plan(source, f"{where}._kw_requires_import holds {key!r}")
        if keywords.get(key) is not None:
            _require(keywords[key], _LAYERS, f"{where}.arch_kwargs.{key}", source)


def _is_dict(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_sequence(value: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    return isinstance(value, (list, tuple))


def _table(value: Any, where: str, source: Path | str) -> dict[str, Any]:
    if not _is_dict(value):
        raise _no_plan(source, f"{where} is no table")
    return value


def _no_plan(source: Path | str, why: str) -> InputError:
    return InputError(f"{source} is not an nnU-Net plan", why)


def _are_positive(value: Any, kind: type | tuple[type, ...]) -> bool:
    values = value if _is_sequence(value) else [value]
    return bool(values) and all(
        isinstance(v, kind) and not isinstance(v, bool) and v > 0 for v in values
    )


def _require(value: Any, allowed: set[str], key: str, source: Path | str) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise UnsafeFileError(
            f"{source} is refused",
            f"{key} = {value!r} is not one of nnU-Net's own",
            "Use a plan written by nnU-Net or by gnnunet_plan_and_preprocess",
        )
