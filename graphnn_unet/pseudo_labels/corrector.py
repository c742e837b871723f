"""What a correction is given, and what it must do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from graphnn_unet.errors import RecipeError
from graphnn_unet.plans.recipe import Recipe, declare_section
from graphnn_unet.scan_graph.scan import Scan
from graphnn_unet.settings import Section


@dataclass(frozen=True)
class Place:
    """Where a patch lies in its preprocessed case.

    Attributes:
        start: First voxel, order z, y, x of the stored case; may be negative, the patch is padded.
        mirrored: Spatial axes of the patch that are mirrored.
        is_moved: The patch was rotated or scaled: its voxels have no places in the case.
    """

    start: tuple[int, ...]
    mirrored: tuple[int, ...] = ()
    is_moved: bool = False


@dataclass(frozen=True)
class Teaching:
    """What the teacher says about the unlabeled images of a step.

    Attributes:
        logits: ``(b, k, *s)`` at full resolution.
        features: Decoder scale (0 is the finest) to features ``(b, c, *s')``, for the scales that
            the corrections of the run ask for.
        cases: Case id of each image.
        places: Place of each image in its case.
        uncorrected: What the teacher said before the method itself changed it, as ``logits``;
            ``None`` where it did not.
    """

    logits: Tensor
    features: Mapping[int, Tensor] = field(default_factory=dict)
    cases: Sequence[str] = ()
    places: Sequence[Place] = ()
    uncorrected: Tensor | None = None


@dataclass(frozen=True)
class Surroundings:
    """What a correction may know about the run.

    Attributes:
        recipe: The resolved recipe.
        spacing_mm: Voxel size of the patches, one value an axis.
        overlapping: Outputs are regions that may overlap (sigmoid) instead of classes (softmax).
        dataset_folder: Folder of the preprocessed data set.
        identifier: Folder name of the preprocessed cases in it.
        n_classes: Classes of the labels, background included.
        scale_sizes: Spatial size of a patch at each decoder scale that the loss trains, finest
            first; :attr:`Teaching.features` counts scales the same way.
    """

    recipe: Recipe
    spacing_mm: tuple[float, ...]
    overlapping: bool = False
    dataset_folder: Path | None = None
    identifier: str = ""
    n_classes: int = 2
    scale_sizes: Sequence[tuple[int, ...]] = ()


class Corrector(ABC):
    """One correction of the teacher's logits.

    A correction is a subclass in a file of its own in this folder; the name of the file is its name
    in ``pseudo_label.correct``.

    Args:
        surroundings: What is known about the run.

    Attributes:
        sections: Recipe sections of the correction, by name.
        feature_scales: Decoder scales whose features it reads; may be set by the constructor.
        takes_regions: Whether outputs may overlap.
        n_rounds: Times that it looks at the teacher's answers on whole scans.

    Raises:
        RecipeError: Outputs overlap and the correction needs one class a voxel.
    """

    sections: ClassVar[Mapping[str, type[Section]]] = {}
    takes_regions: ClassVar[bool] = True
    feature_scales: tuple[int, ...] = ()
    n_rounds: int = 0

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        for name, section in vars(cls).get("sections", {}).items():
            declare_section(name, section)

    def __init__(self, surroundings: Surroundings):
        if surroundings.overlapping and not self.takes_regions:
            name = type(self).__module__.rpartition(".")[2]
            raise RecipeError(
                f"pseudo_label.correct = {name!r} cannot correct overlapping regions",
                "it needs one class a voxel",
                "Leave it out, or use 'blur' or 'diffusion'",
            )
        self.surroundings = surroundings

    def prepare(  # noqa: B027  # most corrections need nothing
        self, labeled: Sequence[Scan], unlabeled: Sequence[Scan]
    ) -> None:
        """Do what is done once, before the first step of a run.

        Args:
            labeled: Cases whose label maps train.
            unlabeled: Cases that get pseudo-labels; their label maps cannot be opened.
        """

    def begin_round(  # noqa: B027  # most corrections have none
        self, folder: Path, answer: Callable[[Scan], np.ndarray]
    ) -> None:
        """Work on whole scans, ``n_rounds`` times at equal distances in self-training.

        A stopped run goes on in the middle of a round: what is in the folder is whole and is used.

        Args:
            folder: The round's own; it may hold results.
            answer: The teacher's probabilities ``(k, z, y, x)`` of an unlabeled scan.
        """

    @abstractmethod
    def __call__(self, teaching: Teaching) -> Tensor:
        """Corrected logits ``(b, k, *s)``; called without gradients."""
