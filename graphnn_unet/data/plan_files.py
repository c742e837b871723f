"""The plan of a data set as it lies beside the preprocessed cases."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.storage.plan_schema import check_plans
from graphnn_unet.storage.safe_load import read_json
from graphnn_unet.storage.schemas import check_description


def plan_content(preprocessed: Path, plans: str) -> dict[str, Any]:
    """A plan by its name.

    Args:
        preprocessed: Folder of the data set.
        plans: Name of the plan.

    Raises:
        MissingFileError: No such plan; lists those that are there.
        UnsafeFileError: The plan names code that is not known.
    """
    path = preprocessed / f"{plans}.json"
    if not path.is_file():
        known = sorted(p.stem for p in preprocessed.glob("*lans*.json")) or ["none"]
        raise MissingFileError(
            f"plan {path} is missing", f"plans of this data set: {', '.join(known)}",
            f"Run gnnunet_plan_and_preprocess -d {preprocessed.name}, or choose a plan with -p",
        )  # fmt: skip
    return check_plans(read_json(path), path)


def read_plan(
    preprocessed: Path, plans: str, configuration: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plan and description of a preprocessed data set; no library of nnU-Net's is imported.

    Args:
        preprocessed: Folder of the data set.
        plans: Name of the plan.
        configuration: One that it must have.

    Raises:
        MissingFileError: No such plan; lists those that are there.
        InputError: No such configuration; lists those of the plan.
        UnsafeFileError: The plan names code that is not known.
    """
    content = plan_content(preprocessed, plans)
    if configuration not in content["configurations"]:
        raise InputError(
            f"configuration {configuration!r} is not in {plans}.json",
            f"it has {', '.join(content['configurations'])}",
        )
    description = preprocessed / "dataset.json"
    return content, check_description(read_json(description), description)


def planning_options(plans: Mapping[str, Any]) -> str | None:
    """What a plan was made with, as options of ``gnnunet_plan_and_preprocess``.

    Args:
        plans: Content of the plan.

    Returns:
        Such as ``--recipe quick --set batch.labeled=2``; ``None`` for a plan of nnU-Net's.
    """
    layers = plans.get("gnnunet", {}).get("layers")
    if layers is None:
        return None
    words: list[str] = []
    for name, layer in layers.items():
        words += [name, *_as_words(layer)] if name == "--set" else f"--{name}".split(" ", 1)
    return shlex.join(words) or "no options"


def _as_words(layer: Mapping[str, Any]) -> list[str]:
    return [
        f"{section}.{key}={value if isinstance(value, str) else json.dumps(value)}"
        for section, table in layer.items()
        for key, value in table.items()
    ]
