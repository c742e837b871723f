"""What a training takes from the graph of scans: carried labeled scans, and rounds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import distributed as dist

from graphnn_unet.errors import RecipeError
from graphnn_unet.graph.shared_batch import alone
from graphnn_unet.networks.hook import one_output
from graphnn_unet.plans.recipe import declare_section
from graphnn_unet.scan_graph.fields import fields_of
from graphnn_unet.scan_graph.pairs import WarpedPairs, make_pairs
from graphnn_unet.scan_graph.registration import RegistrationSettings
from graphnn_unet.scan_graph.scan import Scan
from graphnn_unet.scan_graph.solve import SolveSettings
from graphnn_unet.scan_graph.votes import ScanGraphSettings
from graphnn_unet.storage.processes import default_workers
from graphnn_unet.trainers.batch import Phase

if TYPE_CHECKING:
    from graphnn_unet.trainers.semi import SemiTrainer

FOLDER = "scan_graph"
"""In the folder of a fold: solutions of the whole graph, a folder for each round."""

declare_section("scan_graph", ScanGraphSettings)
declare_section("scan_graph_solve", SolveSettings)
declare_section("registration", RegistrationSettings)


def warped_pairs(trainer: SemiTrainer) -> WarpedPairs | None:
    """Labeled cases in the shape of unlabeled ones, if the recipe asks for them."""
    share = trainer.recipe.of(ScanGraphSettings).pairs
    if not share:
        return None
    configuration = trainer.configuration_manager
    if len(configuration.patch_size) != 3:
        raise RecipeError(
            "scan_graph.pairs cannot be used", "scans are registered as volumes", "Use 3d_fullres"
        )
    fields = fields_of(
        Path(trainer.preprocessed_dataset_folder_base),
        configuration.data_identifier,
        [float(mm) for mm in configuration.spacing],
        trainer.recipe.of(RegistrationSettings),
    )
    labeled, unlabeled = trainer.cases.labeled, trainer.cases.unlabeled
    n_workers = default_workers(len(labeled) * len(unlabeled))
    return make_pairs(fields, share, labeled, unlabeled, n_workers=n_workers)


def remove_rounds(trainer: SemiTrainer) -> None:
    """Remove the solutions of all rounds, of a run that was begun anew or has ended."""
    shutil.rmtree(Path(trainer.output_folder) / FOLDER, ignore_errors=True)


class Rounds:
    """Tells the corrections of a phase when a round begins.

    Args:
        trainer: Whose teacher answers.
        phase: The phase; phases without unlabeled images have no rounds.
    """

    def __init__(self, trainer: SemiTrainer, phase: Phase):
        self.trainer, self.phase = trainer, phase
        has_teacher = trainer.teacher is not None and phase.unlabeled
        self.count = trainer.pseudo_labels.n_rounds if has_teacher else 0
        self._current: int | None = None

    def begin(self, step: int) -> None:
        """Begin the round of a step, unless it has begun; one process works, the others wait."""
        if not self.count:
            return
        phase = self.phase
        number = (step - phase.start) * self.count // (phase.stop - phase.start)
        if number == self._current:
            return
        self._current = number
        folder = Path(self.trainer.output_folder) / FOLDER / f"round_{number}"
        if self.trainer.local_rank == 0:
            self._work(folder)
        if self.trainer.is_ddp:
            dist.barrier()
        if self.trainer.local_rank:
            self._work(folder)

    def _work(self, folder: Path) -> None:
        network = self.trainer.teacher.network  # pyright: ignore[reportOptionalMemberAccess]  # counted
        with alone(), one_output(network), torch.no_grad():
            predictor = self.trainer.predictor_of(network, mirroring=False)

            def answer(scan: Scan) -> np.ndarray:
                image = torch.from_numpy(np.asarray(scan.image()[:], dtype=np.float32))
                return predictor.logits(image).float().softmax(0).numpy()

            self.trainer.pseudo_labels.begin_round(folder, answer)
