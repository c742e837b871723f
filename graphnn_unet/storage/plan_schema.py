"""The schema of a plan: whole, in range, and with nothing in it but nnU-Net's own names.

nnU-Net imports and calls whatever classes and functions a plan names, so these must be on a closed
list; sizes are bounded, so that no plan describes a network larger than any memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from graphnn_unet.storage.schemas import (
    READERS,
    Count,
    Fault,
    FileName,
    Size,
    Table,
    Text,
    faults_of,
    is_table,
    listed,
    one_of,
    raise_faults,
    shown,
)

MAX_WEIGHTS = 2 * 10**9
"""Weights of one network: nnU-Net's largest has 0.2 · 10⁹."""
MAX_PATCH_VOXELS = 2**31
MAX_KERNEL = 63
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
_OLD_NETWORKS = {"PlainConvUNet", "ResidualEncoderUNet"}
_ORIENTATION = re.compile("|(?=.*[LR])(?=.*[AP])(?=.*[IS])[LRAPIS]{3}")


def _orientation(value: object) -> str:
    if isinstance(value, str) and _ORIENTATION.fullmatch(value):
        return value
    raise PydanticCustomError("orientation", "is no orientation such as LPS")


_Axis = Annotated[int, Field(strict=True, ge=0, le=2)]
_Flag = Annotated[bool, Field(strict=True)]
_Features = Annotated[int, Field(strict=True, ge=1, le=4096)]
_Blocks = Annotated[int, Field(strict=True, ge=1, le=64)]
_Stages = Annotated[int, Field(strict=True, ge=1, le=16)]
_PatchEdge = Annotated[int, Field(strict=True, ge=1, le=2**16)]


def _per_stage(value: object) -> object:
    """nnU-Net takes one number for all stages; it is checked as a list of one."""
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


class _ArchKwargs(Table):
    n_stages: _Stages
    features_per_stage: Annotated[list[_Features], BeforeValidator(_per_stage)]
    kernel_sizes: Annotated[list[Any], BeforeValidator(_per_stage)]
    strides: Annotated[list[Any], BeforeValidator(_per_stage)]
    n_conv_per_stage: Annotated[list[_Blocks], BeforeValidator(_per_stage)] = Field([])
    n_blocks_per_stage: Annotated[list[_Blocks], BeforeValidator(_per_stage)] = Field([])
    n_conv_per_stage_decoder: Annotated[list[_Blocks], BeforeValidator(_per_stage)] = Field([])
    conv_bias: _Flag = True
    norm_op_kwargs: dict[str, Any] | None = None
    dropout_op_kwargs: dict[str, Any] | None = None
    nonlin_kwargs: dict[str, Any] | None = None


class _Architecture(Table):
    network_class_name: Annotated[Any, one_of(_NETWORKS)]
    arch_kwargs: _ArchKwargs
    kw_requires_import: Annotated[list[Text], Field(alias="_kw_requires_import")] = Field([])


class _Part(Table):
    """A configuration as it stands in the file; what it inherits is not in it."""

    inherits_from: Text | None = None
    patch_size: Annotated[list[_PatchEdge], Field(min_length=2, max_length=3)] = Field([1, 1])
    batch_size: Count = 1
    spacing: Annotated[list[Size], Field(min_length=2, max_length=3)] = Field([1, 1])
    data_identifier: FileName = "x"
    preprocessor_name: Annotated[Any, one_of(_PREPROCESSORS)] = ""
    normalization_schemes: list[Annotated[Any, one_of(_NORMALIZATION)]] = Field([])
    use_mask_for_norm: list[_Flag] = Field([])
    resampling_fn_data: Annotated[Any, one_of(_RESAMPLING)] = ""
    resampling_fn_seg: Annotated[Any, one_of(_RESAMPLING)] = ""
    resampling_fn_probabilities: Annotated[Any, one_of(_RESAMPLING)] = ""
    resampling_fn_data_kwargs: dict[str, Any] = Field({})
    resampling_fn_seg_kwargs: dict[str, Any] = Field({})
    resampling_fn_probabilities_kwargs: dict[str, Any] = Field({})
    batch_dice: _Flag = False
    previous_stage: Text | None = None
    architecture: _Architecture | None = None
    UNet_class_name: Annotated[Any, one_of(_OLD_NETWORKS)] = ""
    UNet_base_num_features: _Features = 1
    unet_max_num_features: _Features = 1
    n_conv_per_stage_encoder: Annotated[list[_Blocks], Field(max_length=16)] = Field([])
    n_conv_per_stage_decoder: Annotated[list[_Blocks], Field(max_length=16)] = Field([])
    num_pool_per_axis: list[Any] = Field([])
    pool_op_kernel_sizes: list[Any] = Field([])
    conv_kernel_sizes: list[Any] = Field([])


