"""Trainers of a user's file that leave what every process has learned."""

from pathlib import Path

import torch

from graphnn_unet.errors import InputError
from graphnn_unet.storage.checkpoints import LATEST, plain
from graphnn_unet.trainers import (
    BCPTrainer,
    FilterMatchTrainer,
    GraphCLTrainer,
    MLLCTrainer,
    PseudoLabelTrainer,
    SupervisedTrainer,
    UncertaintyMeanTeacherTrainer,
)
from graphnn_unet.trainers.distributed import decided_by_first


class _Recording:
    """Stores the state of each process at the end; stops once where a file asks for it."""

    def train_step(self, batch):
        terms = super().train_step(batch)
        wish = Path(self.output_folder_base).parent / "stop_after"
        if wish.is_file() and self.step + 1 == int(wish.read_text(encoding="utf-8")):
            self.step += 1
            self.save(LATEST)
            torch.distributed.barrier()
            wish.unlink(missing_ok=True)
            raise KeyboardInterrupt("asked to stop")
        return terms

    def on_train_end(self):
        super().on_train_end()
        state = self.student.state()
        if self.teacher is not None:
            state["teacher"] = self.teacher.state_dict()["weights"]
        torch.save(plain(state), Path(self.output_folder) / f"process{self.local_rank}.pt")

    def perform_actual_validation(self, save_probabilities=False):
        """Nothing: the tests look at weights."""
        target = Path(self.output_folder) / "validation" / "summary.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text('{"foreground_mean": {"Dice": 0.5}, "is_estimate": true}')


def decide_and_report(rank: int, address: str, results) -> None:
    """What one of two processes is told, and how often it was asked."""
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    asked = []

    def decide() -> str:
        asked.append(rank)
        if len(asked) == 2:
            raise InputError("no", "it is so")
        return "mode"

    told: list[object] = [decided_by_first(decide)]
    try:
        decided_by_first(decide)
    except InputError as error:
        told.append(error.line)
    results.put((rank, told, len(asked)))
    torch.distributed.destroy_process_group()


class RecordingSupervised(_Recording, SupervisedTrainer):
    pass


class RecordingBCP(_Recording, BCPTrainer):
    pass


class RecordingGraphCL(_Recording, GraphCLTrainer):
    pass


class RecordingMLLC(_Recording, MLLCTrainer):
    pass


class RecordingUncertaintyMeanTeacher(_Recording, UncertaintyMeanTeacherTrainer):
    pass


class RecordingFilterMatch(_Recording, FilterMatchTrainer):
    pass


class RecordingPseudoLabel(_Recording, PseudoLabelTrainer):
    pass


class FailingBCP(BCPTrainer):
    """One process fails with an error for the user."""

    def batch_loss(self, batch, phase):
        if self.local_rank == 1 and self.step == 2:
            raise InputError("case_00 is odd", "it is so", "Look at it")
        return super().batch_loss(batch, phase)
