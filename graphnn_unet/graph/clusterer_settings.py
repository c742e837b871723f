"""What the published clustering networks are made of, and their presets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

from torch import nn

from graphnn_unet.errors import InputError
from graphnn_unet.graph._tensors import check_choice

Layer = Literal["gcn", "gat", "arma", "gat_series"]
Activation = Literal["elu", "silu", "selu", "relu", "gelu"]

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {"elu": nn.ELU, "silu": nn.SiLU, "selu": nn.SELU, "relu": nn.ReLU, "gelu": nn.GELU}
)

_WORDS = {
    "layer": get_args(Layer),
    "activation": get_args(Activation),
    "head_activation": get_args(Activation),
}
_LEAST = {"hidden": 2, "n_heads": 1, "n_stacks": 1, "n_layers": 1}
_SHARES = ("dropout", "attention_dropout", "input_dropout")


@dataclass(frozen=True)
class ClustererSettings:
    """What a :class:`GraphClusterer` is made of.

    Attributes:
        layer: ``gcn``, ``gat``, ``arma``, or ``gat_series``: parallel series of two attention
            layers, one for each of ``widths``, summed.
        hidden: Width behind the graph layers; the head continues with half of it.
        activation: Behind (and between) the graph layers.
        head_activation: Inside the head.
        dropout: In the head and between the layers of a series.
        signed: ``gcn``: keep negative edges and leave out the normalization, which they break.
        n_heads: ``gat``: attention heads, which share ``hidden``.
        attention_dropout: ``gat``: of the attention.
        n_stacks: ``arma``: parallel stacks, averaged.
        n_layers: ``arma``: steps of each stack.
        input_dropout: ``arma``: of the features that enter each step.
        widths: ``gat_series``: widths of the series; one equal to ``hidden`` is added as it is.
        project_all: ``gat_series``: project that one as well.

    Raises:
        InputError: Naming the first setting that is wrong.

    Example:
        >>> ClustererSettings(layer="arma", n_stacks=2).hidden
        64
    """

    layer: Layer = "gcn"
    hidden: int = 64
    activation: Activation = "elu"
    head_activation: Activation = "elu"
    dropout: float = 0.25
    signed: bool = False
    n_heads: int = 1
    attention_dropout: float = 0.0
    n_stacks: int = 1
    n_layers: int = 1
    input_dropout: float = 0.0
    widths: tuple[int, ...] = (128, 64)
    project_all: bool = False

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            check_choice(name, getattr(self, name), words)
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise InputError(f"{name}={getattr(self, name)}", f"it starts at {least}")
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"{name}={getattr(self, name)}", "it starts at 0 and stays below 1"
                )
        if not self.widths or min(self.widths) < 1:
            raise InputError(f"widths={self.widths}", "each starts at 1")
        if self.hidden % self.n_heads:
            raise InputError(
                f"hidden={self.hidden}, n_heads={self.n_heads}", "the heads share hidden evenly"
            )
        if self.signed and self.layer != "gcn":
            raise InputError(
                f"signed edges with layer={self.layer!r}",
                "only a gcn without normalization keeps their sign",
            )


PRESETS = {
    "deepcut": ClustererSettings(),
    "unseggnet": ClustererSettings(activation="silu", head_activation="silu"),
    "unsegarmanet": ClustererSettings(
        layer="arma",
        activation="silu",
        head_activation="silu",
        n_stacks=2,
        n_layers=4,
        input_dropout=0.4,
    ),
    "unsegmedgat": ClustererSettings(
        layer="gat_series",
        activation="silu",
        head_activation="silu",
        dropout=0.2,
        attention_dropout=0.2,
    ),
    "grid_gcn": ClustererSettings(activation="silu", dropout=0.0),
    "grid_gat": ClustererSettings(layer="gat", activation="silu", dropout=0.0),
    "grid_arma": ClustererSettings(layer="arma", activation="silu", dropout=0.0),
}
"""Networks of the papers by name, and those of the grid of layers and losses."""