_NEEDED = (
    "patch_size", "batch_size", "spacing", "data_identifier", "preprocessor_name",
    "normalization_schemes", "use_mask_for_norm", "resampling_fn_data", "resampling_fn_seg",
    "resampling_fn_probabilities", "resampling_fn_data_kwargs", "resampling_fn_seg_kwargs",
    "resampling_fn_probabilities_kwargs",
)  # fmt: skip
"""What nnU-Net looks up in a configuration with all that it inherits."""
_NEEDED_BEFORE_2_4 = (
    "UNet_class_name", "UNet_base_num_features", "unet_max_num_features",
    "n_conv_per_stage_encoder", "n_conv_per_stage_decoder", "num_pool_per_axis",
    "pool_op_kernel_sizes", "conv_kernel_sizes",
)  # fmt: skip
"""What stands in place of ``architecture`` in plans of older versions."""


class _Ours(Table):
    derived: dict[str, dict[str, dict[str, Any]]] = Field({})
    layers: dict[str, dict[str, dict[str, Any]]] = Field({})
    recipes: dict[str, dict[str, dict[str, Any]]] = Field({})


class _Plans(Table):
    dataset_name: FileName
    plans_name: FileName
    image_reader_writer: Annotated[Any, one_of(READERS)]
    label_manager: Annotated[Any, one_of({"LabelManager"})] = "LabelManager"
    transpose_forward: Annotated[list[_Axis], Field(min_length=3, max_length=3)]
    transpose_backward: Annotated[list[_Axis], Field(min_length=3, max_length=3)]
    configurations: dict[str, _Part]
    original_median_spacing_after_transp: (
        Annotated[list[Size], Field(min_length=3, max_length=3)] | None
    ) = None
    orientation: Annotated[Any, PlainValidator(_orientation)] = ""
    gnnunet: _Ours | None = None


def check_plans(plans: Any, source: Path | str) -> dict[str, Any]:
    """Return ``plans`` if it is a whole plan whose classes and functions are nnU-Net's own.

    Raises:
        InputError: The file is no nnU-Net plan; says everything that is wrong.
        UnsafeFileError: A name is not on the list; says which.
    """
    faults = faults_of(_Plans, plans)
    table = plans.get("configurations") if is_table(plans) else None
    if is_table(table):
        for name, part in table.items():
            faults += _import_faults(part, f"configurations.{name}.architecture")
        faulty = {name for name in table if any(f"configurations.{name}" in f[0] for f in faults)}
        for name in table:
            where = f"configurations.{name}"
            faults += [(f"{where}{text}", False) for text in _part_faults(table, name, faulty)]
    if not faults:
        faults = [(text, False) for text in _axis_faults(plans)]
    remedy = "Use a plan written by nnU-Net or by gnnunet_plan_and_preprocess"
    raise_faults(faults, source, "is not an nnU-Net plan", remedy)
    return cast("dict[str, Any]", plans)


