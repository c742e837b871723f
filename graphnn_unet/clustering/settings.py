"""Settings of ``gnnunet_cluster``, each declared once, and the published methods by name.

The sections here make the flags and the help of the command, the options of
:func:`graphnn_unet.cluster` and the checks of both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from graphnn_unet.clustering.losses import LOSSES
from graphnn_unet.errors import InputError
from graphnn_unet.settings import NO_FLAG, Flag, Section, make_section

FEATURES = ("auto", "border", "hand", "dino")
GRID_LAYERS = ("gcn", "gat", "arma")


def _known_loss(name: str) -> str:
    if name not in LOSSES:
        raise ValueError(f"there are {', '.join(LOSSES)}")
    return name


class ClusterSettings(Section):
    """Everything that decides about the clusters of an image, besides its features.

    A method (:data:`METHODS`) is one such set of values. Decay is apart from the gradient: as part
    of Adam's gradient the same 0.01 outweighs the loss and makes all memberships equal.
    """

    method: Annotated[str, Flag(metavar="NAME")] = Field("auto", description="see below")
    layer: Annotated[
        Literal["gcn", "gat", "arma", "gat_series"], Flag(choices=GRID_LAYERS, shows_default=False)
    ] = Field("gcn", description="layer of the graph network")
    loss: Annotated[
        str, AfterValidator(_known_loss), Flag(choices=tuple(LOSSES), shows_default=False)
    ] = Field("cc", description="what makes a good clustering")
    n_clusters: Annotated[int, Flag("--clusters", "K")] = Field(
        2, ge=2, description="number of clusters; under cc an upper bound"
    )
    two_stage: bool = Field(False, description="split the foreground into parts")
    graph: Annotated[Literal["linear", "published"], Flag(shows_default=False)] = Field(
        "linear", description="linear in time, or n x n as published"
    )
    tau: Annotated[float, Flag(shows_default=False)] = Field(
        0.5, ge=-1, le=1, description="threshold of the cosine (dmon)"
    )
    alpha: Annotated[float, Flag(shows_default=False)] = Field(
        3.0, gt=0, description="threshold divisor (cc)"
    )
    signed: bool = Field(False, description="cc: messages along negative edges")
    balance_weight: Annotated[float, Flag("--balance", "W")] = Field(
        1.0, ge=0, description="weight against unequal clusters"
    )
    steps: Annotated[int, Flag(metavar="T", shows_default=False)] = Field(
        100, ge=1, description="optimizer steps an image"
    )
    lr: Annotated[float, Flag(shows_default=False)] = Field(
        1e-3, gt=0, lt=10, description="learning rate of AdamW"
    )
    shared_steps: Annotated[int, Flag(metavar="T0", shows_default=False)] = Field(
        0, ge=0, description="passes over the folder, shared weights"
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of initial weights and dropout")
    as_released: bool = Field(False, description="as the released program does, errors included")
    network: Annotated[str, NO_FLAG] = Field(
        "grid_gcn", description="name in graphnn_unet.graph.clusterer_settings.PRESETS"
    )
    edges: Annotated[Literal["binary", "cosine"], NO_FLAG] = Field(
        "binary", description="weight of a pair from tau on in the published graph (dmon)"
    )
    decay: Annotated[float, NO_FLAG] = Field(1e-2, ge=0, description="weight decay of AdamW")
    variant: Annotated[Literal["true", "released"], NO_FLAG] = Field(
        "true", description="modularity as defined, or as in the released programs"
    )
    collapse: Annotated[bool, NO_FLAG] = Field(
        True, description="balance term of the modularity (off in two released programs)"
    )
    assign: Annotated[Literal["eval", "released"], NO_FLAG] = Field(
        "eval", description="a pass without dropout after the last step, or the last training pass"
    )
    steps_per_visit: Annotated[int, NO_FLAG] = Field(
        1, ge=1, description="steps on an image in each of the shared passes"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> ClusterSettings:
        if self.signed and (self.layer != "gcn" or self.loss != "cc"):
            raise ValueError("signed edges need the layer gcn and the loss cc")
        if self.two_stage and self.n_clusters < 3:
            raise ValueError("two_stage needs 3 clusters or more: background and parts")
        return self


class FeatureSettings(Section):
    """Where the features of the nodes come from."""

    features: Annotated[str, Flag(metavar="NAME")] = Field("auto", description="see below")
    dino: Annotated[str | Path | None, Flag(metavar="FILE")] = Field(
        None, description="weights of DINO ViT-S/8 or ViT-S/16"
    )
    stride: Annotated[int | None, Flag(metavar="N")] = Field(
        None, description="pixels between DINO's patches"
    )
    branch: Literal["student", "teacher"] = Field(
        "student", description="of a DINO training checkpoint"
    )
    side: Annotated[int | None, Flag(metavar="PX")] = Field(
        None, description="longest side of the working image"
    )
    cell: Annotated[int | None, Flag(metavar="PX")] = Field(
        None, description="edge of a node in the working image"
    )
    device: Annotated[str, Flag("-device")] = Field(
        "auto", description="for dino; graphs are fitted on the CPU"
    )


class PostProcessing(Section):
    """What happens between the clusters of the nodes and the label map.

    The main components are that with the largest area, weighed by its closeness to the middle, and
    those of at least half its weight; debris and scale bars are dropped.
    """

    merge: Annotated[bool, NO_FLAG] = Field(True, description="one id for all of the foreground")
    fill_holes: Annotated[bool, Flag("--keep-holes")] = Field(
        True, description="do not fill holes of the foreground"
    )
    largest_component: bool = Field(False, description="keep only the largest component")
    main_components: Annotated[bool, NO_FLAG] = Field(
        False, description="keep only the main components"
    )
    color_edges: Annotated[bool, NO_FLAG] = Field(
        False, description="decide about the pixels near the edge by the colors of both sides"
    )
    refine: bool = Field(False, description="move edges to those of the image (bilateral solver)")
    nearest: Annotated[bool, NO_FLAG] = Field(
        False,
        description="as released: cluster of the nearest node, two clusters told apart by the "
        "corners, published sizes of the solver",
    )


class RunSettings(Section):
    """How a folder is worked through."""

    by_slice: Annotated[bool, Flag("--slices")] = Field(
        False, description="cluster volumes slice by slice"
    )
    channels: Annotated[int | None, Flag(metavar="N")] = Field(
        None, ge=1, description="volumes in CASE_0000, CASE_0001 ... that are one image"
    )
    as_labels: Annotated[str | None, Flag(metavar="NAME")] = Field(
        None, description="also write a raw data set with the maps as labels"
    )
    overwrite: bool = Field(False, description="replace label maps that are there")
    n_workers: Annotated[int | None, NO_FLAG] = Field(
        None, ge=0, description="processes; 0 does all work in this one"
    )


SECTIONS = (ClusterSettings, FeatureSettings, PostProcessing, RunSettings)

_PUBLISHED: dict[str, Any] = {"loss": "dmon", "graph": "published"}
_SERIES: dict[str, Any] = {
    **_PUBLISHED,
    "layer": "gat_series",
    "network": "unsegmedgat",
    "edges": "cosine",
    "tau": 0.3,
}
_METHODS: dict[str, dict[str, Any]] = {
    "auto": {"steps": 40, "lr": 1e-2},
    "grid": {},
    "deepcut": {"loss": "ncut", "network": "deepcut", "graph": "published", "steps": 10},
    "unseggnet": {**_PUBLISHED, "network": "unseggnet", "steps": 20, "tau": 0.0},
    "unsegarmanet": {
        **_PUBLISHED,
        "layer": "arma",
        "network": "unsegarmanet",
        "steps": 20,
        "tau": 0.0,
    },
    "unsegmedgat": {**_SERIES, "steps": 60},
    "unsegmedgat_c": {**_SERIES, "steps": 55, "shared_steps": 15},
}
METHODS = {name: ClusterSettings(method=name, **values) for name, values in _METHODS.items()}
"""Methods in their correct forms: thresholds, steps and optimizers of the papers."""

_NO_BALANCE: dict[str, Any] = {"assign": "released", "variant": "released", "collapse": False}
_SERIES_RELEASED: dict[str, Any] = {
    "assign": "released",
    "variant": "released",
    "lr": 1e-4,
    "steps": 55,
    "tau": 0.5,
}
_AS_RELEASED: dict[str, dict[str, Any]] = {
    "deepcut": {"assign": "released"},
    "unseggnet": _NO_BALANCE,
    "unsegarmanet": _NO_BALANCE,
    "unsegmedgat": _SERIES_RELEASED,
    "unsegmedgat_c": {**_SERIES_RELEASED, "shared_steps": 3, "steps_per_visit": 5},
}
"""What the released programs do, errors included; see docs/methods/unsupervised.md."""


def make_settings(method: str = "auto", **changes: Any) -> ClusterSettings:
    """Settings of a method with what the caller changes.

    Args:
        method: Name of a method; a layer or a loss without one mean ``grid``, the full grid of
            layers and losses.
        changes: Fields of :class:`ClusterSettings`; ``None`` leaves the method's value.

    Raises:
        InputError: An unknown word, or settings that do not go together.
    """
    given = {name: value for name, value in changes.items() if value is not None}
    if method == "auto" and given.keys() & {"layer", "loss"}:
        method = "grid"
    if method not in METHODS:
        raise InputError(f"method {method!r} is not known", f"there are {', '.join(METHODS)}")
    values = METHODS[method].model_dump()
    if given.get("as_released"):
        if method not in _AS_RELEASED:
            raise InputError(
                f"--as-released does not fit the method {method!r}",
                f"programs were released for {', '.join(_AS_RELEASED)}",
            )
        values |= _AS_RELEASED[method]
    allowed = (("layer", ("grid",), GRID_LAYERS), ("loss", ("grid", "deepcut"), tuple(LOSSES)))
    for name, methods, words in allowed:
        word = given.get(name)
        if word is not None and (word not in words or method not in methods):
            raise InputError(
                f"{name} {word!r} does not fit the method {method!r}",
                "a named method has its own" if word in words else f"use {', '.join(words)}",
                "Leave --method out to choose --layer and --loss",
            )
    if "layer" in given:
        values["network"] = f"grid_{given['layer']}"
    return make_section(ClusterSettings, values | given)
