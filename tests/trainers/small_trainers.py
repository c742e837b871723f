"""Trainers on the tiny data set, and batches without a loader."""

from pathlib import Path

import pytest
import torch
from tiny_study import DATASET, train_in, use_home
from torch import nn

from graphnn_unet.data import patch_dataset
from graphnn_unet.plans.planner import run_recipe
from graphnn_unet.plans.recipe import parse_overrides
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.trainers import run_log
from graphnn_unet.trainers.run_spec import Execution, RunSpec
from graphnn_unet.trainers.semi import Batch, SemiTrainer


def make_trainer(
    cls: type[SemiTrainer], home: Path, monkeypatch, *overrides: str, configuration="3d_fullres",
    n_processes: int = 1,
) -> SemiTrainer:  # fmt: skip
    """A trainer with network and cases, before its first step; nothing is written."""
    use_home(home, monkeypatch)
    folder = home / "preprocessed" / DATASET
    plans = read_json(folder / "gnnunetPlans.json")
    recipe = run_recipe(plans, configuration, parse_overrides(overrides))
    trainer = cls(
        plans, configuration, "all", read_json(folder / "dataset.json"), torch.device("cpu"),
        RunSpec(DATASET, configuration, cls.__name__, recipe=recipe),
        Execution("cpu", n_processes, n_loader_workers=0, model_folder=home / "nowhere"),
    )  # fmt: skip
    trainer.disable_checkpointing = True
    trainer.initialize()
    trainer.prepare_data()
    return trainer


def leave_out_pictures_and_predictions(monkeypatch) -> None:
    """For tests of whole trainings that look at weights alone; windows are not mirrored either."""
    monkeypatch.setattr(run_log, "plot_progress", lambda *_: None)
    monkeypatch.setattr(SemiTrainer, "perform_actual_validation", lambda *_: None)
    original = SemiTrainer.predictor_of
    monkeypatch.setattr(
        SemiTrainer, "predictor_of",
        lambda self, network, *, mirroring: original(self, network, mirroring=False),
    )  # fmt: skip


def killed_and_continued(home, monkeypatch, trainer, overrides, owner, method, count) -> Path:
    """Fold of a training that ended in the ``count``-th call of a method, then went on."""
    original, calls = getattr(owner, method), []

    def killed(self, *arguments):
        calls.append(0)
        if len(calls) == count:
            raise SystemExit("killed")
        return original(self, *arguments)

    keywords = {"overrides": overrides, "output": home / "results" / "again"}
    with monkeypatch.context() as patch:
        patch.setattr(owner, method, killed)
        with pytest.raises(SystemExit):
            train_in(home, trainer, **keywords)
    return train_in(home, trainer, mode="continue", **keywords).model / "fold_all"


def files_of_last_phase(trainer: SemiTrainer, monkeypatch) -> set[str]:
    """Train the last phase to its end; names of all files of cases that were opened for it."""
    names = set()
    for name in ("open_array", "load_properties"):
        original = getattr(patch_dataset, name)

        def opened(path: Path, *rest, original=original):
            names.add(path.name)
            return original(path, *rest)

        monkeypatch.setattr(patch_dataset, name, opened)
    trainer.step = trainer.phases()[-1].start
    for raw in trainer.loader(trainer.phase):
        trainer.train_step(raw)
    return names


def random_batch(trainer: SemiTrainer, n_images: int = 4, seed: int = 0) -> Batch:
    """Noise with random labels; the same seed gives the same batch and the same box."""
    generator = torch.Generator().manual_seed(seed)
    size = trainer.configuration_manager.patch_size
    return Batch(
        torch.randn(n_images, 1, *size, generator=generator),
        torch.randint(0, 3, (n_images, 1, *size), generator=generator).to(torch.int16),
        torch.randn(n_images, 1, *size, generator=generator),
        [f"case_{i}" for i in range(2 * n_images)],
        torch.Generator().manual_seed(seed),
    )


def open_gate(network: nn.Module, gate: float = 0.7) -> None:
    """Give the alignment block an effect."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        network.align.gate.fill_(gate)
        network.align.weight.copy_(torch.randn(network.align.weight.shape, generator=generator) / 2)


class Given(nn.Module):
    """A network whose output is a parameter, to look at the gradient of the loss itself."""

    def __init__(self, shape: tuple[int, ...], seed: int = 7):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.logits = nn.Parameter(torch.randn(shape, generator=generator))
        self.seen: list[torch.Tensor] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(image)
        return self.logits


def equal_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
