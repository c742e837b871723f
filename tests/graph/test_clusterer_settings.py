from __future__ import annotations

from dataclasses import replace

import pytest

from graphnn_unet.errors import InputError
from graphnn_unet.graph import ClustererSettings
from graphnn_unet.graph.clusterer_settings import PRESETS


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"layer": "gin"}, "layer='gin'"),
        ({"activation": "tanh"}, "activation='tanh'"),
        ({"head_activation": "tanh"}, "head_activation='tanh'"),
        ({"hidden": 1}, "hidden=1: it starts at 2"),
        ({"n_heads": 0}, "n_heads=0: it starts at 1"),
        ({"n_heads": 3}, "heads share"),
        ({"n_stacks": 0}, "n_stacks=0"),
        ({"n_layers": 0}, "n_layers=0"),
        ({"dropout": 1.0}, "dropout=1.0: it starts at 0 and stays below 1"),
        ({"attention_dropout": -0.1}, "attention_dropout"),
        ({"input_dropout": 2.0}, "input_dropout"),
        ({"widths": ()}, "widths"),
        ({"widths": (8, 0)}, "widths"),
        ({"layer": "arma", "signed": True}, "signed"),
    ],
)
def test_what_cannot_be_built_is_refused_where_it_is_written(changes: dict, match: str):
    with pytest.raises(InputError, match=match):
        ClustererSettings(**changes)
    with pytest.raises(InputError, match=match):
        replace(PRESETS["deepcut"], **changes)


def test_presets_are_those_of_the_papers():
    assert PRESETS["unsegarmanet"].input_dropout == 0.4
    assert (PRESETS["unsegarmanet"].n_stacks, PRESETS["unsegarmanet"].n_layers) == (2, 4)
    assert PRESETS["unsegmedgat"].widths == (128, 64)
    assert {PRESETS[f"grid_{layer}"].layer for layer in ("gcn", "gat", "arma")} == {
        "gcn", "gat", "arma",
    }  # fmt: skip
