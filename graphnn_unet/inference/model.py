"""A trained model in memory: network, plan and nnU-Net's sliding window."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from graphnn_unet.data.paths import use_folders
from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.inference.export_logits import logits_to_labels
from graphnn_unet.networks.fold import can_fold, drop_alignment, fold_alignment
from graphnn_unet.storage.safe_load import check_plans, load_checkpoint, read_json
from graphnn_unet.trainers.checkpoint import require_finite
from graphnn_unet.trainers.registry import trainer_class

FINAL_CHECKPOINT = "checkpoint_final.pth"
_FOLD = re.compile(r"fold_(\d+|all)")


class Predictor:
    """Predicts images with one trained model, or the mean of its folds.

    Make it with ``from_folder`` or ``from_network``.

    Attributes:
        plans, configuration, dataset_json, label_manager: As in nnU-Net.
        folder: Folder of the model, ``None`` for a network in training.
        settings: What else decides about a prediction: mirroring, step size, folds, checkpoint.
    """

    def __init__(
        self,
        network: nn.Module,
        plans: PlansManager,
        configuration_name: str,
        dataset_json: dict[str, Any],
        weights: Sequence[dict[str, Tensor]],
        mirroring_axes: Sequence[int] | None,
        *,
        trainer_name: str,
        device: torch.device,
        step_size: float = 0.5,
        mirroring: bool = True,
        folder: Path | None = None,
    ):
        self.plans, self.dataset_json, self.folder = plans, dataset_json, folder
        self.configuration_name, self.trainer_name = configuration_name, trainer_name
        self.configuration = plans.get_configuration(configuration_name)
        self.label_manager = plans.get_label_manager(dataset_json)
        # data sets of nnU-Net 1 say "modality"
        self.n_channels = len(dataset_json.get("channel_names") or dataset_json["modality"])
        self.device = device
        self.settings: dict[str, Any] = {"mirroring": mirroring, "step_size": step_size}
        with contextlib.redirect_stdout(io.StringIO()):  # it announces what it does on a CPU
            self._engine = nnUNetPredictor(
                tile_step_size=step_size,
                use_gaussian=True,
                use_mirroring=mirroring,
                perform_everything_on_device=device.type == "cuda",
                device=device,
                allow_tqdm=False,
            )
            self._engine.manual_initialization(
                network,
                plans,
                self.configuration,
                list(weights),
                dataset_json,
                trainer_name,
                tuple(mirroring_axes) if mirroring_axes else None,
            )

    @classmethod
    def from_folder(
        cls,
        folder: Path | str,
        *,
        folds: Sequence[int | str] | None = None,
        checkpoint: str = FINAL_CHECKPOINT,
        device: torch.device,
        step_size: float = 0.5,
        mirroring: bool = True,
    ) -> Predictor:
        """Load a model of this program or of stock nnU-Net.

        Where the alignment block can be folded into the convolutions behind it, it is: predictions
        are then those of the exported model, bit for bit.

        Args:
            folder: Model folder (``TRAINER__PLANS__CONFIGURATION``).
            folds: Folds to average; ``None`` takes all numbered ones that are there, else ``all``.
            checkpoint: File name in each fold folder.
            device: Device to predict on.
            step_size: Step of the sliding window as a share of the patch.
            mirroring: Average over mirrored copies.

        Raises:
            MissingFileError: No such model, fold or checkpoint; lists those that exist.
            UnsafeFileError: Plan or checkpoint ask for code.
        """
        folder = Path(folder)
        dataset_json = read_description(folder)
        raw_plans = check_plans(read_json(folder / "plans.json"), folder / "plans.json")
        folds = available_folds(folder, checkpoint, folds)
        states = [load_model_state(folder / f"fold_{fold}" / checkpoint) for fold in folds]
        first = states[0]
        name, configuration = first["trainer_name"], first["init_args"]["configuration"]
        plans = PlansManager(raw_plans)
        network = build_network(name, plans, configuration, dataset_json)
        folding, weights = can_fold(network), []
        for fold, state in zip(folds, states, strict=True):
            load_weights(network, state, f"{folder.name}/fold_{fold}/{checkpoint}")
            weights.append(fold_alignment(network) if folding else state["network_weights"])
        if folding:
            drop_alignment(network)
        predictor = cls(
            network,
            plans,
            configuration,
            dataset_json,
            weights,
            first.get("inference_allowed_mirroring_axes"),
            trainer_name=name,
            device=device,
            step_size=step_size,
            mirroring=mirroring,
            folder=folder,
        )
        predictor.settings |= {"folds": folds, "checkpoint": checkpoint}
        return predictor

    def logits(self, data: Tensor) -> Tensor:
        """Logits ``(k, z, y, x)`` float16 on the CPU of a preprocessed image ``(c, z, y, x)``.

        Raises:
            InputError: The logits are not finite.
        """
        with torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
            logits = self._engine.predict_logits_from_preprocessed_data(data)
        if not torch.isfinite(logits).all():
            raise InputError("the network's output is not finite")
        return logits

    def preprocess(self, image: np.ndarray, spacing: Sequence[float]) -> tuple[Tensor, dict]:
        """Normalise and resample ``(c, z, y, x)`` as in training; properties go to the export."""
        preprocessor = self.configuration.preprocessor_class(verbose=False)
        data, _, properties = preprocessor.run_case_npy(
            image, None, {"spacing": list(spacing)}, self.plans, self.configuration,
            self.dataset_json,
        )  # fmt: skip
        return torch.from_numpy(np.ascontiguousarray(data)), properties

    def predict(self, image: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        """Label map of an array.

        Args:
            image: ``(c, z, y, x)`` or, with one channel, ``(z, y, x)``.
            spacing: Voxel size in mm, order z, y, x.

        Returns:
            ``(z, y, x)`` label ids.

        Raises:
            InputError: Wrong number of axes or channels.
        """
        image = image[None] if image.ndim == 3 else image
        if image.ndim != 4 or len(image) != self.n_channels or len(spacing) != 3:
            raise InputError(
                f"an image of shape {image.shape} with spacing {tuple(spacing)} does not fit",
                f"the model takes {self.n_channels} channels, axes (c, z, y, x)",
            )
        data, properties = self.preprocess(image, spacing)
        return logits_to_labels(
            self.logits(data), properties, self.plans, self.configuration, self.label_manager
        ).labels


def read_description(folder: Path) -> dict[str, Any]:
    """``dataset.json`` of a model folder.

    Raises:
        MissingFileError: There is none.
        InputError: It lacks channels, labels or the ending of files.
    """
    path = folder / "dataset.json"
    content = read_json(path)
    needed = {"channel_names", "labels", "file_ending"}
    found = set(content) if isinstance(content, dict) else set()
    missing = sorted(needed - found - ({"channel_names"} if "modality" in found else set()))
    if missing:
        raise InputError(
            f"{path} lacks {', '.join(missing)}", "", "Copy the whole model folder again"
        )
    return content


def load_model_state(path: Path) -> dict[str, Any]:
    """A checkpoint that can predict: finite weights, and the names of trainer and configuration.

    Raises:
        MissingFileError: There is no such file.
        InputError: It is cut off, lacks a key, or its weights are not finite.
        UnsafeFileError: It asks for code.
    """
    state = load_checkpoint(path)
    arguments = state.get("init_args")
    if not isinstance(state.get("trainer_name"), str) or not (
        isinstance(arguments, dict) and "configuration" in arguments
    ):
        raise InputError(f"{path} does not say which trainer and configuration made it")
    require_finite(state["network_weights"], str(path))
    return state


def load_weights(network: nn.Module, state: dict[str, Any], source: str) -> None:
    """Put the weights of a checkpoint into a network.

    Raises:
        InputError: They belong to another network.
    """
    try:
        network.load_state_dict(state["network_weights"])
    except RuntimeError as error:
        first = [*str(error).splitlines(), "", ""][1].strip()
        raise InputError(
            f"the weights of {source} do not fit the network of {state['trainer_name']}",
            f"plans.json is of another model, or the trainer has changed ({first[:160]})",
            "Copy the whole model folder again",
        ) from error


def build_network(
    trainer_name: str, plans: PlansManager, configuration: str, dataset_json: dict[str, Any]
) -> nn.Module:
    """The network of a trained model, without deep supervision.

    Raises:
        InputError: The plan lacks the configuration, or the trainer is unknown.
    """
    if configuration not in plans.plans["configurations"]:
        raise InputError(
            f"plans.json has no configuration {configuration!r}",
            f"it has {', '.join(plans.plans['configurations'])}",
            "Copy the whole model folder again",
        )
    manager = plans.get_configuration(configuration)
    n_inputs = determine_num_input_channels(plans, manager, dataset_json)
    n_outputs = plans.get_label_manager(dataset_json).num_segmentation_heads
    build = trainer_class(trainer_name).build_network_architecture
    return build(plans, manager, n_inputs, n_outputs, enable_deep_supervision=False)


def available_folds(
    folder: Path, checkpoint: str, wanted: Sequence[int | str] | None
) -> list[int | str]:
    """Folds of a model that have the checkpoint.

    Raises:
        MissingFileError: None, or a wanted one is missing; lists those that exist.
    """
    found: list[int | str] = []
    for path in sorted(folder.glob("fold_*")):
        match = _FOLD.fullmatch(path.name)  # a fold that was set aside is fold_0.old1
        if match and (path / checkpoint).is_file():
            found.append(int(match[1]) if match[1].isdigit() else match[1])
    if wanted is None:
        numbered = [fold for fold in found if isinstance(fold, int)]
        wanted = numbered or found
    missing = [fold for fold in wanted if fold not in found]
    if missing or not wanted:
        names = ", ".join(map(str, found)) or "none"
        what = f"fold {missing[0]} of {folder}" if missing else str(folder)
        raise MissingFileError(
            f"{what} has no {checkpoint}", f"folds that have it: {names}",
            "Train it, or choose another fold with -f",
        )  # fmt: skip
    return list(wanted)


def last_finished_model(
    trainer: str | None = None, configuration: str | None = None, plans: str | None = None
) -> Path:
    """Model folder of the training that finished last, among those that fit.

    Raises:
        MissingFileError: No training has finished.
    """
    results = use_folders().results
    finished = [
        path for path in _final_checkpoints(results, "Dataset*/*/fold_*")
        if not path.parts[-3].startswith(".")
        and _fits(path.parts[-3], trainer, configuration, plans)
    ]  # fmt: skip
    if not finished:
        wanted = " ".join(filter(None, (trainer, configuration, plans)))
        raise MissingFileError(
            f"there is no trained model in {results}", f"looked for {wanted}" if wanted else "",
            "Train one, or name it with -m",
        )  # fmt: skip
    return max(finished, key=lambda path: path.stat().st_mtime).parent.parent


def _final_checkpoints(root: Path, folds: str) -> list[Path]:
    """Final checkpoints in the fold folders that fit a pattern, without those set aside."""
    found = root.glob(f"{folds}/{FINAL_CHECKPOINT}")
    return [path for path in found if _FOLD.fullmatch(path.parent.name)]


def find_model(
    dataset: str | None,
    trainer: str | None,
    configuration: str | None,
    plans: str | None,
) -> Path:
    """Model folder by data set and, where several fit, by trainer, configuration and plans.

    Raises:
        MissingFileError: None fits; lists what there is.
        InputError: Several fit; lists them.
    """
    from graphnn_unet.data.paths import resolve_dataset

    if dataset is None:
        return last_finished_model(trainer, configuration, plans)
    name = resolve_dataset(dataset)
    root = use_folders().results / name
    models = sorted({path.parent.parent for path in _final_checkpoints(root, "*/fold_*")})
    fitting = [m for m in models if _fits(m.name, trainer, configuration, plans)]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(model.name for model in fitting or models)
    if not fitting:
        raise MissingFileError(
            f"no finished model of {name}" + " fits" * bool(models),
            f"there are: {listed}" if models else f"there is none in {root}",
            "Train it first, or finish its training (gnnunet_train ... --c)",
        )
    raise InputError(
        f"several models of {name} fit", listed, "Choose with -tr, -c and -p, or -m FOLDER"
    )


def _fits(name: str, trainer: str | None, configuration: str | None, plans: str | None) -> bool:
    """Whether ``TRAINER__PLANS__CONFIGURATION[__...]`` has the wanted parts."""
    wanted = (trainer, plans, configuration)
    parts = name.split("__")
    return len(parts) >= len(wanted) and all(
        part in (None, own) for part, own in zip(wanted, parts, strict=False)
    )
