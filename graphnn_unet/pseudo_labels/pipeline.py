"""From what the teacher says to labels that teach: corrections in order, then the clean-up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphnn_unet.errors import RecipeError, near_names
from graphnn_unet.plans.recipe import declare_section
from graphnn_unet.progress import say
from graphnn_unet.pseudo_labels import corrector_class, known_correctors
from graphnn_unet.pseudo_labels.corrector import Corrector, Surroundings, Teaching
from graphnn_unet.pseudo_labels.largest_component import PendingLabels, PseudoLabeler
from graphnn_unet.scan_graph.scan import Scan
from graphnn_unet.settings import Section


class PseudoLabelSettings(Section):
    """What is done to the teacher's labels before they teach."""

    correct: list[str] | None = Field(
        None,
        description="corrections of the teacher's answer, applied in this order before the "
        "clean-up; the names of the files in graphnn_unet/pseudo_labels. Empty: ['blur'] where "
        "whole scans are labeled (scan_labels.rounds), else []",
    )
    largest_component: bool | dict[str, bool] = Field(
        True,
        description="keep only the largest connected component of a class; a table gives it for "
        "each class id, others keep it (the planner measures it on the labeled cases)",
    )


declare_section("pseudo_label", PseudoLabelSettings)

TEACHER, METHOD = "teacher", "method"
"""Stages before the corrections of the recipe."""


class Observer(Protocol):
    """Looks at pseudo-labels while they are made, and changes nothing."""

    def see_logits(self, stage: str, logits: Tensor, teaching: Teaching) -> None:
        """Look at the logits ``(b, k, *s)`` after a stage of :meth:`PseudoLabels.stages`."""
        ...

    def see_labels(self, labels: Tensor) -> None:
        """Look at the label maps that teach, of the images whose logits came last."""
        ...


class PseudoLabels:
    """Corrects and cleans the teacher's answers of one run.

    Args:
        surroundings: What is known about the run; its recipe says what is done.
        class_names: Classes or regions in the order of the outputs, background left out.
        default: Corrections where the recipe leaves them to the method.

    Attributes:
        observer: Told what comes of each stage in training; ``None`` for nobody.

    Raises:
        RecipeError: The recipe lists a correction that does not exist, or other classes.
    """

    def __init__(
        self, surroundings: Surroundings, class_names: Sequence[str], default: Sequence[str] = ()
    ):
        settings = surroundings.recipe.of(PseudoLabelSettings)
        self.observer: Observer | None = None
        names = default if settings.correct is None else settings.correct
        self.correctors = [_corrector(name, surroundings) for name in names]
        self._stages = _distinct(names)
        cleaned = _by_class(settings.largest_component, class_names)
        self._cleaner = PseudoLabeler(cleaned, surroundings.overlapping)
        self._is_flat = len(surroundings.spacing_mm) == 2

    @property
    def feature_scales(self) -> tuple[int, ...]:
        """Decoder scales whose features the corrections read."""
        return tuple(sorted({scale for c in self.correctors for scale in c.feature_scales}))

    def prepare(self, labeled: Sequence[Scan], unlabeled: Sequence[Scan]) -> None:
        """Let the corrections do what they do once, before the first step of a run."""
        for corrector in self.correctors:
            corrector.prepare(labeled, unlabeled)

    @property
    def n_rounds(self) -> int:
        """Times that corrections look at the teacher's answers on whole scans."""
        return max((corrector.n_rounds for corrector in self.correctors), default=0)

    def begin_round(self, folder: Path, answer: Callable[[Scan], np.ndarray]) -> None:
        """Let the corrections that have rounds work on whole scans."""
        for corrector in self.correctors:
            if corrector.n_rounds:
                corrector.begin_round(folder, answer)

    @torch.no_grad()
    def correct(self, teaching: Teaching) -> Tensor:
        """Logits ``(b, k, *s)`` after all corrections; the observer sees each stage."""
        logits = teaching.logits
        for stage, logits in self.stages(teaching):
            if self.observer is not None:
                self.observer.see_logits(stage, logits, teaching)
        return logits

    def stages(self, teaching: Teaching) -> Iterator[tuple[str, Tensor]]:
        """Names and logits: the teacher's own, those of the method, then after each correction.

        The names are ``teacher``, ``method`` where a method corrects by itself, and those of the
        corrections; one that is listed twice has a number the second time.
        """
        if teaching.uncorrected is not None:
            yield TEACHER, teaching.uncorrected
        yield (TEACHER if teaching.uncorrected is None else METHOD), teaching.logits
        for name, corrector in zip(self._stages, self.correctors, strict=True):
            teaching = replace(teaching, logits=corrector(teaching))
            yield name, teaching.logits

    @torch.no_grad()
    def start(self, teaching: Teaching) -> PendingLabels:
        """Correct, and begin to clean while the device goes on with other work."""
        return self._cleaner.start(self.correct(teaching))

    def finish(self, pending: PendingLabels) -> Tensor:
        """Label maps ``(b, 1, *s)`` int16, or ``(b, k, *s)`` bool where outputs overlap."""
        labels = self._cleaner.finish(pending)
        if self.observer is not None:
            self.observer.see_labels(labels)
        return labels

    def clean(self, logits: Tensor) -> Tensor:
        """Label maps of logits that are corrected already, as :meth:`finish` gives them."""
        return self._cleaner.finish(self._cleaner.start(logits))

    def clean_scan(self, logits: Tensor) -> Tensor:
        """Label map ``(1, z, y, x)`` or ``(k, z, y, x)`` of the logits of a whole scan.

        Cleaned as in training: slice by slice where patches are flat, as the planner has counted
        the components there.
        """
        return self.as_scan(self.clean(self.as_images(logits)))

    def as_images(self, scan: Tensor) -> Tensor:
        """A scan ``(k, z, y, x)`` as a batch of one image, or of its slices ``(z, k, y, x)``."""
        return scan.transpose(0, 1) if self._is_flat else scan[None]

    def as_scan(self, images: Tensor) -> Tensor:
        """Inverse of :meth:`as_images`."""
        return images.transpose(0, 1) if self._is_flat else images[0]


def _distinct(names: Sequence[str]) -> list[str]:
    """Names with their number where they come again: ``blur``, ``blur2``."""
    counts = [list(names[: i + 1]).count(name) for i, name in enumerate(names)]
    return [name if n == 1 else f"{name}{n}" for name, n in zip(names, counts, strict=True)]


def _by_class(wanted: bool | Mapping[str, bool], class_names: Sequence[str]) -> dict[str, bool]:
    """Whether only the largest component of each class is kept, in the order of the outputs."""
    if not isinstance(wanted, Mapping):
        return dict.fromkeys(class_names, wanted)
    if unknown := [name for name in wanted if name not in class_names]:
        raise RecipeError(
            f"pseudo_label.largest_component has a class {unknown[0]!r}",
            near_names(unknown[0], class_names),
            "Name classes as the planner does: label ids, or regions",
        )
    if missing := [name for name in class_names if name not in wanted]:
        say(
            f"note: pseudo_label.largest_component says nothing of {', '.join(missing)}: only the "
            "largest component is kept"
        )
    return {name: wanted.get(name, True) for name in class_names}


def _corrector(name: str, surroundings: Surroundings) -> Corrector:
    names = known_correctors()
    if name not in names:
        raise RecipeError(
            f"pseudo_label.correct = {name!r} is no correction",
            near_names(name, names),
            "Choose among them, or leave it out",
        )
    return corrector_class(name)(surroundings)
