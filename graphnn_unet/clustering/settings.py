"""What a clustering is made of, the published methods by name, and what does not go together."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from graphnn_unet.errors import InputError

Layer = Literal["gcn", "gat", "arma", "gat_series"]
Loss = Literal["ncut", "cc", "dmon"]
LAYERS = ("gcn", "gat", "arma")
LOSSES = ("ncut", "cc", "dmon")
FEATURES = ("auto", "border", "hand", "dino")
GRAPHS = ("linear", "published")


@dataclass(frozen=True)
class ClusterSettings:
    """Everything that decides about a label map, besides the image and the features.

    Attributes:
        method: Name of the preset this was made from.
        layer: Graph layer: ``gcn``, ``gat``, ``arma``, ``gat_series`` (UnSegMedGAT).
        loss: ``ncut`` (normalized cut), ``cc`` (correlation clustering), ``dmon`` (modularity).
        network: Name of the network in ``graphnn_unet.graph.clusterer.PRESETS``.
        n_clusters: Clusters ``K``; under ``cc`` an upper bound.
        graph: ``linear``: the shifted cosine of all pairs, linear in time and memory.
            ``published``: what the method's paper uses, ``n^2`` memory.
        tau: Threshold of the cosine (``dmon``).
        alpha: Threshold divisor (``cc``).
        signed: ``cc``: messages along negative edges too, without normalization.
        steps: Optimizer steps an image.
        lr: Learning rate of AdamW.
        decay: Weight decay, apart from the gradient. As part of Adam's gradient the same 0.01
            outweighs the loss and makes all memberships equal.
        balance_weight: Weight of the term against unequal clusters.
        variant: Modularity, ``true`` or as ``released``.
        collapse: Modularity: whether its balance term is there (off in two released programs).
        assign: ``eval``: a pass without dropout after the last step. ``released``: the last pass of
            the training.
        shared_steps: Passes over the folder with shared weights (collective schedule), ``T0``.
        steps_per_visit: Steps on an image in each of these passes.
        two_stage: DeepCut: clusters the nodes of the foreground again, into parts.
        seed: Of the initial weights; the dropout of an image follows from it and its name.
    """

    method: str = "auto"
    layer: Layer = "gcn"
    loss: Loss = "cc"
    network: str = "grid_gcn"
    n_clusters: int = 2
    graph: Literal["linear", "published"] = "linear"
    tau: float = 0.5
    alpha: float = 3.0
    signed: bool = False
    steps: int = 100
    lr: float = 1e-3
    decay: float = 1e-2
    balance_weight: float = 1.0
    variant: Literal["true", "released"] = "true"
    collapse: bool = True
    assign: Literal["eval", "released"] = "eval"
    shared_steps: int = 0
    steps_per_visit: int = 1
    two_stage: bool = False
    seed: int = 0

    def check(self) -> None:
        """Refuse numbers and words that cannot be used, all of them in one error.

        Raises:
            InputError: Naming every setting that is wrong.
        """
        wrong = [
            f"{name} = {getattr(self, name)} (it {rule})"
            for name, holds, rule in (
                ("n_clusters", self.n_clusters >= 2, "starts at 2"),
                ("steps", self.steps >= 1, "starts at 1"),
                ("alpha", self.alpha > 0, "must be positive"),
                ("tau", -1 <= self.tau <= 1, "is a cosine, from -1 to 1"),
                ("lr", 0 < self.lr < 10, "must be positive"),
                ("balance_weight", self.balance_weight >= 0, "must not be negative"),
                ("shared_steps", self.shared_steps >= 0, "must not be negative"),
                ("steps_per_visit", self.steps_per_visit >= 1, "starts at 1"),
                ("seed", 0 <= self.seed < 2**31, "is a whole number from 0"),
                ("graph", self.graph in GRAPHS, f"is one of {', '.join(GRAPHS)}"),
                ("loss", self.loss in LOSSES, f"is one of {', '.join(LOSSES)}"),
            )
            if not holds
        ]
        if self.signed and (self.layer != "gcn" or self.loss != "cc"):
            wrong.append("signed edges (they need the layer gcn and the loss cc)")
        if self.two_stage and self.n_clusters < 3:
            wrong.append("two_stage (it needs 3 clusters or more: background and parts)")
        if wrong:
            raise InputError("these settings cannot be used", "; ".join(wrong))

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


METHODS: dict[str, ClusterSettings] = {
    "auto": ClusterSettings("auto", steps=40, lr=1e-2),
    "grid": ClusterSettings("grid", steps=100),
    "deepcut": ClusterSettings(
        "deepcut", "gcn", "ncut", "deepcut", graph="published", steps=10, alpha=3.0
    ),
    "unseggnet": ClusterSettings(
        "unseggnet", "gcn", "dmon", "unseggnet", graph="published", steps=20, tau=0.0
    ),
    "unsegarmanet": ClusterSettings(
        "unsegarmanet", "arma", "dmon", "unsegarmanet", graph="published", steps=20, tau=0.0
    ),
    "unsegmedgat": ClusterSettings(
        "unsegmedgat", "gat_series", "dmon", "unsegmedgat", graph="published", steps=60, tau=0.3,
    ),
    "unsegmedgat_c": ClusterSettings(
        "unsegmedgat_c", "gat_series", "dmon", "unsegmedgat", graph="published", steps=55, tau=0.3,
        shared_steps=15,
    ),
}  # fmt: skip
"""Methods in their correct forms: thresholds, steps and optimizers of the papers."""

_AS_RELEASED: dict[str, dict[str, Any]] = {
    "deepcut": {"assign": "released"},
    "unseggnet": {"assign": "released", "variant": "released", "collapse": False},
    "unsegarmanet": {"assign": "released", "variant": "released", "collapse": False},
    "unsegmedgat": {
        "assign": "released", "variant": "released", "lr": 1e-4, "steps": 55,
        "tau": 0.5,
    },
    "unsegmedgat_c": {
        "assign": "released", "variant": "released", "lr": 1e-4, "steps": 55,
        "tau": 0.5, "shared_steps": 3, "steps_per_visit": 5,
    },
}  # fmt: skip
"""What the released programs do, errors included; see docs/methods/unsupervised.md."""


def make_settings(
    method: str = "auto",
    *,
    layer: str | None = None,
    loss: str | None = None,
    as_released: bool = False,
    **changes: Any,
) -> ClusterSettings:
    """Settings of a method with what the caller changes.

    Args:
        method: Name of a method; a layer or a loss without one mean ``grid``, the full grid of
            layers and losses.
        layer: ``gcn``, ``gat`` or ``arma``.
        loss: ``ncut``, ``cc`` or ``dmon``.
        as_released: The released program's own steps, optimizer and errors.
        changes: Other fields of :class:`ClusterSettings`; ``None`` leaves the method's value.

    Raises:
        InputError: An unknown word, or settings that do not go together.
    """
    if method not in METHODS:
        raise InputError(f"method {method!r} is not known", f"there are {', '.join(METHODS)}")
    if method == "auto" and (layer or loss):
        method = "grid"
    chosen = METHODS[method]
    if as_released:
        if method not in _AS_RELEASED:
            raise InputError(
                f"--as-released does not fit the method {method!r}",
                f"programs were released for {', '.join(_AS_RELEASED)}",
            )
        chosen = replace(chosen, **_AS_RELEASED[method])
    if layer is not None:
        if layer not in LAYERS or method != "grid":
            raise InputError(
                f"layer {layer!r} does not fit the method {method!r}",
                "a named method has its own" if layer in LAYERS else f"use {', '.join(LAYERS)}",
                "Leave --method out to choose --layer and --loss",
            )
        chosen = replace(chosen, layer=layer, network=f"grid_{layer}")  # type: ignore[arg-type]
    if loss is not None:
        if loss not in LOSSES or method not in ("grid", "deepcut"):
            raise InputError(
                f"loss {loss!r} does not fit the method {method!r}",
                "a named method has its own" if loss in LOSSES else f"use {', '.join(LOSSES)}",
                "Leave --method out to choose --layer and --loss",
            )
        chosen = replace(chosen, loss=loss)  # type: ignore[arg-type]
    given = {name: value for name, value in changes.items() if value is not None}
    chosen = replace(chosen, **given)
    chosen.check()
    return chosen
