# pyright: standard
# nnU-Net's planners, the base of these classes, come without types
"""nnU-Net's experiment planners with room for a teacher and an unlabeled batch.

The planners of nnU-Net choose patch size, network and batch from the fingerprint and a memory
target. Here the student sees at least four patches a step (two inward and two outward mixed
images), so the patch is chosen for a batch of four instead of two; the recipe may fix spacing,
patch, batch and width of the network. The plan is a valid nnU-Net plan with one more key,
``gnnunet``, that carries the resolved recipe of every configuration.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.experiment_planning.experiment_planners.network_topology import (
    get_pool_and_conv_props,
)
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (  # noqa: E501
    nnUNetPlannerResEncL,
    nnUNetPlannerResEncM,
    nnUNetPlannerResEncXL,
)
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.utilities import utils as nnunet_utils
from nnunetv2.utilities.json_export import recursive_fix_for_json_export

from graphnn_unet.errors import InputError, RecipeError
from graphnn_unet.plans.recipe import (
    Layer,
    Recipe,
    for_configuration,
    resolve,
    resolve_for_planning,
    resolved_configuration,
)
from graphnn_unet.progress import say
from graphnn_unet.storage.atomic import write_json
from graphnn_unet.storage.safe_load import read_table
from graphnn_unet.storage.schemas import is_table

PLAN_SCHEMA_VERSION = 1
_POOLABLE_EDGES = (8, 12, 16)
"""Edges of the smallest patches: nnU-Net pools two axes of 8, and a single one of 12."""

MINIMAL_STUDENT_BATCH = 4
"""Two inward and two outward mixed patches: with one of each, self-training was worse than the
supervised baseline (docs/explanation/choices.md)."""
MEMORY_OF_STEP = 1.75
"""A step of four student patches, with a teacher, against nnU-Net's step of two: 1.64 to 1.75 were
measured for our methods (tests/benchmarks/step_memory.py; nnU-Net's own step of four: 1.93)."""


# mixed into each of nnU-Net's planners, whose methods it calls
_Planning = ExperimentPlanner if TYPE_CHECKING else object


class _SemiSupervisedPlanning(_Planning):
    """What is planned differently; mixed into each of nnU-Net's planners."""

    def __init__(
        self,
        dataset_name: str,
        plans_name: str,
        layers: Mapping[str, Layer],
        derive: Callable[[int], Mapping[str, Layer]],
        n_unlabeled: int,
        planner: str,
        orientation: str = "",
    ):
        """Args: see ``make_plans``."""
        self.layers, self.derive, self.planner = layers, derive, planner
        self.recipe, _ = resolve_for_planning(*layers.values())
        self.n_unlabeled, self.orientation = n_unlabeled, orientation
        self.patch_used = False
        super().__init__(dataset_name, plans_name=plans_name)
        self._apply_recipe_to_planner()

    def _apply_recipe_to_planner(self) -> None:
        plan, network = self.recipe.plan, self.recipe.network
        if plan.gpu_memory_gb is not None:
            self.UNet_vram_target_GB = plan.gpu_memory_gb
        if plan.spacing is not None and len(plan.spacing) == 3:
            self.overwrite_target_spacing = [float(value) for value in plan.spacing]
        if network.base_features is not None:
            self.UNet_base_num_features = network.base_features
        if network.max_features is not None:
            self.UNet_max_features_2d = self.UNet_max_features_3d = network.max_features

    def determine_reader_writer(self) -> type[BaseReaderWriter]:
        """nnU-Net's reader of the first case; it takes what macOS writes beside files for one."""
        self.dataset = {x: files for x, files in self.dataset.items() if not x.startswith(".")}
        return super().determine_reader_writer()

    def determine_fullres_target_spacing(self) -> np.ndarray:
        """nnU-Net's target spacing; two values of ``plan.spacing`` are those inside a slice."""
        target = super().determine_fullres_target_spacing()
        if (inside := self._spacing_in_slice()) is not None:
            target = np.asarray(target, dtype=float).copy()
            target[np.arange(3) != np.argmax(target)] = inside
        return target

    def determine_transpose(self) -> tuple[list[int], list[int]]:
        """The slice axis first; a coarse spacing inside the slices does not change which it is."""
        if self._spacing_in_slice() is None:
            return super().determine_transpose()  # pyright: ignore[reportReturnType]  # lists in nnU-Net
        first = int(np.argmax(super().determine_fullres_target_spacing()))
        forward = [first, *(axis for axis in range(3) if axis != first)]
        return forward, [forward.index(axis) for axis in range(3)]

    def _spacing_in_slice(self) -> list[float] | None:
        spacing = self.recipe.plan.spacing
        return spacing if spacing is not None and len(spacing) == 2 else None

    def generate_data_identifier(self, configuration_name: str) -> str:
        """Folder of the preprocessed cases; each plan has its own, patch sizes differ."""
        return f"{self.plans_identifier}_{configuration_name}"

    def get_plans_for_configuration(
        self,
        spacing: Any,
        median_shape: Any,
        data_identifier: str,
        approximate_n_voxels_dataset: float,
        _cache: dict,
    ) -> dict:
        """Plan one configuration for a student batch of at least four patches."""
        name = data_identifier[len(self.plans_identifier) + 1 :]
        target = self.UNet_vram_target_GB
        # nnU-Net shrinks the patch until a step of two of them fits the target
        self.UNet_vram_target_GB = target / MEMORY_OF_STEP
        n_labeled = max(1, self.dataset_json["numTraining"])
        # the cap of 5 % of all voxels a step is about all scans, unlabeled ones too
        n_voxels = approximate_n_voxels_dataset * (n_labeled + self.n_unlabeled) / n_labeled
        try:
            plan = super().get_plans_for_configuration(
                spacing, median_shape, data_identifier, n_voxels, _cache
            )
        finally:
            self.UNet_vram_target_GB = target
        patch = self._recipe_patch(name, len(spacing))
        tiny = patch is None and len(self._topology(spacing, plan["patch_size"])[0]) < 2
        if tiny:  # the scans are padded to it
            patch = self._poolable_patch(spacing, plan["patch_size"])
        if patch is not None or self.recipe.network.max_stages is not None:
            self._set_topology(plan, spacing, patch or plan["patch_size"])
        plan["batch_size"] = self._student_batch(name, plan["batch_size"])
        return plan

    @staticmethod
    def static_estimate_VRAM_usage(*arguments: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]  # cached by nnU-Net
        """nnU-Net's estimate from a network without weights: five times as fast, same value."""
        with torch.device("meta"):
            return ExperimentPlanner.static_estimate_VRAM_usage(*arguments)

    def _recipe_patch(self, name: str, dim: int) -> list[int] | None:
        wanted = self.recipe.plan
        if wanted.patch_size is None:
            return None
        by_size = "2d" if len(wanted.patch_size) == 2 else "3d_fullres"
        if (wanted.configuration or by_size) != name:
            return None
        if len(wanted.patch_size) != dim:
            raise RecipeError(
                f"plan.patch_size = {wanted.patch_size} does not fit configuration {name}",
                f"it has {dim} axes",
                "Give plan.configuration and one value an axis",
            )
        self.patch_used = True
        return list(wanted.patch_size)

    def _student_batch(self, name: str, planned: int) -> int:
        layers = [for_configuration(layer, name) for layer in self.layers.values()]
        if any("labeled" in layer.get("batch", {}) for layer in layers):
            return resolve_for_planning(*layers)[0].batch.labeled
        return max(MINIMAL_STUDENT_BATCH, planned - planned % 2)

    def _set_topology(self, plan: dict, spacing: Any, patch: Any) -> None:
        """Put the network for ``patch`` into ``plan``, at most ``network.max_stages`` deep."""
        strides, kernels = self._topology(spacing, patch)
        nearest = self._nearest_patch(spacing, patch)
        if nearest != [int(edge) for edge in patch]:
            raise RecipeError(
                f"plan.patch_size = {[int(edge) for edge in patch]} cannot be pooled evenly",
                "each edge must divide by the product of its strides",
                f"The nearest size is {nearest}",
            )
        n_stages = len(strides)
        if n_stages < 2:
            raise RecipeError(
                f"plan.patch_size = {[int(edge) for edge in patch]} leaves nothing to pool",
                "a U-Net needs two resolutions",
                f"The smallest size is {self._poolable_patch(spacing, patch)}",
            )
        network = plan["architecture"]["arch_kwargs"]
        dim = len(spacing)
        largest = self.UNet_max_features_2d if dim == 2 else self.UNet_max_features_3d
        blocks = "n_blocks_per_stage" if "n_blocks_per_stage" in network else "n_conv_per_stage"
        network.update(
            n_stages=n_stages,
            strides=strides,
            kernel_sizes=kernels,
            features_per_stage=tuple(
                min(largest, self.UNet_base_num_features * 2**i) for i in range(n_stages)
            ),
            n_conv_per_stage_decoder=self.UNet_blocks_per_stage_decoder[: n_stages - 1],
        )
        network[blocks] = self.UNet_blocks_per_stage_encoder[:n_stages]
        plan["patch_size"] = [int(i) for i in patch]

    def _topology(self, spacing: Any, patch: Any) -> tuple[tuple, tuple]:
        """Strides and kernels of the stages for a patch, at most ``network.max_stages``."""
        _, strides, kernels, _, _ = get_pool_and_conv_props(
            spacing, patch, self.UNet_featuremap_min_edge_length, 999999
        )
        n_stages = min(len(strides), self.recipe.network.max_stages or len(strides))
        return strides[:n_stages], kernels[:n_stages]

    def _poolable_patch(self, spacing: Any, patch: Any) -> list[int]:
        """``patch``, with axes of fine spacing made long enough for two resolutions."""
        fine = [step < 2 * min(spacing) for step in spacing]
        larger: list[int] = []
        for least in _POOLABLE_EDGES:
            larger = [
                max(int(edge), least) if is_fine else int(edge)
                for edge, is_fine in zip(patch, fine, strict=True)
            ]
            if len(self._topology(spacing, larger)[0]) > 1:
                break
        return self._nearest_patch(spacing, larger)

    def _nearest_patch(self, spacing: Any, patch: Any) -> list[int]:
        """``patch``, or the size next to it whose edges all divide by their strides."""
        nearest = [int(edge) for edge in patch]
        while True:  # another size may ask for one more stage: ends, as edges grow in the end
            factors = np.prod(self._topology(spacing, nearest)[0], axis=0)
            rounded = [
                max(1, int(edge / factor + 0.5)) * int(factor)
                for edge, factor in zip(nearest, factors, strict=True)
            ]
            if rounded == nearest:
                return nearest
            nearest = rounded

    def _memory_gb(self, plan: Mapping[str, Any]) -> float:
        """GPU memory of a training step: nnU-Net's estimate of its own, scaled as measured."""
        architecture = plan["architecture"]
        estimate = self.static_estimate_VRAM_usage(
            plan["patch_size"],
            len(self.dataset_json["channel_names"]),
            len(self.dataset_json["labels"]),
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
        )
        if len(plan["patch_size"]) == 2:
            reference = self.UNet_reference_val_2d * self.UNet_reference_val_corresp_bs_2d
        else:
            reference = self.UNet_reference_val_3d * self.UNet_reference_val_corresp_bs_3d
        of_two = 2 * estimate / reference * self.UNet_reference_val_corresp_GB
        return float(of_two * MEMORY_OF_STEP * plan["batch_size"] / MINIMAL_STUDENT_BATCH)

    def save_plans(self, plans: dict) -> None:
        """Add the resolved recipes and write the plan atomically."""
        from nnunetv2.paths import nnUNet_preprocessed

        if self.recipe.plan.patch_size is not None and not self.patch_used:
            raise RecipeError(
                f"plan.patch_size = {self.recipe.plan.patch_size} fits no configuration",
                f"the data allow {', '.join(plans['configurations'])}",
                "Give two values for 2d",
            )
        recursive_fix_for_json_export(plans)
        target = Path(str(nnUNet_preprocessed)) / self.dataset_name
        target /= f"{self.plans_identifier}.json"
        by_hand: dict[str, Any] = {}
        if target.is_file():  # configurations that a user added by hand are kept, as in nnU-Net
            existing = _existing_configurations(target)
            stock = {*plans["configurations"], "2d", "3d_fullres", "3d_lowres"}
            stock.add("3d_cascade_fullres")
            by_hand = {k: v for k, v in existing.items() if k not in stock}
            plans["configurations"].update(by_hand)
        if self.orientation:  # not inside "gnnunet": an exported model needs it too
            plans["orientation"] = self.orientation
        plans["gnnunet"] = self._gnnunet_key(plans, by_hand)
        write_json(target, plans)

    def _gnnunet_key(self, plans: dict, by_hand: Collection[str]) -> dict[str, Any]:
        measured = self.derive(plans["transpose_forward"][0])
        derived, memory_gb = {}, {}
        for name in plans["configurations"]:
            configuration = resolved_configuration(plans, name)
            if "previous_stage" in configuration:
                continue
            batch = int(configuration["batch_size"])
            if name in by_hand:  # as run_recipe takes what is in no plan of this program
                batch = max(MINIMAL_STUDENT_BATCH, batch + batch % 2)
            layer: dict[str, Any] = {"batch": {"labeled": batch, "unlabeled": batch}}
            like = "2d" if len(configuration["patch_size"]) == 2 else "3d_fullres"
            for section, table in measured.get(name, measured.get(like, {})).items():
                layer.setdefault(section, {}).update(table)
            derived[name] = layer
            memory_gb[name] = round(self._memory_gb(configuration), 2)
        return {
            "schema_version": PLAN_SCHEMA_VERSION,
            "planner": self.planner,
            "derived": derived,
            "layers": {key: dict(layer) for key, layer in self.layers.items()},
            "recipes": {
                name: _record(layer, name, self.layers.values()) for name, layer in derived.items()
            },
            "memory_gb": memory_gb,
        }


def _existing_configurations(plan: Path) -> dict[str, Any]:
    """The configurations of an older plan; none of a damaged one."""
    try:
        configurations = read_table(plan).get("configurations")
    except InputError as error:
        say(f"warning: the older plan is replaced ({error.line})")
        return {}
    return configurations if is_table(configurations) else {}


class GraphPlanner(_SemiSupervisedPlanning, ExperimentPlanner):  # pyright: ignore[reportIncompatibleMethodOverride]  # mixed in
    """nnU-Net's default planner (plain U-Net)."""


class GraphPlannerResEncM(_SemiSupervisedPlanning, nnUNetPlannerResEncM):  # pyright: ignore[reportIncompatibleMethodOverride]  # mixed in
    """nnU-Net's residual encoder planner, size M."""


class GraphPlannerResEncL(_SemiSupervisedPlanning, nnUNetPlannerResEncL):  # pyright: ignore[reportIncompatibleMethodOverride]  # mixed in
    """nnU-Net's residual encoder planner, size L."""


class GraphPlannerResEncXL(_SemiSupervisedPlanning, nnUNetPlannerResEncXL):  # pyright: ignore[reportIncompatibleMethodOverride]  # mixed in
    """nnU-Net's residual encoder planner, size XL."""


PLANNERS = {
    "default": (GraphPlanner, "gnnunetPlans"),
    "resenc_m": (GraphPlannerResEncM, "gnnunetResEncMPlans"),
    "resenc_l": (GraphPlannerResEncL, "gnnunetResEncLPlans"),
    "resenc_xl": (GraphPlannerResEncXL, "gnnunetResEncXLPlans"),
}


def plans_name(planner: str) -> str:
    """Name of the plans that a planner writes.

    Raises:
        RecipeError: Unknown planner.
    """
    if planner not in PLANNERS:
        raise RecipeError(f"planner {planner!r} is unknown", "", f"Use {', '.join(PLANNERS)}")
    return PLANNERS[planner][1]


def make_plans(
    dataset_name: str,
    *,
    planner: str = "default",
    layers: Mapping[str, Layer] | None = None,
    derive: Callable[[int], Mapping[str, Layer]] | None = None,
    n_unlabeled: int = 0,
    orientation: str = "",
) -> tuple[dict[str, Any], str]:
    """Plan all configurations of a data set and write ``<plans name>.json``.

    The raw data set and its ``dataset_fingerprint.json`` must exist.

    Args:
        dataset_name: ``DatasetNNN_Name``.
        planner: A key of ``PLANNERS``.
        layers: Recipe layers by source, weakest first (named recipe, file, ``--set``).
        derive: Called with the axis across which slices are cut; returns the values measured on
            the data for each configuration, which are weaker than ``layers``.
        n_unlabeled: Number of unlabeled cases.
        orientation: To which all scans are turned when they are read; written into the plan.

    Returns:
        The plan, and nnU-Net's own account of how it was found.

    Raises:
        RecipeError: Unknown planner, or a patch that does not fit spacing and network.
    """
    identifier = plans_name(planner)
    planner_class, _ = PLANNERS[planner]
    account = io.StringIO()
    with _positive_worker_count(), _files_listed_here(), contextlib.redirect_stdout(account):
        experiment_planner = planner_class(
            dataset_name, identifier, layers or {}, derive or (lambda _: {}), n_unlabeled, planner,
            orientation,
        )  # fmt: skip
        plans = experiment_planner.plan_experiment()
    return plans, account.getvalue()


def run_recipe(plans: Mapping[str, Any], configuration: str, *layers: Layer) -> Recipe:
    """The recipe of one training: the plan's layers, then those of the run.

    Args:
        plans: A plan with or without the key ``gnnunet`` (a plan of stock nnU-Net has none).
        configuration: Name of the configuration; one that a user has added takes over what was
            measured for the one that it inherits from.
        layers: Further layers, weakest first.
    """
    gnnunet_key = plans.get("gnnunet", {})
    measured = gnnunet_key.get("derived", {})
    table = plans["configurations"]
    planned: str | None = configuration
    while planned is not None and planned not in measured:
        planned = table.get(planned, {}).get("inherits_from")
    derived = {section: dict(values) for section, values in measured.get(planned, {}).items()}
    if planned != configuration:
        # a plan or configuration from elsewhere: at least two inward and two outward mixed patches
        size = resolved_configuration(plans, configuration)["batch_size"]
        size = max(MINIMAL_STUDENT_BATCH, size + size % 2)
        derived["batch"] = {"labeled": size, "unlabeled": size}
    stacked = (*gnnunet_key.get("layers", {}).values(), *layers)
    return resolve(derived, *(for_configuration(layer, configuration) for layer in stacked))


def add_layer(
    plans: dict[str, Any], configuration: str, layer: Layer, facts: Mapping[str, Any]
) -> None:
    """Add what was measured after planning to the plan of a configuration.

    Args:
        plans: The plan, changed in place.
        configuration: Name of the configuration.
        layer: Recipe values, weaker than those of the user.
        facts: What was seen, by name; it stands in the plan beside the recipes.
    """
    key = plans["gnnunet"]
    derived = key["derived"][configuration]
    for section, values in layer.items():
        derived[section] = {**derived.get(section, {}), **values}
    for name, value in facts.items():
        key.setdefault(name, {})[configuration] = value
    key["recipes"][configuration] = _record(derived, configuration, key["layers"].values())


def remove_layer(plans: dict[str, Any], configuration: str, layer: Layer) -> None:
    """Take out of the plan what ``add_layer`` put there, where it is still the same.

    Args:
        plans: The plan, changed in place.
        configuration: Name of the configuration.
        layer: What was added.
    """
    derived = plans["gnnunet"]["derived"][configuration]
    for section, values in layer.items():
        table = derived.pop(section, {})
        left = {key: value for key, value in table.items() if (key, value) not in values.items()}
        if left:
            derived[section] = left


def _record(
    derived: Layer, configuration: str, layers: Iterable[Layer]
) -> dict[str, dict[str, Any]]:
    """What a plan notes of the recipe of a configuration; a training resolves the layers anew."""
    stronger = (for_configuration(layer, configuration) for layer in layers)
    return resolve_for_planning(derived, *stronger)[1]


@contextlib.contextmanager
def _files_listed_here() -> Iterator[None]:
    """nnU-Net's planner starts twelve processes to list the files of a folder; threads do it here.

    Copies of a process with many threads may hang, and each costs seconds where they start anew
    (nnunetv2 2.8). Its reader of ``dataset.json`` stumbles over a byte order mark; ours does not.
    """
    before = nnunet_utils.Pool, default_experiment_planner.load_json
    nnunet_utils.Pool, default_experiment_planner.load_json = ThreadPool, read_table
    try:
        yield
    finally:
        nnunet_utils.Pool, default_experiment_planner.load_json = before


@contextlib.contextmanager
def _positive_worker_count() -> Iterator[None]:
    """nnU-Net's planner passes ``nnUNet_n_proc_DA`` to torch, which refuses 0 threads."""
    name = "nnUNet_n_proc_DA"
    before = os.environ.get(name)
    os.environ[name] = str((os.cpu_count() or 1) if before in (None, "0") else before)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