def _import_faults(part: object, where: str) -> Iterator[Fault]:
    """Values that nnU-Net would import and that are not on the list."""
    architecture = part.get("architecture") if is_table(part) else None
    if not is_table(architecture):
        return
    keywords, imported = architecture.get("arch_kwargs"), architecture.get("_kw_requires_import")
    if not is_table(keywords) or not isinstance(imported, (list, tuple)):
        return
    for key in cast("Iterable[object]", imported):
        value = keywords.get(key) if isinstance(key, str) else None
        if value is not None and not (isinstance(value, str) and value in _LAYERS):
            yield f"{where}.arch_kwargs.{key} = {shown(value)} is not one of nnU-Net's own", True


def _part_faults(table: Mapping[str, Any], name: str, faulty: set[str]) -> list[str]:
    """What is wrong with a configuration together with all that it inherits.

    Args:
        table: All configurations.
        name: The one that is looked at.
        faulty: Those with faults of their own, of which no more is told.
    """
    chain: list[str] = []
    current: object = name
    while current is not None:
        if current in chain:
            return [f".inherits_from leads back to {current!r}"]
        if not isinstance(current, str) or current not in table:
            return [f".inherits_from = {shown(current)} is no configuration of the plan"]
        if current in faulty:
            return []
        chain.append(current)
        current = table[current].get("inherits_from")
    merged: dict[str, Any] = {}
    for part in reversed(chain):
        merged |= table[part]
    old = merged.get("architecture") is None
    needed = (*_NEEDED, *_NEEDED_BEFORE_2_4) if old else _NEEDED
    if old and "UNet_class_name" not in merged:
        needed = (*_NEEDED, "architecture")
    if missing := [key for key in needed if key not in merged]:
        return [f".{key} is missing" for key in missing]
    if prod(merged["patch_size"]) > MAX_PATCH_VOXELS:
        return [f".patch_size = {merged['patch_size']} is larger than any memory"]
    if old:
        return []
    keywords = merged["architecture"]["arch_kwargs"]
    return [f".architecture.arch_kwargs{text}" for text in _network_faults(keywords)]


def _network_faults(keywords: Mapping[str, Any]) -> Iterator[str]:
    """Lists that do not have a value a stage, and networks larger than any memory."""
    n_stages, features = keywords["n_stages"], keywords["features_per_stage"]
    blocks = keywords.get("n_conv_per_stage", keywords.get("n_blocks_per_stage"))
    lists = {
        "features_per_stage": (features, n_stages),
        "kernel_sizes": (keywords["kernel_sizes"], n_stages),
        "strides": (keywords["strides"], n_stages),
        "n_conv_per_stage": (blocks, n_stages),
        "n_conv_per_stage_decoder": (keywords.get("n_conv_per_stage_decoder"), n_stages - 1),
    }
    wrong = [
        f".{key} has {len(listed(values))} values, not {wanted}"
        for key, (values, wanted) in lists.items()
        if isinstance(values, (list, tuple)) and len(listed(values)) != wanted
    ]
    yield from wrong
    for size in [*listed(keywords["kernel_sizes"]), *listed(keywords["strides"])]:
        if not all(type(n) is int and 1 <= n <= MAX_KERNEL for n in listed(size)):
            yield f" has a kernel or stride of {shown(size)}"
            return
    if not wrong and isinstance(features, (list, tuple)):
        counts = [int(n) for n in listed(features)]
        repeats = [int(n) for n in listed(blocks or 1)]
        kernels = [prod(listed(size)) for size in listed(keywords["kernel_sizes"])]
        repeats, kernels = _spread(repeats, n_stages), _spread(kernels, n_stages)
        weights = sum(n * f * f * k for n, f, k in zip(repeats, counts, kernels, strict=True))
        if weights > MAX_WEIGHTS:
            yield f" describes a network of {weights:.1e} weights or more"


def _axis_faults(plans: Mapping[str, Any]) -> Iterator[str]:
    forward, backward = plans["transpose_forward"], plans["transpose_backward"]
    if sorted(forward) != [0, 1, 2] or [forward[i] for i in backward] != [0, 1, 2]:
        yield f"transpose_forward = {forward} and transpose_backward = {backward} are not inverse"


def _spread(values: list[int], n: int) -> list[int]:
    return values * n if len(values) == 1 else values
