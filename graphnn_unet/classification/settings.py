"""Settings of one classification: their checks, the flags of the command and their help."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from graphnn_unet.settings import Flag, Section

Augmentation = Literal["standard", "any-orientation", "none"]

MIN_LABELS = 2
"""A class with fewer labeled images is refused: one image shows no class, only itself."""


class ClassifySettings(Section):
    """How images are classified; the defaults follow the paper where it says something.

    Near ``alpha = 1`` and without ``prior`` a frequent class takes all nodes; ``prior`` finds more
    of the rare classes at the cost of accuracy. ``variation``: ``tv`` is exact and gives way to
    ``ratio``, a reconstruction, where it collapses. ``augmentation``: ``standard`` mirrors left to
    right, turns a little, scales, shifts, brightens; ``any-orientation`` also turns and mirrors any
    way.
    """

    mode: Literal["one-pass", "dynamic"] = Field(
        "dynamic", description="diffuse the labels once, or train on with them"
    )
    p: Literal[2, 1] = Field(2, description="quadratic energy, or 1 for total variation")
    variation: Literal["tv", "ratio"] = Field("tv", description="for --p 1: exact or balanced cut")
    n_neighbors: Annotated[int, Flag("--k", "N")] = Field(
        0, ge=0, description="links of an image; 0: a twentieth of the images, 10 to 50"
    )
    descriptor_share: Annotated[float, Flag("--descriptors", "SHARE")] = Field(
        0.7,
        ge=0,
        le=1,
        description="share of hand-made descriptors in the cosine; 0: the network alone",
    )
    gamma: float = Field(8.0, gt=0, description="power of the cosine")
    symmetrize: Literal["sum", "max", "mutual"] = Field(
        "sum", description="how directed links become a symmetric graph"
    )
    alpha: float = Field(0.9, ge=0, lt=1, description="reach of the diffusion, singular at 1")
    prior: bool = Field(False, description="same mass of labels for every class")
    final_uses_validation: bool = Field(
        False, description="held-out labels take part in the last diffusion"
    )
    image_size: Annotated[int, Flag("--image-size", "N")] = Field(
        0, ge=0, description="edge in pixels or voxels, from 16 on; 0: 64, and 32 for volumes"
    )
    batch_size: Annotated[int, Flag("--batch-size", "N")] = Field(
        32, ge=1, description="images a step"
    )
    learning_rate: Annotated[float, Flag("--lr", "RATE")] = Field(
        1e-3, gt=0, description="learning rate of Adam"
    )
    averaging: float = Field(
        0.98, ge=0, lt=1, description="decay of the moving average of the weights over steps"
    )
    dropout: float = Field(
        0.2, ge=0, lt=1, description="share of features left out before the last layer"
    )
    max_epochs: Annotated[int, Flag("--epochs", "N")] = Field(
        40, ge=1, description="epochs of supervised training at most"
    )
    min_steps: Annotated[int, Flag("--min-steps", "N")] = Field(
        8, ge=1, description="steps an epoch has at least"
    )
    patience: Annotated[int, Flag("--patience", "N")] = Field(
        10, ge=1, description="epochs without a better validation loss before training stops"
    )
    rounds: Annotated[int, Flag("--rounds", "N")] = Field(
        10, ge=1, description="rounds of the dynamic pass at most"
    )
    round_patience: Annotated[int, Flag("--round-patience", "N")] = Field(
        5, ge=1, description="rounds without a better validation loss before it stops"
    )
    validation_share: float = Field(
        0.1, ge=0, lt=1, description="share of the labels held out for early stopping"
    )
    a_max: float = Field(1.0, ge=0, description="largest weight of diffused labels")
    ramp_rounds: Annotated[int, Flag("--ramp-rounds", "N")] = Field(
        0, ge=0, description="rounds until that weight is reached; 0: half of the rounds"
    )
    tta: Annotated[int, Flag("--tta", "N")] = Field(
        1, ge=1, description="views of an image whose features are averaged"
    )
    augmentation: Augmentation = Field(
        "standard", description="changes of training images; any-orientation suits microscopy"
    )
    seed: int = Field(0, ge=0, description="seed of everything random")

    @field_validator("image_size")
    @classmethod
    def _wide_enough(cls, value: int) -> int:
        if 0 < value < 16:
            raise ValueError("images are at least 16 wide")
        return value

    def neighbors(self, n_nodes: int) -> int:
        """Links of a node in a graph of ``n_nodes``."""
        return self.n_neighbors or min(50, max(10, n_nodes // 20))
