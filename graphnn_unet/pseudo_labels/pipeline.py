"""From what the teacher says to labels that teach: corrections in order, then the clean-up."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from graphnn_unet.errors import RecipeError
from graphnn_unet.plans.recipe import declare_section
from graphnn_unet.pseudo_labels import corrector_class, known_correctors
from graphnn_unet.pseudo_labels.corrector import Corrector, Surroundings, Teaching
from graphnn_unet.pseudo_labels.largest_component import PendingLabels, PseudoLabeler
from graphnn_unet.scan_graph.scan import Scan
from graphnn_unet.settings import Section


class PseudoLabelSettings(Section):
    """What is done to the teacher's labels before they teach."""

    correct: list[str] = Field(
        [],
        description="corrections of the teacher's answer, applied in this order before the "
        "clean-up; the names of the files in graphnn_unet/pseudo_labels",
    )
    largest_component: bool | dict[str, bool] = Field(
        True,
        description="keep only the largest connected component of a class; a table gives it per "
        "class id (the planner measures it on the labeled cases)",
    )


declare_section("pseudo_label", PseudoLabelSettings)


class PseudoLabels:
    """Corrects and cleans the teacher's answers of one run.

    Args:
        surroundings: What is known about the run; its recipe says what is done.
        class_names: Classes or regions in the order of the outputs, background left out.

    Raises:
        RecipeError: The recipe lists a correction that does not exist.
    """

    def __init__(self, surroundings: Surroundings, class_names: Sequence[str]):
        settings = surroundings.recipe.of(PseudoLabelSettings)
        self.correctors = [_corrector(name, surroundings) for name in settings.correct]
        wanted = settings.largest_component
        table = wanted if isinstance(wanted, dict) else dict.fromkeys(class_names, wanted)
        self._cleaner = PseudoLabeler(
            {name: table.get(name, True) for name in class_names}, surroundings.overlapping
        )

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
        """Logits ``(b, k, *s)`` after all corrections."""
        for corrector in self.correctors:
            teaching = replace(teaching, logits=corrector(teaching))
        return teaching.logits

    def start(self, teaching: Teaching) -> PendingLabels:
        """Correct, and begin to clean while the device goes on with other work."""
        return self._cleaner.start(self.correct(teaching))

    def finish(self, pending: PendingLabels) -> Tensor:
        """Label maps ``(b, 1, *s)`` int16, or ``(b, k, *s)`` bool where outputs overlap."""
        return self._cleaner.finish(pending)


def _corrector(name: str, surroundings: Surroundings) -> Corrector:
    names = known_correctors()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or list(names)
        raise RecipeError(
            f"pseudo_label.correct = {name!r} is no correction",
            f"there are {', '.join(near)}",
            "Choose among them, or leave it out",
        )
    return corrector_class(name)(surroundings)
