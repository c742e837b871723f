"""Settings of clustering: presets, what does not go together, and the losses they name."""

import pytest

from graphnn_unet.clustering.losses import LOSSES
from graphnn_unet.clustering.settings import (
    METHODS,
    SECTIONS,
    ClusterSettings,
    FeatureSettings,
    PostProcessing,
    make_settings,
)
from graphnn_unet.errors import InputError
from graphnn_unet.settings import flag_of


def test_settings_that_cannot_be_used_are_told_together():
    with pytest.raises(
        InputError, match=r"cannot be used: n_clusters = 1 .*; alpha = -1.*; steps = 0"
    ):
        make_settings(n_clusters=1, steps=0, alpha=-1.0)
    with pytest.raises(InputError, match="method 'deep' is not known"):
        make_settings("deep")
    with pytest.raises(InputError, match="does not fit the method 'unseggnet'"):
        make_settings("unseggnet", layer="gat")
    with pytest.raises(InputError, match="--as-released does not fit"):
        make_settings("grid", as_released=True)
    with pytest.raises(InputError, match="signed edges"):
        make_settings(layer="gat", loss="cc", signed=True)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"tau": 1.5}, "tau = 1.5"),
        ({"lr": 10.0}, "lr = 10.0"),
        ({"seed": -1}, "seed = -1"),
        ({"balance_weight": -0.1}, "balance_weight"),
        ({"shared_steps": -1}, "shared_steps"),
        ({"graph": "sparse"}, "graph = 'sparse'"),
        ({"two_stage": True}, "two_stage needs 3 clusters"),
        ({"temperature": 1}, "temperature"),
        ({"loss": "mincut"}, "loss 'mincut' does not fit the method 'grid': use ncut, cc, dmon"),
        ({"layer": "gat_series"}, "use gcn, gat, arma"),
    ],
)
def test_each_setting_has_its_bounds(changes: dict, match: str):
    with pytest.raises(InputError, match=match):
        make_settings(**changes)


def test_none_leaves_the_value_of_the_method():
    assert make_settings("unsegmedgat", tau=None, steps=7).tau == 0.3
    assert make_settings("unsegmedgat", steps=7).steps == 7
    assert make_settings(layer="gat").method == "grid"
    assert make_settings(layer="gat").network == "grid_gat"


def test_released_presets_have_no_pull_against_one_cluster():
    for name in ("unseggnet", "unsegarmanet"):
        settings = make_settings(name, as_released=True)
        assert (settings.variant, settings.collapse, settings.assign) == (
            "released",
            False,
            "released",
        )
    assert make_settings("unsegmedgat", as_released=True).collapse
    assert make_settings("unsegmedgat").variant == "true"
    assert make_settings("unsegmedgat_c", as_released=True).steps_per_visit == 5


def test_edges_follow_the_method_and_not_the_layer():
    weighted = {name for name, settings in METHODS.items() if settings.edges == "cosine"}
    assert weighted == {"unsegmedgat", "unsegmedgat_c"}


def test_no_option_is_declared_twice_and_the_losses_are_those_of_the_registry():
    names = [name for section in SECTIONS for name in section.model_fields]
    assert len(names) == len(set(names))
    assert flag_of(ClusterSettings, "loss").choices == tuple(LOSSES)
    assert flag_of(ClusterSettings, "network") is None
    assert flag_of(FeatureSettings, "device").name == "-device"
    assert flag_of(PostProcessing, "fill_holes").name == "--keep-holes"
