"""Methods of nnU-Net's trainer: which of them an override changes here, and which not."""

from __future__ import annotations

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from graphnn_unet.errors import InputError

CALLED_HOOKS = frozenset(
    {
        "__init__", "_do_i_compile", "build_network_architecture",
        "configure_rotation_dummyDA_mirroring_and_inital_patch_size", "get_training_transforms",
        "get_validation_transforms", "initialize", "load_checkpoint", "on_train_end",
        "on_train_start", "perform_actual_validation", "print_to_log_file", "run_training",
        "save_checkpoint", "train_step",
    }
)  # fmt: skip
"""Methods of nnU-Net's trainer that are called here, so that overriding them has an effect."""

# nothing is called at the start of an epoch: `start_phase` is called once a phase
_INSTEAD = {
    "_build_loss": "batch_loss",
    "configure_optimizers": "the recipe's section [optimizer], or learning_rate",
    "do_split": "--labeled, --draw and the fold",
    "get_dataloaders": "prepare_data",
    "get_tr_and_val_datasets": "prepare_data",
    "on_epoch_end": "end_epoch",
    "on_train_epoch_end": "end_epoch",
    "on_validation_epoch_end": "end_epoch",
    "set_deep_supervision_enabled": "the recipe key loss.deep_supervision",
}


def refuse_unused_hooks(cls: type) -> None:
    """Raise for an override of a method of nnU-Net's trainer that has no effect here.

    Args:
        cls: A trainer; what it inherits is not looked at.

    Raises:
        InputError: It would never be called; names what to override instead.
    """
    for name in vars(cls):
        if name in CALLED_HOOKS or name.startswith("__"):
            continue
        if callable(getattr(nnUNetTrainer, name, None)):
            instead = _INSTEAD.get(name)
            raise InputError(
                f"{cls.__name__}.{name} would never be called",
                "the training loop of this program does not use this method of nnU-Net's trainer",
                f"Use {instead} instead" if instead else "Take it out",
            )
