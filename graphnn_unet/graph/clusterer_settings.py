"""What the published clustering networks are made of, and their presets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
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


def _at_least(smallest: float, default: int | float) -> int:
    """A number that must not be smaller."""
    return field(default=default, metadata={"at_least": smallest})  # type: ignore[return-value]


def _share(default: float) -> float:
    """A probability below 1."""
    return field(default=default, metadata={"at_least": 0, "below": 1})


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
    hidden: int = _at_least(2, 64)
    activation: Activation = "elu"
    head_activation: Activation = "elu"
    dropout: float = _share(0.25)
    signed: bool = False
    n_heads: int = _at_least(1, 1)
    attention_dropout: float = _share(0.0)
    n_stacks: int = _at_least(1, 1)
    n_layers: int = _at_least(1, 1)
    input_dropout: float = _share(0.0)
    widths: tuple[int, ...] = (128, 64)
    project_all: bool = False

    def __post_init__(self) -> None:
        for name, words in _WORDS.items():
            check_choice(name, getattr(self, name), words)
        for item in fields(self):
            value, bounds = getattr(self, item.name), item.metadata
            if bounds and not bounds["at_least"] <= value < bounds.get("below", float("inf")):
                range_text = f"it starts at {bounds['at_least']}"
                if "below" in bounds:
                    range_text += f" and stays below {bounds['below']}"
                raise InputError(f"{item.name}={value}", range_text)
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
