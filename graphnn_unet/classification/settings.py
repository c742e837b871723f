"""Settings of one classification, and what the words in them may be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from graphnn_unet.errors import InputError

Mode = Literal["one-pass", "dynamic"]
Variation = Literal["tv", "ratio"]
Symmetrize = Literal["sum", "max", "mutual"]
Augmentation = Literal["standard", "any-orientation", "none"]

MIN_LABELS = 2
"""A class with fewer labeled images is refused: one image shows no class, only itself."""


@dataclass(frozen=True)
class ClassifySettings:
    """How images are classified; the defaults follow the paper where it says something.

    Attributes:
        mode: ``one-pass`` trains on the labels and diffuses once; ``dynamic`` lets the diffused
            labels train the network further.
        p: 2 for the quadratic energy, 1 for total variation.
        variation: For ``p = 1``: ``tv`` (exact; gives way to ``ratio`` where it collapses) or
            ``ratio`` (balanced, a reconstruction).
        n_neighbors: Links of a node; 0 takes a twentieth of the images, from 10 to 50.
        descriptor_share: Share of hand-made descriptors (``descriptors.py``) in the cosine of two
            images; the network has the rest. 0 is the network alone, as in the paper.
        gamma: Power of the cosine.
        symmetrize: How directed links become a symmetric graph.
        alpha: Reach of the diffusion, ``0 <= alpha < 1``. Near 1 and without ``prior`` a frequent
            class takes all nodes.
        prior: Give every class the same mass of labels before the diffusion: more of the rare
            classes is found, at the cost of accuracy.
        final_uses_validation: Let the held-out labels take part in the final diffusion.
        image_size: Edge in pixels or voxels that images are brought to; 0 chooses 64 for
            pictures and 32 for volumes.
        batch_size: Images a step.
        learning_rate: Of Adam.
        averaging: Decay of the moving average of the weights over steps, which is the network that
            sees and decides; 0 takes the last weights.
        dropout: Before the last linear layer.
        max_epochs: Epochs of the supervised training at most.
        min_steps: Steps an epoch has at least, where labels are few.
        patience: Epochs without a better validation loss before training stops.
        rounds: Rounds of the dynamic pass at most.
        round_patience: Rounds without a better validation loss before it stops.
        validation_share: Share of the labels held out for early stopping.
        a_max: Largest weight of the diffused labels; 0 is supervised training.
        ramp_rounds: Rounds until that weight is reached; 0 means half of ``rounds``.
        tta: Views whose features are averaged: 1, or more with augmentation.
        augmentation: ``standard`` (mirrored left to right, turned a little, scaled, shifted,
            brighter or darker), ``any-orientation`` (microscopy: also any turn and mirror), or
            ``none``.
        seed: Of everything random.
    """

    mode: Mode = "dynamic"
    p: int = 2
    variation: Variation = "tv"
    n_neighbors: int = 0
    descriptor_share: float = 0.7
    gamma: float = 8.0
    symmetrize: Symmetrize = "sum"
    alpha: float = 0.9
    prior: bool = False
    final_uses_validation: bool = False
    image_size: int = 0
    batch_size: int = 32
    learning_rate: float = 1e-3
    averaging: float = 0.98
    dropout: float = 0.2
    max_epochs: int = 40
    min_steps: int = 8
    patience: int = 10
    rounds: int = 10
    round_patience: int = 5
    validation_share: float = 0.1
    a_max: float = 1.0
    ramp_rounds: int = 0
    tta: int = 1
    augmentation: Augmentation = "standard"
    seed: int = 0

    def __post_init__(self) -> None:
        _require_words(self)
        _require_ranges(self)

    def neighbors(self, n_nodes: int) -> int:
        """Links of a node in a graph of ``n_nodes``."""
        return self.n_neighbors or min(50, max(10, n_nodes // 20))

    @classmethod
    def from_values(cls, values: Mapping[str, Any], source: str) -> ClassifySettings:
        """Settings as they were stored.

        Raises:
            InputError: An unknown key or a wrong type; says which and where.
        """
        known = {field.name: field for field in fields(cls)}
        for key, value in values.items():
            kind = type(known[key].default) if key in known else None
            fits = (kind is float and type(value) is int) or type(value) is kind
            if not fits:
                raise InputError(f"{source} is damaged", f"its setting {key} = {value!r} is wrong")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)


_AT_LEAST_1 = (
    "batch_size", "max_epochs", "min_steps", "patience", "rounds",
    "round_patience", "tta",
)  # fmt: skip
_NOT_NEGATIVE = (
    "n_neighbors",
    "image_size",
    "a_max",
    "ramp_rounds",
    "seed",
)
_POSITIVE = ("gamma", "learning_rate")


def _require_words(settings: ClassifySettings) -> None:
    for name, allowed in (
        ("mode", get_args(Mode)),
        ("p", (2, 1)),
        ("variation", get_args(Variation)),
        ("symmetrize", get_args(Symmetrize)),
        ("augmentation", get_args(Augmentation)),
    ):
        value = getattr(settings, name)
        if value not in allowed:
            listed = ", ".join(map(str, allowed))
            raise InputError(f"{name} = {value!r} is not known", f"choose one of {listed}")


def _require_ranges(settings: ClassifySettings) -> None:
    if not 0 <= settings.alpha < 1:
        raise InputError(
            f"alpha = {settings.alpha} cannot be used",
            "the diffusion is singular at 1 and meaningless below 0",
            "Use 0 <= alpha < 1, for example 0.99",
        )
    for name in _AT_LEAST_1:
        _require(settings, name, getattr(settings, name) >= 1, "it starts at 1")
    for name in _NOT_NEGATIVE:
        holds = 0 <= getattr(settings, name) < float("inf")
        _require(settings, name, holds, "it starts at 0 and is finite")
    for name in _POSITIVE:
        _require(settings, name, 0 < getattr(settings, name) < float("inf"), "it is positive")
    for name in ("dropout", "averaging", "validation_share"):
        _require(settings, name, 0 <= getattr(settings, name) < 1, "it lies in [0, 1)")
    share = settings.descriptor_share
    _require(settings, "descriptor_share", 0 <= share <= 1, "it lies in [0, 1]")
    size = settings.image_size
    _require(settings, "image_size", size == 0 or size >= 16, "images are at least 16 wide")


def _require(settings: ClassifySettings, name: str, holds: bool, why: str) -> None:
    if not holds:
        raise InputError(f"{name} = {getattr(settings, name)!r} cannot be used", why)
