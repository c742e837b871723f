"""``gnnunet_install_model``: install a model from a zip."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from graphnn_unet.commands import _command


def _parser() -> argparse.ArgumentParser:
    parser = _command.parser(
        "gnnunet_install_model",
        "Install a model zip below nnUNet_results, after checking it.",
        examples=(
            "gnnunet_install_model model.zip",
            "gnnunet_install_model model.zip --overwrite",
        ),
    )
    parser.add_argument("archive", metavar="ZIP", help="zip of gnnunet_export or nnU-Net")
    parser.add_argument("--overwrite", action="store_true", help="replace an installed model")
    return parser


def _work(arguments: argparse.Namespace) -> None:
    from graphnn_unet.models.install import install_model

    _command.show_folders()
    folder = install_model(arguments.archive, overwrite=arguments.overwrite)
    print(f"installed: {folder}")
    _command.say_next("gnnunet_predict", "-i", "NEW_SCANS", "-o", "OUT", "-m", folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the console script."""
    return _command.main(_work, _parser(), argv)
