"""The box that is cut from one image and pasted into another.

Source: BCP (CVPR 2023), section 3; GraphCL (ICML 2025), eqs. 1-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from graphnn_unet.errors import RecipeError
from graphnn_unet.plans.recipe import Positive
from graphnn_unet.settings import Section


class CopyPasteSettings(Section):
    """The box that is cut from one image and pasted into another (BCP, section 3)."""

    box_fraction: Annotated[float, Field(gt=0, lt=1)] | list[Positive] = Field(
        2 / 3,
        description="edge of the box as a share of the patch edge, or voxels per axis z, y, x",
    )
    supervised: bool = Field(
        True, description="SupervisedTrainer mixes labeled images with each other as well"
    )
    directions: Literal["both", "one"] = Field(
        "both",
        description="labeled pairs are mixed both ways (as many patches as in self-training) "
        "or one way (as published)",
    )


def box_edges(patch_size: Sequence[int], box: float | Sequence[int]) -> tuple[int, ...]:
    """Edges of the box in voxels.

    Args:
        patch_size: Spatial size of the patch.
        box: Share of each patch edge, rounded down (2/3 of 112 is 74), or voxels an axis.

    Raises:
        RecipeError: A box that does not fit the patch.
    """
    if isinstance(box, float):
        # integers where the share is exactly two thirds: int(96 * (2 / 3)) must stay 64
        edges = [2 * s // 3 if box == 2 / 3 else int(s * box + 1e-9) for s in patch_size]
        return tuple(max(1, edge) for edge in edges)
    edges = tuple(int(edge) for edge in box)  # pyright: ignore[reportGeneralTypeIssues]  # a sequence
    fits = len(edges) == len(patch_size) and all(
        1 <= edge <= size for edge, size in zip(edges, patch_size, strict=True)
    )
    if not fits:
        raise RecipeError(
            f"copy_paste.box_fraction = {list(edges)} does not fit the patch {list(patch_size)}",
            "",
            "Give one edge an axis, none larger than the patch, or a share such as 0.66",
        )
    return edges


def draw_mask(
    patch_size: Sequence[int], edges: Sequence[int], generator: torch.Generator
) -> Tensor:
    """A mask that is False inside one box at a uniform position and True outside.

    Args:
        patch_size: Spatial size ``s``.
        edges: Edges of the box.
        generator: CPU generator; every position, the last one included, is equally likely.

    Returns:
        ``(1, 1, *s)`` bool on the CPU.
    """
    mask = torch.ones((1, 1, *patch_size), dtype=torch.bool)
    inside = [slice(None), slice(None)]
    for size, edge in zip(patch_size, edges, strict=True):
        start = int(torch.randint(0, size - edge + 1, (1,), generator=generator))
        inside.append(slice(start, start + edge))
    mask[tuple(inside)] = False
    return mask


def mix(outside: Tensor, inside: Tensor, mask: Tensor) -> Tensor:
    """``outside`` where ``mask`` is True, ``inside`` in the box (images or label maps)."""
    return torch.where(mask, outside, inside)
