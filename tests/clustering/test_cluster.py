"""The function behind the command."""

import json

import numpy as np
import pytest
from pictures import QUICK, read

import graphnn_unet
from graphnn_unet.clustering.settings import make_settings
from graphnn_unet.errors import InputError, RefusedError


@pytest.mark.parametrize("options", [
    {"method": "deepcut", "cell": 4}, {"method": "unseggnet", "as_released": True, "cell": 4},
    {"method": "unsegmedgat_c", "cell": 8, "shared_steps": 2, "steps": 3},
    {"layer": "gat", "loss": "ncut", "cell": 4}, {"refine": True}, {"features": "hand"},
])  # fmt: skip
def test_methods_and_features_run_through(folder, tmp_path, options):
    for name in ("p1.png", "p2.png"):
        (folder / name).unlink()
    result = graphnn_unet.cluster(folder, tmp_path / "out", **{**QUICK, **options})
    labels = read(tmp_path / "out" / "p0.png")
    assert result.clustered == ["p0"]
    assert set(np.unique(labels)) <= {0, 1}


def test_options_that_would_do_nothing_are_refused(folder, tmp_path):
    for options, match in (
        ({"features": "dino"}, "needs a weight file"),
        ({"features": "encoder"}, "'encoder' are not known: there are auto, border, hand, dino"),
        ({"features": "self"}, "'self' are not known"),
        ({"features": "hand", "dino": "x.pth"}, "--dino does not go with --features hand"),
        ({"stride": 4}, "--stride does not go with"),
        ({"features": "deep"}, "are not known"),
        ({"cell": 0}, "cannot be used"),
    ):
        with pytest.raises(InputError, match=match):
            graphnn_unet.cluster(folder, tmp_path / "out", **{**QUICK, "side": None, **options})
    assert not (tmp_path / "out").exists()


def test_settings_may_come_whole_and_be_changed_by_name(folder, tmp_path):
    settings = make_settings("deepcut", steps=2)
    graphnn_unet.cluster(
        folder, tmp_path / "out", settings, cell=8, side=56, n_workers=0, clusters=3
    )
    facts = json.loads((tmp_path / "out" / "clustering.json").read_text(encoding="utf-8"))
    assert (facts["settings"]["method"], facts["settings"]["n_clusters"]) == ("deepcut", 3)
    assert facts["finish"]["merge"] is False
    assert not facts["finish"]["main_components"]


def test_misspelled_options_are_named_with_the_nearest_one(folder, tmp_path):
    with pytest.raises(InputError, match=r"has no option 'fill_hole': near names: fill_holes"):
        graphnn_unet.cluster(folder, tmp_path / "out", fill_hole=True)
    with pytest.raises(InputError, match="n_workers = -1 cannot be used"):
        graphnn_unet.cluster(folder, tmp_path / "out", **{**QUICK, "n_workers": -1})


def test_folders_of_an_older_version_go_on(folder, tmp_path):
    out = tmp_path / "out"
    graphnn_unet.cluster(folder, out, **QUICK)
    facts = json.loads((out / "clustering.json").read_text(encoding="utf-8"))
    for name in ("edges", "as_released"):  # settings that came later
        del facts["settings"][name]
    (out / "clustering.json").write_text(json.dumps(facts))
    assert graphnn_unet.cluster(folder, out, **QUICK).kept == ["p0", "p1", "p2"]
    with pytest.raises(RefusedError, match=r"finish\.fill_holes True there, False here"):
        graphnn_unet.cluster(folder, out, **QUICK, fill_holes=False)
