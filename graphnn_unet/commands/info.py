"""``gnnunet_info``: folders, versions and devices, for setting up and for bug reports."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_info",
        "Show folders, data sets, models, trainers, recipes, versions and devices.",
        examples=("gnnunet_info", "gnnunet_info --paths"),
    )
    parser.add_argument("--paths", action="store_true", help="only the folders (fast)")
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.data.paths import known_datasets, use_folders

    where = use_folders()
    rows = [
        (name, str(getattr(where, name)), f"from {source}")
        for name, source in where.sources.items()
    ]
    _command.print_table(("folder", "path", "set by"), rows)
    if arguments.paths:
        return
    _print_versions()
    print(f"data sets: {', '.join(known_datasets()) or 'none'}")
    from graphnn_unet.models.find import trained_models
    from graphnn_unet.plans.recipe import named_recipes
    from graphnn_unet.trainers.registry import known_trainers

    if models := trained_models():
        _command.print_table(("data set", "model", "folds"), models)
    print(f"trainers: {', '.join(known_trainers())}")
    print(f"recipes: {', '.join(named_recipes())}")
    from pathlib import Path

    import graphnn_unet.nnunet_trainers as stock

    print(
        "for stock nnU-Net (nnUNetv2_train ... -tr GraphCLTrainer -p gnnunetPlans):\n"
        f"  export nnUNet_extTrainer={Path(stock.__file__).parent}"
    )


def _print_versions() -> None:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    print(f"python {platform.python_version()} on {platform.platform()}")
    for name in ("graphnn-unet", "torch", "nnunetv2", "torch-geometric", "SimpleITK", "numpy"):
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name} not installed")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    names += ["mps"] * torch.backends.mps.is_available()
    print(f"devices: {', '.join([*names, 'cpu'])}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
