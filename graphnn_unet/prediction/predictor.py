"""A network in memory that predicts whole images: nnU-Net's sliding window."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from graphnn_unet.errors import InputError
from graphnn_unet.images.intensities import in_usual_units
from graphnn_unet.images.label_ids import ids_of_user, with_ids
from graphnn_unet.prediction.export_logits import logits_to_labels


class Predictor:
    """Predicts images with one trained model, or the mean of its folds.

    ``graphnn_unet.models.load.load_predictor`` makes one from a model folder.

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
        channels = dataset_json.get("channel_names") or dataset_json["modality"]
        self.channel_names = [str(channels[key]) for key in sorted(channels, key=int)]
        self.n_channels = len(channels)
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

    @property
    def mirroring_axes(self) -> tuple[int, ...]:
        """Axes of the network along which mirrored copies are averaged."""
        axes = self._engine.allowed_mirroring_axes if self.settings["mirroring"] else None
        return tuple(int(axis) for axis in axes or ())

    def networks(self) -> list[nn.Module]:
        """A network a fold, apart from each other, in evaluation."""
        states = cast(list[dict[str, Tensor]], self._engine.list_of_parameters)
        copies = [cast(nn.Module, copy.deepcopy(self._engine.network)) for _ in states]
        for network, weights in zip(copies, states, strict=True):
            network.load_state_dict(weights)
        return [network.eval() for network in copies]

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
        """Normalize and resample ``(c, z, y, x)`` as in training; properties go to the export."""
        preprocessor = self.configuration.preprocessor_class(verbose=False)
        usual = in_usual_units(
            image.astype(np.float32, copy=False), self.configuration.normalization_schemes
        )
        data, _, properties = preprocessor.run_case_npy(
            usual, None, {"spacing": list(spacing)}, self.plans, self.configuration,
            self.dataset_json,
        )  # fmt: skip
        return torch.from_numpy(np.ascontiguousarray(data)), properties

    def predict(self, image: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
        """Label map of an array.

        Args:
            image: ``(c, z, y, x)`` or, with one channel, ``(z, y, x)``, stored as the training
                scans are: ``plans.plans["orientation"]`` (x first) says how.
            spacing: Voxel size in mm, order z, y, x.

        Returns:
            ``(z, y, x)`` label ids, those of the user's label maps.

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
        labels = logits_to_labels(
            self.logits(data), properties, self.plans, self.configuration, self.label_manager
        ).labels
        return with_ids(labels, ids_of_user(self.dataset_json))
