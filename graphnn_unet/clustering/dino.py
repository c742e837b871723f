"""Keys of the last block of a DINO vision transformer, from a weight file that the user gives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from graphnn_unet.clustering.images import Image
from graphnn_unet.clustering.nodes import Grid, NodeFeatures
from graphnn_unet.errors import InputError
from graphnn_unet.networks.vision import import_timm
from graphnn_unet.storage.weights import read_weights

if TYPE_CHECKING:
    from timm.models import VisionTransformer

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDES = {8: 224, 16: 448}
"""Side of the square that the image is brought to, by patch size."""

WHERE = (
    "The official files are dino_deitsmall8_pretrain.pth and dino_deitsmall16_pretrain.pth of "
    "github.com/facebookresearch/dino (backbone only)"
)


@dataclass(frozen=True)
class DinoFeatures:
    """Keys of the last attention block on a grid of patches.

    Attributes:
        path: Weights of ViT-S/8 or ViT-S/16: the backbone alone, or a training checkpoint.
        stride: Pixels between patches, at most the patch size; 4 doubles the grid of ViT-S/8.
        branch: ``student`` (as the released programs read) or ``teacher`` of a full checkpoint.
        side: Side in pixels of the square the image is brought to; ``None`` for the patch size's.

    The SHA-256 of the file stands in ``facts``.
    """

    path: Path
    stride: int | None = None
    branch: Literal["student", "teacher"] = "student"
    side: int | None = None
    device: str = "cpu"

    @cached_property
    def _read(self) -> tuple[VisionTransformer, int, str]:
        backbone, digest = read_backbone(self.path, self.branch)
        return backbone.to(self.device), backbone.patch_embed.patch_size[0], digest

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes read the weights themselves."""
        return {key: value for key, value in self.__dict__.items() if key != "_read"}

    @property
    def name(self) -> str:
        """What users are told."""
        return f"keys of DINO ViT-S/{self._read[1]}"

    @property
    def facts(self) -> dict[str, str]:
        """What decides about the features."""
        _, patch, digest = self._read
        return {
            "sha256": digest,
            "stride": str(self.stride or patch),
            "branch": self.branch,
            "side": str(self.side or SIDES[patch]),
        }

    def __call__(self, image: Image) -> NodeFeatures:
        """Keys of an image without its frame, ``(node, 384)``."""
        backbone, patch, _ = self._read
        side = self.side or SIDES[patch]
        pixels = square(image.array[(slice(None), *image.inner)], side)
        keys, size = last_keys(backbone, pixels.to(self.device), self.stride or patch)
        return NodeFeatures(keys.cpu(), Grid((side, side), size))


def square(array: np.ndarray, side: int) -> Tensor:
    """A picture as DINO was trained on: ``(1, 3, side, side)``, normalized; aspect not kept."""
    if array.ndim != 3:
        raise InputError("DINO sees pictures of one plane", "", "Use --slices for volumes")
    from PIL import Image as Pillow

    rgb = array if len(array) == 3 else np.repeat(array[:1], 3, axis=0)
    picture = Pillow.fromarray((255 * np.clip(np.moveaxis(rgb, 0, -1), 0, 1)).astype(np.uint8))
    resized = np.asarray(picture.resize((side, side), Pillow.Resampling.LANCZOS))
    scaled = torch.from_numpy(resized.astype(np.float32) / 255).permute(2, 0, 1)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
    return ((scaled - mean) / deviation).unsqueeze(0)


def read_backbone(
    path: Path | str, branch: Literal["student", "teacher"]
) -> tuple[VisionTransformer, str]:
    """Timm's network of a weight file with all of its tensors, and the file's SHA-256.

    A training checkpoint holds ``student`` and ``teacher`` with tensors of a projection head, which
    are dropped.

    Raises:
        MissingFileError: There is no such file; says where it comes from.
        InputError: timm is not installed, the file is damaged, or a tensor is missing, too many or
            of another shape.
        UnsafeFileError: It holds an object that is neither tensor nor plain value.
    """
    weights = read_weights(path, branch, WHERE)
    tensors = {k: value for k, value in weights.tensors.items() if not k.startswith("head")}
    kernel = tensors.get("patch_embed.proj.weight")
    patch = kernel.shape[-1] if kernel is not None and kernel.dim() == 4 else 0
    if patch not in SIDES:
        shape = "none" if kernel is None else tuple(kernel.shape)
        raise InputError(
            f"{path} holds no DINO ViT-S/8 or ViT-S/16",
            f"it needs a patch convolution of 8 or 16 pixels, its shape here: {shape}",
            WHERE,
        )
    timm, name = import_timm("--features dino"), f"vit_small_patch{patch}_224"
    # made for pictures of any size
    backbone = timm.create_model(name, pretrained=False, num_classes=0, dynamic_img_size=True)
    try:
        backbone.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reasons = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise InputError(f"{path} is not DINO ViT-S/{patch}", reasons, WHERE) from error
    return backbone.eval(), weights.sha256


@torch.no_grad()
def last_keys(
    backbone: VisionTransformer, pixels: Tensor, stride: int
) -> tuple[Tensor, tuple[int, int]]:
    """Keys of the last block without the class token, heads first.

    timm interpolates the position embedding for the size of the grid. Below the patch size of
    ``stride`` patches overlap.

    Returns:
        ``(node, channel)`` for ``(1, 3, side, side)`` normalized pixels, and the size of the grid,
        ``1 + floor((side - patch) / stride)`` each.

    Raises:
        InputError: The stride does not fit.
    """
    projection = backbone.patch_embed.proj
    patch = projection.kernel_size[0]
    if not 1 <= stride <= patch:
        raise InputError(
            f"--stride {stride} does not fit patches of {patch} pixels",
            "it lies between 1 and the patch size",
        )
    projection.stride = (stride, stride)
    triples: list[Tensor] = []
    hook = backbone.blocks[-1].attn.qkv.register_forward_hook(  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]  # timm says modules only
        lambda module, given, triple: triples.append(triple)
    )
    try:
        backbone.forward_features(pixels)
    finally:
        hook.remove()
    keys = triples[0][0, 1:].chunk(3, dim=-1)[1]
    size = tuple(1 + (n - patch) // stride for n in pixels.shape[2:])
    return keys.float(), size
