"""A network in memory that predicts whole images: nnU-Net's sliding window."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from graphnn_unet.device import keep_freed_memory
from graphnn_unet.errors import InputError
from graphnn_unet.images.intensities import in_usual_units
from graphnn_unet.images.label_ids import ids_of_user, with_ids
from graphnn_unet.prediction.export_logits import Labeled, logits_to_labels, rows_to_labels
from graphnn_unet.prediction.label_blocks import BlockLabels
from graphnn_unet.prediction.sliding_window import SlidingWindow


class Predictor:
    """Predicts images with one trained model, or the mean of its folds.

    ``graphnn_unet.models.load.load_predictor`` makes one from a model folder.

    Attributes:
        plans, configuration, dataset_json, label_manager: As in nnU-Net.
        folder: Folder of the model, ``None`` for a network in training.
        mirroring_axes: Axes of the network along which mirrored copies are averaged.
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
        keep_freed_memory(device)
        self.settings: dict[str, Any] = {"mirroring": mirroring, "step_size": step_size}
        self.mirroring_axes = tuple(mirroring_axes or ()) if mirroring else ()
        self._weights = list(weights)
        self.window = SlidingWindow(
            network,
            self.configuration.patch_size,
            self.label_manager.num_segmentation_heads,
            step_size=step_size,
            mirror_axes=self.mirroring_axes,
            device=device,
        )

    def rows(self, data: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Logits of a preprocessed image ``(c, z, y, x)`` as they are finished.

        Yields:
            As ``SlidingWindow.rows``; the mean of the folds.

        Raises:
            InputError: The logits are not finite.
        """
        with _few_threads():
            if len(self._weights) == 1:
                yield from self.window.rows(data, self._weights[0])
                return
            for parts in zip(*(self.window.rows(data, w) for w in self._weights), strict=True):
                mean = parts[0][1].clone()
                for _, logits in parts[1:]:
                    mean += logits
                yield parts[0][0], mean.div_(len(parts))

    def networks(self) -> list[nn.Module]:
        """A network a fold, apart from each other, in evaluation."""
        copies = [copy.deepcopy(self.window.network) for _ in self._weights]
        for network, weights in zip(copies, self._weights, strict=True):
            network.load_state_dict(weights)
        return [network.eval() for network in copies]

    def logits(self, data: Tensor) -> Tensor:
        """Logits ``(k, z, y, x)`` float16 on the CPU of a preprocessed image ``(c, z, y, x)``.

        Raises:
            InputError: The logits are not finite.
        """
        n_outputs = self.label_manager.num_segmentation_heads
        logits = torch.empty((n_outputs, *data.shape[1:]), dtype=torch.half)
        for first, rows in self.rows(data):
            logits[:, first : first + rows.shape[1]] = rows
        return logits

    @property
    def labels_by_rows(self) -> bool:
        """Whether :meth:`labels` works on the logits row by row."""
        return BlockLabels.can_resample(self.configuration)

    def labels(
        self,
        data: Tensor,
        properties: dict[str, Any],
        change: Callable[[int, Tensor], Tensor] | None = None,
    ) -> Labeled:
        """Label map on the image's grid.

        Where :attr:`labels_by_rows`, no array of all classes over the whole volume is made.

        Args:
            data: ``(c, z, y, x)`` preprocessed image.
            properties: What preprocessing noted about it.
            change: Takes the first row and logits ``(k, n, y, x)``; returns what counts instead.

        Raises:
            InputError: The logits are not finite.
        """
        if not self.labels_by_rows:
            logits = self.logits(data) if change is None else change(0, self.logits(data))
            return logits_to_labels(
                logits, properties, self.plans, self.configuration, self.label_manager
            )
        rows = self.rows(data)
        if change is not None:
            rows = ((first, change(first, logits)) for first, logits in rows)
        return rows_to_labels(
            rows, data.shape[1:], properties, self.plans, self.configuration, self.label_manager
        )

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
        labels = self.labels(data, properties).labels
        return with_ids(labels, ids_of_user(self.dataset_json))


@contextlib.contextmanager
def _few_threads() -> Generator[None]:
    """No more threads than nnU-Net's predictor takes: tiles are too small for many."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(before, default_num_processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)
