"""The base of all training methods: phases, batches, student and teacher, checkpoints, validation.

A method adds what its paper adds: its settings, the modules it trains beside the network, which
phases there are and what the loss of a batch is.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn
from torch import distributed as dist

from graphnn_unet.data.augment import training_augmentation, validation_transform
from graphnn_unet.data.patch_dataset import (
    PatchDataset,
    PatchSettings,
    StepLoader,
    default_loader_workers,
)
from graphnn_unet.data.paths import folders
from graphnn_unet.data.plan_and_preprocess import class_table
from graphnn_unet.data.run_cases import RunCases, select_cases
from graphnn_unet.device import keep_freed_memory
from graphnn_unet.errors import InputError
from graphnn_unet.graph.shared_batch import alone, shared_images
from graphnn_unet.metrics.aggregate import finite_mean
from graphnn_unet.networks.features import Tap
from graphnn_unet.networks.hook import one_output, planned_unet, stage_shapes
from graphnn_unet.networks.layout import train_channels_last
from graphnn_unet.plans.planner import run_recipe
from graphnn_unet.plans.recipe import declare_section, to_toml
from graphnn_unet.prediction.planned_networks import planned_network
from graphnn_unet.prediction.predictor import Predictor
from graphnn_unet.progress import Progress, needs_text, say
from graphnn_unet.pseudo_labels.corrector import Place, Surroundings, Teaching
from graphnn_unet.pseudo_labels.pipeline import PseudoLabels
from graphnn_unet.seeds import Stream, torch_seed, weights_seed
from graphnn_unet.settings import Section
from graphnn_unet.stopping import stop_requests
from graphnn_unet.storage.atomic import require_free_space, write_json, write_text
from graphnn_unet.storage.checkpoints import BEST, DAMAGED, FINAL, LATEST, PREVIOUS
from graphnn_unet.storage.safe_load import load_checkpoint
from graphnn_unet.trainers.batch import (
    Batch,
    Phase,
    StepLoss,
    halves,
    require_pairs,
    require_shareable,
)
from graphnn_unet.trainers.checkpointed import Checkpointed, require_same_data
from graphnn_unet.trainers.copy_paste import CopyPasteSettings, box_edges
from graphnn_unet.trainers.diagnostics import Diagnostics
from graphnn_unet.trainers.distributed import StopAgreement, launched_processes, processes_here
from graphnn_unet.trainers.empty_labels import warning_of_empty_labels
from graphnn_unet.trainers.epoch_terms import EpochTerms
from graphnn_unet.trainers.graph_of_scans import Rounds, remove_rounds, warped_pairs
from graphnn_unet.trainers.loggers import LoggedRun
from graphnn_unet.trainers.losses import LossSettings, deep_supervision_weights
from graphnn_unet.trainers.nnunet_hooks import refuse_unused_hooks
from graphnn_unet.trainers.optimization import (
    LossWatch,
    learning_rate,
    make_optimizer,
    update_weights,
)
from graphnn_unet.trainers.patch_scores import score_patches
from graphnn_unet.trainers.registry import sections_of
from graphnn_unet.trainers.run_log import RunLog, write_environment
from graphnn_unet.trainers.run_spec import Execution, RunSpec
from graphnn_unet.trainers.scan_labels import (
    ScanLabelsSettings,
    label_scans,
    labels_of,
    remove_labels,
)
from graphnn_unet.trainers.student import Student
from graphnn_unet.trainers.teacher import Teacher, TeacherSettings
from graphnn_unet.trainers.validation import validate_cases

__all__ = ["Batch", "Phase", "SemiTrainer", "StepLoss", "halves"]

_MANY_ON_A_CPU = 5000
"""Steps: above, a training without a GPU takes days, and is told of the recipe for a CPU."""
UNLABELED_COST = 1.2
"""A step with unlabeled images against one without: 1.0 to 1.3 measured with GraphCL on a CPU."""
N_LOOKED_AT = 5
"""Training cases that fold ``all`` predicts after training: their scores are no estimate."""


class SemiTrainer(Checkpointed):
    """Base class; a method overrides ``phases`` and ``batch_loss``, and says what it trains.

    A method with settings of its own lists them in ``sections``; recipes, ``--set`` and help then
    know them, and ``self.recipe.of(MySettings)`` has their values. A method with modules of its own
    returns them from ``heads``; they are trained, shared between processes and stored with the
    network, and left out of the deployed model.

    Found by stock nnU-Net as well (``nnUNet_extTrainer``), so the constructor takes nnU-Net's
    arguments; without ``run`` the recipe of the plan is used.

    Args:
        plans: The plan as a dictionary.
        configuration: Name of the configuration.
        fold: Fold number or ``"all"``.
        dataset_json: nnU-Net's description of the data set.
        device: Device to train on.
        run: What decides the result; ``None`` takes the plan's recipe and all labels.
        execution: How it is carried out.

    Attributes:
        sections: Recipe sections that the method declares, by name.
        averaged_heads: Names of the heads that the teacher averages like the network.
        uses_teacher: Whether a moving average of the student labels the unlabeled images.
        makes_pseudo_labels: Whether unlabeled images get labels, from a teacher or otherwise.
        mixes_unlabeled: Whether each labeled image of a step is mixed with an unlabeled one.

    Raises:
        InputError: The method does not support this configuration, or a subclass overrides a
            method of nnU-Net's trainer that is never called here.
    """

    supported_configurations: ClassVar[tuple[str, ...]] = ("2d", "3d_fullres", "3d_lowres")
    sections: ClassVar[Mapping[str, type[Section]]] = {}
    averaged_heads: ClassVar[tuple[str, ...]] = ()
    uses_teacher: ClassVar[bool] = False
    makes_pseudo_labels: ClassVar[bool] = False
    mixes_unlabeled: ClassVar[bool] = False
    pseudo_labels: PseudoLabels

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.makes_pseudo_labels = cls.makes_pseudo_labels or cls.uses_teacher
        for name, section in vars(cls).get("sections", {}).items():
            declare_section(name, section)
        refuse_unused_hooks(cls)

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device | None = None,
        run: RunSpec | None = None,
        execution: Execution | None = None,
    ):
        # nnU-Net's constructor makes folders, opens logs and prints; its attributes are set here
        # instead, its methods are used from below.
        plans = {key: value for key, value in plans.items() if key != "continue_training"}
        name = type(self).__name__
        self.run = run or RunSpec(
            plans["dataset_name"], configuration, name, fold, plans["plans_name"]
        )
        self.execution = execution or Execution()
        self.recipe = self.run.recipe or run_recipe(plans, configuration)
        plans["gnnunet"] = {**plans.get("gnnunet", {}), "run": self.recipe.as_dict()}
        self.plans_manager = PlansManager(plans)
        self.configuration_manager = self.plans_manager.get_configuration(configuration)
        self.configuration_name, self.fold = configuration, fold
        self.dataset_json = dataset_json
        self.label_manager = self.plans_manager.get_label_manager(dataset_json)
        self.is_cascaded = self.configuration_manager.previous_stage_name is not None
        self._refuse_unsupported()
        self.is_ddp = dist.is_available() and dist.is_initialized()
        self.local_rank = dist.get_rank() if self.is_ddp else 0
        self.world_size = dist.get_world_size() if self.is_ddp else 1
        self.device = device or torch.device("cuda")
        if self.is_ddp and self.device.type == "cuda":
            self.device = torch.device("cuda", torch.cuda.current_device())
        self._set_folders()
        self._set_hyperparameters()
        # until `initialize`
        self.student = None  # pyright: ignore[reportAttributeAccessIssue]  # until initialize
        self.optimizer = None  # pyright: ignore[reportAttributeAccessIssue]  # until initialize
        self.pseudo_labels = None  # pyright: ignore[reportAttributeAccessIssue]  # until initialize
        self.teacher = None
        self.grad_scaler = torch.amp.GradScaler("cuda") if self.device.type == "cuda" else None
        self.dataloader_train = self.dataloader_val = None
        self.inference_allowed_mirroring_axes: tuple[int, ...] | None = None
        loggers = self.execution.loggers if self.local_rank == 0 else ()
        self.log = RunLog(Path(self.output_folder), loggers)
        hidden = self.execution.hidden_labels if self.local_rank == 0 else None
        self.diagnostics = Diagnostics(hidden) if hidden else None
        self.step = 0
        self._best_ema: float | None = None
        self._ema_dice: float | None = None
        self._epoch_terms = EpochTerms()
        self._watch = LossWatch()
        self.was_initialized = False
        self.disable_checkpointing = False
        self.validates_all = False

    # --------------------------------------------------------------------------- set-up

    def _refuse_unsupported(self) -> None:
        name = type(self).__name__
        if self.is_cascaded or self.configuration_name not in self.supported_configurations:
            raise InputError(
                f"{name} does not train {self.configuration_name}",
                f"it supports {', '.join(self.supported_configurations)}",
                "Stock nnU-Net trains the cascade from the same plan (nnUNetv2_train ... "
                f"-p {self.plans_manager.plans_name})" if self.is_cascaded else "",
            )  # fmt: skip

    def _set_folders(self) -> None:
        where = folders()
        name = self.plans_manager.dataset_name
        preprocessed = where.preprocessed / name
        model = self.execution.model_folder or self.run.model_folder(where.results)
        self.preprocessed_dataset_folder_base = str(preprocessed)
        self.preprocessed_dataset_folder = str(
            preprocessed / self.configuration_manager.data_identifier
        )
        self.output_folder_base = str(model)
        self.output_folder = str(model / f"fold_{self.fold}")

    def _set_hyperparameters(self) -> None:
        recipe = self.recipe
        self.initial_lr = recipe.optimizer.lr
        self.weight_decay = recipe.optimizer.weight_decay
        self.enable_deep_supervision = recipe.loss.deep_supervision
        self.oversample_foreground_percent = 0.33
        self.num_iterations_per_epoch = recipe.schedule.steps_per_epoch
        self.n_steps = self.phases()[-1].stop
        self.num_epochs = math.ceil(self.n_steps / self.num_iterations_per_epoch)
        self.batch_size = recipe.batch.labeled // self.world_size
        with_unlabeled = any(phase.unlabeled for phase in self.phases())
        # those that are to be started count, so that a wrong batch starts none
        n_processes = max(self.world_size, self.execution.num_gpus, launched_processes())
        require_shareable(recipe.batch, n_processes, with_unlabeled=with_unlabeled)
        if with_unlabeled and self.mixes_unlabeled:
            require_pairs(recipe.batch)
        if CopyPasteSettings in sections_of(type(self)).values():
            box = recipe.of(CopyPasteSettings)
            if box.supervised or self.mixes_unlabeled:
                box_edges(self.configuration_manager.patch_size, box.box_fraction)

    def batch_loss(self, batch: Batch, phase: Phase) -> StepLoss:
        """The loss of one batch; uses ``self.student`` (and ``self.teach``)."""
        raise InputError(
            f"{type(self).__name__} has no loss", "every method has its own", "Define batch_loss"
        )

    def heads(self, network: nn.Module) -> Mapping[str, nn.Module]:
        """Modules that are trained beside the network, by name.

        Args:
            network: The network, from whose layers sizes can be read.
        """
        del network
        return {}

    @property
    def network(self) -> nn.Module:
        """The network of the student."""
        return self.student.network

    def initialize(self) -> None:
        """Build network, teacher, optimizer and loss."""
        if self.was_initialized:
            return
        if self.device.type == "cuda" and self.device.index is not None:
            torch.cuda.set_device(self.device)  # streams and measured memory are those of this one
        torch.manual_seed(weights_seed(self.run.seed))
        if self.execution.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else sums vary
            torch.use_deterministic_algorithms(True, warn_only=True)
            torch.backends.cudnn.benchmark = False
        elif self.device.type == "cuda":
            torch.backends.cudnn.benchmark = True
        self.num_input_channels = determine_num_input_channels(
            self.plans_manager, self.configuration_manager, self.dataset_json
        )
        network = self.new_network()
        averaged = self.new_network() if self.uses_teacher else None
        self.student = Student(network, self._new_heads(network))
        self.label_names = list(class_table(self.dataset_json))
        if averaged is not None:
            self.teacher = self._new_teacher(averaged)
        if self.makes_pseudo_labels:
            self.pseudo_labels = PseudoLabels(
                self._surroundings(), self.label_names, self.default_corrections
            )
        self.loss_settings = self._loss_settings()
        if self._do_i_compile():
            self.student.compile_network()
        if self.is_ddp:
            self.student.distribute(self.device)
        self.optimizer = self._new_optimizer()
        self.was_initialized = True

    def _new_heads(self, network: nn.Module) -> dict[str, nn.Module]:
        """The heads, with random numbers of their own: they change no weight of the network."""
        torch.manual_seed(weights_seed(self.run.seed, 1))
        return {name: head.to(self.device) for name, head in self.heads(network).items()}

    def _new_teacher(self, network: nn.Module) -> Teacher:
        settings = self.recipe.of(TeacherSettings)
        warm = settings.warmup and not any(p.stop and not p.unlabeled for p in self.phases())
        heads = self._new_heads(network) if self.averaged_heads else {}
        kept = {name: heads[name] for name in self.averaged_heads}
        teacher = Teacher(network, settings.ema, warm, kept)
        teacher.reset(self.student.network, self.student.heads)
        return teacher

    def _surroundings(self) -> Surroundings:
        return Surroundings(
            self.recipe,
            tuple(float(mm) for mm in self.configuration_manager.spacing)[
                -len(self.configuration_manager.patch_size) :
            ],
            self.label_manager.has_regions,
            Path(self.preprocessed_dataset_folder_base),
            self.configuration_manager.data_identifier,
            len(self.label_manager.all_labels),
            self.trained_scales(self.student.network),
        )

    def trained_scales(self, network: nn.Module) -> list[tuple[int, ...]]:
        """Spatial size of a patch at each decoder scale that the loss weighs, finest first."""
        n_outputs = len(planned_unet(network).decoder.stages) if self.enable_deep_supervision else 1
        weights = deep_supervision_weights(n_outputs)
        sizes = stage_shapes(
            self.configuration_manager.patch_size,
            self.configuration_manager.network_arch_init_kwargs["strides"],
        )
        return [tuple(size) for size, weight in zip(sizes, weights, strict=False) if weight > 0]

    def _new_optimizer(self) -> torch.optim.Optimizer:
        settings = self.recipe.optimizer
        return make_optimizer(self.student.parameter_groups(settings.weight_decay), settings)

    build_network_architecture = staticmethod(planned_network)

    def new_network(self) -> nn.Module:
        """A network of the plan on the device, with weights of PyTorch's current random state."""
        network = self.build_network_architecture(
            self.plans_manager,
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
        ).to(self.device)
        return train_channels_last(network, self.device)

    def _loss_settings(self) -> LossSettings:
        outputs = 1
        if self.enable_deep_supervision:
            outputs = len(planned_unet(self.student.network).decoder.stages)
        return LossSettings(
            variant=self.recipe.loss.variant,
            batch_dice=self.configuration_manager.batch_dice,
            overlapping=self.label_manager.has_regions,
            ignore_label=self.label_manager.ignore_label,
            scale_weights=deep_supervision_weights(outputs),
        )

    def learning_rate(self, step: int, phase: Phase) -> float:
        """Learning rate of a step; the schedule begins anew in each phase."""
        return learning_rate(self.recipe.optimizer, step - phase.start, phase.stop - phase.start)

    # --------------------------------------------------------------------------- data

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:
        """nnU-Net's ranges; no axis is mirrored with ``augmentation.mirror = false``."""
        ranges = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if not self.recipe.augmentation.mirror:
            return (*ranges[:3], None)
        return ranges

    def prepare_data(self) -> None:
        """Choose the cases of the run and build the patches."""
        self.cases: RunCases = select_cases(
            Path(self.preprocessed_dataset_folder_base),
            self.configuration_manager.data_identifier,
            n_labeled=self.run.n_labeled,
            draw=self.run.draw,
            fold=self.fold,
            development=self.run.development,
        )
        if self._uses_unlabeled and not self.cases.unlabeled:
            raise InputError(
                f"{type(self).__name__} needs unlabeled cases",
                "this run has none",
                "Put scans into imagesUn and preprocess again, use --labeled N to leave labels "
                "out, or train SupervisedTrainer",
            )
        augmentation = training_augmentation(self)
        # nnU-Net's predictor fails with a tuple that is empty
        self.inference_allowed_mirroring_axes = augmentation.mirror_axes or None
        configuration, labels = self.configuration_manager, self.label_manager
        settings = PatchSettings(
            tuple(int(i) for i in configuration.patch_size),
            augmentation.initial_patch_size,
            augmentation.transform,
            self.oversample_foreground_percent,
            (-1, *labels.all_labels) if labels.has_ignore_label else None,
            any(configuration.use_mask_for_norm),
            None if self.recipe.augmentation.unlabeled_spatial else augmentation.in_place,
        )
        batch = self.recipe.batch
        self.dataset = PatchDataset(
            self.cases.labeled,
            self.cases.unlabeled,
            batch.labeled,
            batch.unlabeled,
            settings,
            self.run.seed,
            warped_pairs(self),
        )
        plain = PatchSettings(
            settings.patch_size,
            settings.patch_size,
            validation_transform(self),
            settings.foreground_share,
            settings.annotated_key,
        )
        self.validation_set = (
            PatchDataset(self.cases.held_out, [], batch.labeled, 0, plain, self.run.seed)
            if self.cases.held_out
            else None
        )

    def slots(self, phase: Phase) -> list[int]:
        """Slots of a step that this process loads: its share of the pairs of each half."""
        batch = self.recipe.batch
        slots = shared_images(batch.labeled)
        if phase.unlabeled:
            slots += [batch.labeled + slot for slot in shared_images(batch.unlabeled)]
        return slots

    def loader(self, phase: Phase) -> StepLoader:
        """Batches from the current step to the end of a phase."""
        slots = self.slots(phase)
        workers = self.execution.n_loader_workers
        if workers is None:
            workers = default_loader_workers(self.device, processes_here())
        return StepLoader(
            self.patches_of(phase),
            lambda _step: slots,
            self.step,
            phase.stop,
            n_workers=workers,
            pin_memory=self.device.type == "cuda",
        )

    def patches_of(self, phase: Phase) -> PatchDataset:
        """Patches of the cases that a phase learns from."""
        if not phase.labels_scans:
            return self.dataset
        share = self.recipe.of(ScanLabelsSettings).min_confidence
        return PatchDataset(
            [*self.cases.labeled, *labels_of(self, phase).cases(self.cases.unlabeled, share)],
            [],
            self.recipe.batch.labeled,
            0,
            self.dataset.settings,
            self.run.seed,
            self.dataset.pairs,
        )

    def to_device(self, raw: Mapping[str, Any]) -> Batch:
        """Send a loaded batch to the device and give it the randomness of its step."""
        n_labeled = len(raw["target"])
        data = raw["data"].to(self.device, non_blocking=True)
        target = raw["target"].to(self.device, non_blocking=True)
        seed = torch_seed(self.run.seed, Stream.TRAINING_STEP, self.step)
        return Batch(
            data[:n_labeled],
            target,
            data[n_labeled:] if len(data) > n_labeled else None,
            raw["keys"],
            torch.Generator().manual_seed(seed),
            [Place(*place) for place in raw["places"]],
        )

    @torch.no_grad()
    def teach(self, batch: Batch) -> Teaching:
        """What the teacher says about the unlabeled images of a batch."""
        if batch.unlabeled is None:
            raise RuntimeError(f"phase {self.phase.name} has no unlabeled images")
        taps = [Tap("decoder", scale) for scale in self.pseudo_labels.feature_scales]
        logits, features = self._answer(batch.unlabeled, taps)
        first = len(batch.labeled)
        return Teaching(
            logits,
            {tap.scale: feature for tap, feature in features.items()},
            batch.keys[first:],
            batch.places[first:],
        )

    def _answer(self, images: Tensor, taps: Sequence[Tap]) -> tuple[Tensor, dict[Tap, Tensor]]:
        """Logits and features of the network that labels images, as ``Teacher.predict``."""
        if self.teacher is None:
            raise RuntimeError(f"{type(self).__name__} has no teacher")
        return self.teacher.predict(images, taps)

    # --------------------------------------------------------------------------- training

    def run_training(self) -> None:
        """Train from the current step to the end; safe to interrupt at any time."""
        keep_freed_memory(self.device)
        self.on_train_start()
        title = f"{type(self).__name__} fold {self.fold}"
        with (
            stop_requests() as stop,
            Progress(
                self.n_steps, title, "step", self.step, needs=self._needs, work=self._work_until
            )
            if self.local_rank == 0
            else nullcontext() as progress,
        ):
            try:
                while self.step < self.n_steps:
                    phase = self.phase
                    if self.step == phase.start:
                        self.start_phase(phase)
                    self._train_phase(phase, progress, stop)
            except BaseException:
                self.log.loggers.end()
                raise
        self.on_train_end()

    def _work_until(self, step: int) -> float:
        """Work of the first steps, in steps without unlabeled images."""
        return sum(
            len(range(phase.start, min(step, phase.stop)))
            * (UNLABELED_COST if phase.unlabeled else 1.0)
            for phase in self.phases()
        )

    def _needs(self) -> str:
        text = needs_text(self._checkpoint_bytes())
        if self.device.type == "cpu" and self.n_steps > _MANY_ON_A_CPU:
            text += (
                ". It runs on a CPU: gnnunet_plan_and_preprocess --recipe quick plans a small "
                "network and 800 steps"
            )
        return text

    def _checkpoint_bytes(self) -> int:
        """Room for three checkpoints: weights, and what the optimizer keeps of each."""
        return 3 * 4 * sum(parameter.numel() * 4 for parameter in self.student.parameters())

    def _train_phase(self, phase: Phase, progress: Progress | None, stop: threading.Event) -> None:
        loader = self.loader(phase)
        rounds = Rounds(self, phase)
        agree = StopAgreement() if self.is_ddp else bool
        waited = 0.0
        for raw in loader:
            rounds.begin(self.step)
            terms = self.train_step(raw)
            self.step += 1
            self._epoch_terms.add(terms)
            if progress is not None:
                progress.update(phase.name)
            at_end = self.step % self.num_iterations_per_epoch == 0 or self.step == phase.stop
            if at_end:
                self.end_epoch(phase, loader.waited_s - waited)
                waited = loader.waited_s
            if agree(stop.is_set()):
                self.save(LATEST)
                raise KeyboardInterrupt(
                    f"stopped after step {self.step} of {self.n_steps}; state saved in "
                    f"{Path(self.output_folder) / LATEST}. Go on with the same command and --c"
                )

    def start_phase(self, phase: Phase) -> None:
        """Prepare a phase; the teacher and a fresh optimizer start with self-training."""
        if self.local_rank == 0:
            self.log.line(f"phase {phase.name}: steps {phase.start} to {phase.stop}")
        if phase.start == 0:  # what is there is of a run that was begun anew
            self.on_first_process(self._remove_what_was_made)
            return
        if self.teacher is not None:
            self.teacher.reset(self.student.network, self.student.heads)
        if self.recipe.optimizer.reset_between_phases:
            self.optimizer = self._new_optimizer()
        if phase.labels_scans and not labels_of(self, phase).is_whole:
            self.save(LATEST)
            label_scans(self, phase)

    def _remove_what_was_made(self) -> None:
        shutil.rmtree(Path(self.output_folder) / "validation", ignore_errors=True)
        remove_labels(self)
        remove_rounds(self)

    def on_first_process(self, work: Callable[[], object]) -> None:
        """Wait for all processes, let the first one work, wait for it."""
        if self.is_ddp:
            dist.barrier()
        if self.local_rank == 0:
            with alone():
                work()
        if self.is_ddp:
            dist.barrier()

    def train_step(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """One optimizer step on a loaded batch.

        Returns:
            The loss (NaN where the step was left out) and the terms of the method, as tensors or
            floats.
        """
        self.student.train()
        on_device = self.to_device(batch)
        # whatever draws from the global generator in this step (dropout) depends on it alone
        torch.manual_seed(torch_seed(self.run.seed, Stream.TRAINING_STEP, self.step, 1))
        lr = self.learning_rate(self.step, self.phase)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        autocast = torch.autocast("cuda") if self.device.type == "cuda" else nullcontext()
        with autocast:
            total, terms = self.student.run(lambda: self._total_and_terms(on_device))
        clip_norm = self.recipe.optimizer.clip_norm
        taken = update_weights(total, self.optimizer, clip_norm, self.grad_scaler)
        self.after_step(self.phase)
        loss = total.detach()
        self._watch.add(self.step, loss, taken, on_device.keys)
        if self.grad_scaler is None:  # which leaves steps out in any training
            loss = torch.where(taken, loss, math.nan)
        return {"loss": loss, **terms}

    def _total_and_terms(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor | float]]:
        loss = self.batch_loss(batch, self.phase)
        return loss.total, loss.terms

    def after_step(self, phase: Phase) -> None:
        """What follows the optimizer step: the teacher's average."""
        if self.teacher is not None and phase.needs_unlabeled:
            self.teacher.update(self.student.network, self.student.heads)

    # --------------------------------------------------------------------------- epochs

    def end_epoch(self, phase: Phase, waited_s: float) -> None:
        """Log, validate on held-out patches, keep checkpoints."""
        n_left_out, means = self._epoch_terms.n_not_finite("loss"), self._epoch_terms.means()
        self._epoch_terms = EpochTerms()
        row: dict[str, Any] = {
            "epoch": len(self.log.rows),
            "phase": phase.name,
            "step": self.step,
            "lr": self.learning_rate(self.step - 1, phase),
            "loss": means.pop("loss"),
            **means,
            **self.epoch_facts(phase),
            **(self.diagnostics.row(self.label_names) if self.diagnostics else {}),
            "steps_left_out": n_left_out,
            "loader_wait_s": waited_s,
        }
        dice = self._validate_patches()
        if dice is not None:
            row["val_dice"] = finite_mean(dice)
            row |= {
                f"val_dice_{name}": value
                for name, value in zip(self.label_names, dice, strict=True)
            }
        if self.local_rank:
            self.log.rows.append(row)
            return
        self.log.add(row, self._title())
        if warning := warning_of_empty_labels(self.log.rows):
            say(warning)
            self.log.line(warning)
        if math.isfinite(row.get("val_dice", math.nan)):  # no class may be in the held-out patches
            self._keep_best(row["val_dice"])
        epoch = len(self.log.rows)
        if epoch % self.recipe.schedule.checkpoint_every == 0 and self.step < self.n_steps:
            self.save(LATEST)

    def epoch_facts(self, phase: Phase) -> dict[str, float]:
        """Further numbers of a method for the row of an epoch."""
        del phase
        return {}

    @property
    def default_corrections(self) -> Sequence[str]:
        """``pseudo_label.correct`` where the recipe leaves it to the method."""
        return ()

    @property
    def _uses_unlabeled(self) -> bool:
        return any(phase.needs_unlabeled for phase in self.phases())

    def _title(self) -> str:
        cases = self.cases
        held = (
            f"{len(cases.held_out)} held out"
            if cases.held_out
            else "none held out: no estimate of quality"
        )
        unlabeled = f"{len(cases.unlabeled)} unlabeled, " if self._uses_unlabeled else ""
        return (
            f"{type(self).__name__}  {self.plans_manager.dataset_name}  {self.configuration_name}  "
            f"fold {self.fold}: {len(cases.labeled)} labeled, {unlabeled}{held}"
        )

    def _keep_best(self, dice: float) -> None:
        self._ema_dice = dice if self._ema_dice is None else 0.9 * self._ema_dice + 0.1 * dice
        if self._best_ema is None or self._ema_dice > self._best_ema:
            self._best_ema = self._ema_dice
            self.save(BEST)

    def _validate_patches(self) -> list[float] | None:
        """Dice of each class over held-out patches.

        ``None`` without held-out cases: patches of training cases would be no estimate.
        """
        n_patches = self.recipe.schedule.validation_steps
        if self.validation_set is None or not n_patches:
            return None
        network = self.deployed_network()
        return score_patches(
            network, self.validation_set, n_patches, self.label_manager, self.device
        )

    # --------------------------------------------------------------------------- start and end

    def on_train_start(self) -> None:
        """Check the data, build everything and write what prediction needs."""
        self.initialize()
        self.prepare_data()
        if self.diagnostics is not None:
            self.diagnostics.prepare(self)
        if self.makes_pseudo_labels:
            self.pseudo_labels.prepare(self.cases.labeled, self.cases.unlabeled)
        if self.local_rank:
            return
        folder = Path(self.output_folder)
        require_free_space(folder, self._checkpoint_bytes(), "three checkpoints")
        model, preprocessed = (
            Path(self.output_folder_base),
            Path(self.preprocessed_dataset_folder_base),
        )
        write_json(model / "plans.json", self.plans_manager.plans)
        write_json(model / "dataset.json", self.dataset_json)
        fingerprint = preprocessed / "dataset_fingerprint.json"
        if fingerprint.is_file():
            write_text(model / fingerprint.name, fingerprint.read_text(encoding="utf-8"))
        write_text(model / "recipe.toml", to_toml(self.recipe))
        write_environment(
            Path(self.output_folder) / "environment.json",
            {
                "device": str(self.device),
                "seed": self.run.seed,
                "draw": self.run.draw,
                "labeled": [case.case_id for case in self.cases.labeled],
                "unlabeled": [case.case_id for case in self.cases.unlabeled],
                "uses_unlabeled": self._uses_unlabeled,
                "held_out": [case.case_id for case in self.cases.held_out],
                "parameters": sum(p.numel() for p in self.student.network.parameters()),
                **(
                    {"scored_by_hidden_labels": list(self.diagnostics.labels)}
                    if self.diagnostics
                    else {}
                ),
            },
        )
        self.log.line(self._title())
        name = f"{model.name} fold {self.fold}"
        self.log.loggers.begin(
            LoggedRun(
                Path(self.output_folder), folders().results, self.run.dataset, name,
                self.recipe.as_dict(), to_toml(self.recipe), self.step,
            )
        )  # fmt: skip

    def on_train_end(self) -> None:
        """Write the final checkpoint and remove those for continuing."""
        if self.local_rank:
            return
        if n_left_out := sum(int(row.get("steps_left_out") or 0) for row in self.log.rows):
            say(
                f"warning: in {n_left_out} of {self.n_steps} steps the loss or its gradients were "
                "not finite; they were left out. Look at the images, or lower optimizer.lr"
            )
        self.save(FINAL)
        remove_labels(self, keep=1)
        if self.diagnostics is None:  # which looks at whole scans with the last round
            remove_rounds(self)
        for name in (LATEST, PREVIOUS, DAMAGED):
            (Path(self.output_folder) / name).unlink(missing_ok=True)
        self.log.line("training done")
        self.log.loggers.end(self.log.picture)

    # --------------------------------------------------------------------------- nnU-Net's hooks

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """nnU-Net's name for loading a state, on which it validates or goes on.

        Raises:
            InputError: It is of another run or of other data.
        """
        if isinstance(filename_or_checkpoint, str):
            state, source = load_checkpoint(filename_or_checkpoint), filename_or_checkpoint
        else:
            state, source = filename_or_checkpoint, "a checkpoint"
        self.load_state(state, source)
        self.prepare_data()
        is_final = Path(source).name == FINAL
        require_same_data(Path(source), state, self.cases, for_scores=is_final)

    def print_to_log_file(
        self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True
    ) -> None:
        """Lines of nnU-Net's methods go to the log file alone."""
        del also_print_to_console, add_timestamp
        if self.local_rank == 0 and Path(self.output_folder).is_dir():
            self.log.line(" ".join(str(arg) for arg in args))

    def predictor_of(self, network: nn.Module, *, mirroring: bool) -> Predictor:
        """The sliding window over whole scans with a network of this training."""
        return Predictor(
            network,
            self.plans_manager,
            self.configuration_name,
            self.dataset_json,
            [network.state_dict()],
            self.inference_allowed_mirroring_axes,
            trainer_name=type(self).__name__,
            device=self.device,
            mirroring=mirroring,
        )

    @alone()
    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict whole held-out cases and score them.

        Fold ``all`` has none: a few training cases are predicted for a look, without mirrored
        copies, and all of them only with ``validates_all``.
        """
        if self.local_rank:
            return
        network = self.deployed_network()
        held_out, training = self.cases.held_out, self.cases.labeled
        only_a_look = not held_out and not self.validates_all
        if only_a_look and len(training) > N_LOOKED_AT:
            say(
                f"{N_LOOKED_AT} of {len(training)} training cases are predicted for a look; "
                "all of them with --val"
            )
            training = training[:N_LOOKED_AT]
        with one_output(network):
            validate_cases(
                held_out or training,
                self.predictor_of(network, mirroring=not only_a_look),
                Path(self.output_folder) / "validation",
                Path(self.preprocessed_dataset_folder_base),
                is_estimate=bool(held_out),
                save_probabilities=save_probabilities,
            )
        if self.diagnostics is not None:
            self.diagnostics.label_whole_scans(self)
            remove_rounds(self)
