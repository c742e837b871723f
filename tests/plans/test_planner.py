"""Plans are nnU-Net's, with room for four student patches and the recipe's own sizes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
    ExperimentPlanner,
)
from nnunetv2.utilities import utils as nnunet_utils
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_study import DATASET, use_home, write_image

from graphnn_unet.errors import InputError, RecipeError
from graphnn_unet.plans.planner import MEMORY_OF_STEP, PLANNERS, make_plans, run_recipe
from graphnn_unet.plans.recipe import load_recipe, parse_overrides, resolved_configuration
from graphnn_unet.storage.plan_schema import check_plans
from graphnn_unet.trainers.copy_paste import box_edges

LEFT_ATRIUM = ((88, 576, 576), (0.625, 0.625, 0.625))
HEART = ((10, 256, 216), (10.0, 1.5625, 1.5625))
SMALL = ((40, 48, 56), (1.0, 1.0, 1.0))
SAGITTAL = ((256, 256, 20), (0.8, 0.8, 4.0))
PICTURES = ((1, 512, 512), (999.0, 1.0, 1.0))
N_LABELED = 4


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Makes a data set out of a fingerprint alone; returns its preprocessed folder."""
    home = use_home(tmp_path / "home", monkeypatch)

    def make(shape, spacing, n_channels=1, labels=3) -> Path:
        raw = home / "raw" / DATASET
        for case in range(N_LABELED):
            for channel in range(n_channels):
                write_image(
                    raw / "imagesTr" / f"case_{case}_{channel:04d}.nii.gz",
                    np.zeros((2, 2, 2), np.float32),
                )
            write_image(raw / "labelsTr" / f"case_{case}.nii.gz", np.zeros((2, 2, 2), np.uint8))
        description = {
            "channel_names": {str(c): "MR" for c in range(n_channels)},
            "labels": {"background": 0} | {f"class {i}": i for i in range(1, labels)},
            "numTraining": N_LABELED,
            "file_ending": ".nii.gz",
        }
        (raw / "dataset.json").write_text(json.dumps(description))
        intensities = dict.fromkeys(
            ("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5"), 1.0
        )
        fingerprint = {
            "spacings": [list(spacing)] * N_LABELED,
            "shapes_after_crop": [list(shape)] * N_LABELED,
            "foreground_intensity_properties_per_channel": {
                str(c): intensities for c in range(n_channels)
            },
            "median_relative_size_after_cropping": 1.0,
        }
        target = home / "preprocessed" / DATASET
        target.mkdir(parents=True, exist_ok=True)
        (target / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))
        return target

    return make


def planned(*overrides: str, **keywords) -> dict:
    layers = {"--set": parse_overrides(overrides)} if overrides else {}
    return make_plans(DATASET, layers=layers, **keywords)[0]


def named(name: str, *overrides: str) -> dict:
    layers = {f"recipe {name}": load_recipe(name), "--set": parse_overrides(overrides)}
    return make_plans(DATASET, layers=layers)[0]


def patch_of(plans: dict, configuration: str) -> list[int]:
    return [int(edge) for edge in plans["configurations"][configuration]["patch_size"]]


# ----------------------------------------------------------------------- published sizes


@pytest.mark.parametrize(
    ("name", "scan", "configuration", "patch", "box", "labeled"),
    [
        ("la", LEFT_ATRIUM, "3d_fullres", [80, 112, 112], (53, 74, 74), 4),
        ("la_paper", LEFT_ATRIUM, "3d_fullres", [80, 112, 112], (53, 74, 74), 4),
        ("pancreas", ((230, 400, 400), (1.0, 0.8, 0.8)), "3d_fullres", [96] * 3, (64,) * 3, 4),
        ("acdc", HEART, "2d", [256, 256], (170, 170), 12),
    ],
)
def test_sizes_of_the_papers(study, name, scan, configuration, patch, box, labeled):
    study(*scan)
    plans = named(name)
    recipe = run_recipe(plans, configuration)
    assert patch_of(plans, configuration) == patch
    assert box_edges(patch, recipe.as_dict()["copy_paste"]["box_fraction"]) == box
    assert plans["configurations"][configuration]["batch_size"] == labeled
    assert (recipe.batch.labeled, recipe.batch.unlabeled) == (labeled, labeled)
    expected = recipe.plan.spacing or [1.5625, 1.5625]
    assert list(plans["configurations"][configuration]["spacing"]) == expected


def test_the_recipe_of_one_configuration_leaves_the_others_to_the_planner(study):
    study(*LEFT_ATRIUM)
    assert patch_of(named("la"), "2d") == patch_of(planned(), "2d")


# ------------------------------------------------------------------- memory and batch


@pytest.mark.parametrize("scan", [LEFT_ATRIUM, HEART, SMALL], ids=["atrium", "heart", "small"])
def test_four_student_patches_fit_the_memory_target(study, scan):
    study(*scan)
    plans = planned()
    for name, estimate in plans["gnnunet"]["memory_gb"].items():
        assert plans["configurations"][name]["batch_size"] >= 4
        assert estimate <= 8.0


def test_the_estimate_is_that_of_nnunet_scaled_as_measured(study, monkeypatch):
    study(*LEFT_ATRIUM)
    plans = planned()
    configuration = plans["configurations"]["3d_fullres"]
    architecture = configuration["architecture"]
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")  # nnU-Net's planner refuses 0
    maps = ExperimentPlanner.static_estimate_VRAM_usage(
        configuration["patch_size"], 1, 3, architecture["network_class_name"],
        architecture["arch_kwargs"], architecture["_kw_requires_import"],
    )  # fmt: skip
    # nnU-Net's reference: 560 million values for a batch of two take 8 GB
    expected = maps / 560e6 * 8 * MEMORY_OF_STEP * configuration["batch_size"] / 4
    assert plans["gnnunet"]["memory_gb"]["3d_fullres"] == pytest.approx(expected, abs=0.01)


def test_the_patch_is_smaller_than_nnunets_own_for_two(study, monkeypatch):
    study(*LEFT_ATRIUM)
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")  # nnU-Net's planner refuses 0
    with torch.device("meta"):  # no weights are needed
        stock = ExperimentPlanner(DATASET, plans_name="stockPlans").plan_experiment()
    stock_patch = stock["configurations"]["3d_fullres"]["patch_size"]
    ours = patch_of(planned(), "3d_fullres")
    assert 0.3 < np.prod(ours) / np.prod(stock_patch) < 0.75


def test_more_memory_gives_a_larger_patch(study):
    study(*LEFT_ATRIUM)
    sizes = []
    for gb in (2, 8, 24):
        plans = planned(f"plan.gpu_memory_gb={gb}")
        sizes.append(int(np.prod(patch_of(plans, "3d_fullres"))))
        assert plans["gnnunet"]["memory_gb"]["3d_fullres"] <= gb
        assert plans["configurations"]["3d_fullres"]["batch_size"] >= 4
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_narrow_network_costs_less(study):
    study(*SMALL)
    wide = planned()["gnnunet"]["memory_gb"]["3d_fullres"]
    plans = planned("network.base_features=8", "network.max_features=16")
    assert plans["gnnunet"]["memory_gb"]["3d_fullres"] < wide / 2
    features = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert list(features["features_per_stage"])[:3] == [8, 16, 16]


def test_unlabeled_scans_count_for_the_largest_batch(study):
    """nnU-Net bounds a batch by 5 % of all voxels; the unlabeled ones are seen as well."""
    study((16, 40, 40), (1.0, 1.0, 1.0))
    few = planned()["configurations"]["3d_fullres"]["batch_size"]
    many = planned(n_unlabeled=400)["configurations"]["3d_fullres"]["batch_size"]
    assert few == 4
    assert many > 4
    assert many % 2 == 0


def test_a_batch_of_the_recipe_holds_whichever_layer_gives_it(study):
    study(*SMALL)
    layers = {"recipe a": {"batch": {"labeled": 6}}, "--set": {"batch": {"unlabeled": 8}}}
    plans, _ = make_plans(DATASET, layers=layers)
    assert plans["configurations"]["3d_fullres"]["batch_size"] == 6
    recipe = run_recipe(plans, "3d_fullres")
    assert (recipe.batch.labeled, recipe.batch.unlabeled) == (6, 8)


def test_a_small_batch_of_the_recipe_is_respected(study):
    study(*SMALL)
    assert planned("batch.labeled=2")["configurations"]["3d_fullres"]["batch_size"] == 2


# ------------------------------------------------------------- residual encoder planners


@pytest.mark.parametrize(("planner", "gb"), [("resenc_m", 8), ("resenc_l", 24), ("resenc_xl", 40)])
def test_residual_planners_have_their_own_network_names_and_memory(study, planner, gb):
    target = study(*LEFT_ATRIUM)
    plans = planned(planner=planner)
    name = PLANNERS[planner][1]
    assert (target / f"{name}.json").is_file()
    assert plans["plans_name"] == name
    assert plans["gnnunet"]["planner"] == planner
    assert {"2d", "3d_fullres"} <= set(plans["gnnunet"]["recipes"])
    for key in plans["gnnunet"]["recipes"]:
        configuration = plans["configurations"][key]
        assert configuration["data_identifier"] == f"{name}_{key}"
        assert configuration["architecture"]["network_class_name"].endswith(".ResidualEncoderUNet")
        assert plans["gnnunet"]["memory_gb"][key] <= gb
    assert plans["gnnunet"]["memory_gb"]["3d_fullres"] > gb / 2
    check_plans(json.loads((target / f"{name}.json").read_text(encoding="utf-8")), name)


def test_a_patch_of_the_recipe_works_with_residual_encoders(study):
    study(*SMALL)
    plans = planned("plan.patch_size=[32,32,32]", "network.max_stages=3", planner="resenc_m")
    kwargs = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert kwargs["n_stages"] == 3
    assert list(kwargs["n_blocks_per_stage"]) == [1, 3, 4]
    assert "n_conv_per_stage" not in kwargs
    assert forward(plans, "3d_fullres")[0].shape == (1, 3, 32, 32, 32)


def test_an_unknown_planner_is_refused(study):
    study(*SMALL)
    with pytest.raises(RecipeError, match=r"planner 'large' is unknown\. Use default, resenc_m"):
        planned(planner="large")


# ------------------------------------------------------------------ nnU-Net reads the plan


def forward(plans: dict, name: str) -> list[torch.Tensor]:
    """Outputs of the network that stock nnU-Net builds from the plan."""
    configuration = PlansManager(json.loads(json.dumps(plans))).get_configuration(name)
    network = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        1,
        3,
        deep_supervision=True,
    )
    with torch.no_grad():
        return network(torch.zeros(1, 1, *configuration.patch_size))


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_stock_nnunet_builds_the_network_of_the_plan(study, configuration):
    target = study(*SMALL)
    planned("network.base_features=4", "network.max_features=8")
    plans = json.loads((target / "gnnunetPlans.json").read_text(encoding="utf-8"))
    outputs = forward(plans, configuration)
    patch = tuple(plans["configurations"][configuration]["patch_size"])
    assert outputs[0].shape == (1, 3, *patch)
    manager = PlansManager(str(target / "gnnunetPlans.json"))
    assert manager.get_configuration(configuration).batch_size >= 4
    assert manager.dataset_name == DATASET


@pytest.mark.parametrize("max_stages", [2, 3, 4])
def test_stages_are_bounded(study, max_stages):
    study(*SMALL)
    plans = planned(
        f"network.max_stages={max_stages}", "network.base_features=4", "plan.patch_size=[32,32,32]"
    )
    kwargs = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert kwargs["n_stages"] == max_stages
    for key in ("features_per_stage", "strides", "kernel_sizes", "n_conv_per_stage"):
        assert len(kwargs[key]) == max_stages
    assert len(kwargs["n_conv_per_stage_decoder"]) == max_stages - 1
    outputs = forward(plans, "3d_fullres")
    assert len(outputs) == max_stages - 1
    assert outputs[0].shape[2:] == (32, 32, 32)


def test_fewer_stages_allow_sizes_that_more_would_not(study):
    study(*SMALL)
    with pytest.raises(RecipeError, match="cannot be pooled evenly"):
        planned("plan.patch_size=[18,18,18]")
    plans = planned("plan.patch_size=[18,18,18]", "network.max_stages=2")
    assert patch_of(plans, "3d_fullres") == [18, 18, 18]


@pytest.mark.parametrize(
    ("patch", "nearest"),
    [
        ([30, 32, 32], [32, 32, 32]),
        ([33, 32, 32], [32, 32, 32]),
        ([31, 47, 50], [32, 48, 48]),
        ([100, 100, 100], [96, 96, 96]),
    ],
)
def test_a_patch_that_cannot_be_pooled_is_refused_with_the_nearest(study, patch, nearest):
    study(*SMALL)
    text = str(patch).replace(" ", "")
    with pytest.raises(RecipeError) as caught:
        planned(f"plan.patch_size={text}")
    assert f"plan.patch_size = {patch} cannot be pooled evenly" in caught.value.line
    assert f"The nearest size is {nearest}." in caught.value.line
    assert patch_of(planned(f"plan.patch_size={str(nearest).replace(' ', '')}"), "3d_fullres") == (
        nearest
    )


def test_a_patch_with_the_wrong_number_of_axes_is_refused(study):
    study(*SMALL)
    with pytest.raises(RecipeError, match="does not fit configuration 2d: it has 2 axes"):
        planned("plan.patch_size=[16,16,16]", "plan.configuration=2d")


def test_a_volume_patch_for_pictures_is_refused(study):
    study(*PICTURES)
    with pytest.raises(RecipeError, match="fits no configuration: the data allow 2d"):
        planned("plan.patch_size=[16,16,16]")
    assert patch_of(planned("plan.patch_size=[64,64]"), "2d") == [64, 64]


# --------------------------------------------------------------- spacing and large images


def test_large_images_get_a_coarse_configuration_and_a_cascade(study):
    study((400, 512, 512), (1.0, 0.8, 0.8))
    plans = planned()
    names = {"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"}
    assert set(plans["configurations"]) == names
    coarse, fine = (plans["configurations"][k]["spacing"] for k in ("3d_lowres", "3d_fullres"))
    assert all(a > b for a, b in zip(coarse, fine, strict=True))
    assert set(plans["gnnunet"]["recipes"]) == names - {"3d_cascade_fullres"}
    manager = PlansManager(plans)
    assert manager.get_configuration("3d_cascade_fullres").previous_stage_name == "3d_lowres"
    assert run_recipe(plans, "3d_cascade_fullres") == run_recipe(plans, "3d_fullres")


def test_small_images_get_none(study):
    study(*SMALL)
    assert set(planned()["configurations"]) == {"2d", "3d_fullres"}


def test_pictures_get_2d_alone(study):
    study(*PICTURES)
    assert set(planned()["configurations"]) == {"2d"}


def test_the_spacing_of_the_recipe_is_planned(study):
    study(*HEART)
    plans = planned("plan.spacing=[5.0,1.0,1.0]")
    assert list(plans["configurations"]["3d_fullres"]["spacing"]) == [5.0, 1.0, 1.0]
    assert list(plans["configurations"]["2d"]["spacing"]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("scan", "spacing"), [(HEART, [10.0, 2.0, 3.0]), (SAGITTAL, [4.0, 2.0, 3.0])]
)
def test_two_spacings_are_those_inside_a_slice(study, scan, spacing):
    study(*scan)
    plans = planned("plan.spacing=[2.0,3.0]")
    assert list(plans["configurations"]["3d_fullres"]["spacing"]) == spacing
    assert list(plans["configurations"]["2d"]["spacing"]) == [2.0, 3.0]


def test_coarse_pixels_do_not_change_the_slice_axis(study):
    study(*SAGITTAL)
    plans = planned("plan.spacing=[6.0,6.0]")
    assert plans["transpose_forward"] == [2, 0, 1]
    assert plans["transpose_backward"] == [1, 2, 0]
    assert list(plans["configurations"]["2d"]["spacing"]) == [6.0, 6.0]


# ------------------------------------------------------------- what is measured on the data


def test_what_is_measured_depends_on_the_slice_axis_of_the_plan(study):
    study(*SAGITTAL)

    def derive(slice_axis: int) -> dict:
        in_slices, in_volume = {"1": slice_axis == 2}, {"1": False}
        return {
            "2d": {"pseudo_label": {"largest_component": in_slices}},
            "3d_fullres": {"pseudo_label": {"largest_component": in_volume}},
        }

    plans = planned(derive=derive)
    assert run_recipe(plans, "2d").as_dict()["pseudo_label"]["largest_component"] == {"1": True}
    assert run_recipe(plans, "3d_fullres").as_dict()["pseudo_label"]["largest_component"] == {
        "1": False
    }
    forced = planned("pseudo_label.largest_component=true", derive=derive)
    assert run_recipe(forced, "3d_fullres").as_dict()["pseudo_label"]["largest_component"] is True


# ----------------------------------------------------------------- users' configurations


def test_configurations_of_the_user_are_kept_and_described(study):
    target = study(*SMALL)
    path = target / "gnnunetPlans.json"
    planned()
    plans = json.loads(path.read_text(encoding="utf-8"))
    mine = {"inherits_from": "3d_fullres", "batch_size": 8}
    plans["configurations"]["mine"] = mine
    plans["configurations"]["3d_lowres"] = {"inherits_from": "3d_fullres"}  # not planned any more
    path.write_text(json.dumps(plans))

    def derive(_axis: int) -> dict:
        return {"3d_fullres": {"pseudo_label": {"largest_component": {"1": False}}}}

    again = planned(derive=derive)
    assert again["configurations"]["mine"] == mine
    assert "3d_lowres" not in again["configurations"]
    gnnunet_key = again["gnnunet"]
    assert gnnunet_key["recipes"]["mine"]["batch"] == {"labeled": 8, "unlabeled": 8}
    assert gnnunet_key["recipes"]["mine"]["pseudo_label"]["largest_component"] == {"1": False}
    batch = again["configurations"]["3d_fullres"]["batch_size"]
    ratio = gnnunet_key["memory_gb"]["mine"] / gnnunet_key["memory_gb"]["3d_fullres"]
    assert ratio == pytest.approx(8 / batch, rel=0.1)


@pytest.mark.parametrize("batch", [2, 3])
def test_a_small_batch_of_the_user_is_the_same_before_and_after_planning(study, batch):
    path = study(*SMALL) / "gnnunetPlans.json"
    plans = planned()
    plans["configurations"]["mine"] = {"inherits_from": "3d_fullres", "batch_size": batch}
    path.write_text(json.dumps(plans))
    before = run_recipe(plans, "mine").batch.labeled
    assert run_recipe(planned(), "mine").batch.labeled == before == 4


def test_a_configuration_added_after_planning_takes_over_what_was_measured(study):
    study(*SMALL)
    plans = planned(
        derive=lambda _: {"3d_fullres": {"pseudo_label": {"largest_component": {"1": False}}}}
    )
    plans["configurations"]["wide"] = {"inherits_from": "3d_fullres", "batch_size": 10}
    plans["configurations"]["same"] = {"inherits_from": "wide"}
    for name in ("wide", "same"):
        recipe = run_recipe(plans, name)
        assert recipe.batch.labeled == 10
        assert recipe.as_dict()["pseudo_label"]["largest_component"] == {"1": False}


def test_a_circle_of_configurations_is_named(study):
    study(*SMALL)
    plans = planned()
    plans["configurations"]["a"] = {"inherits_from": "b"}
    plans["configurations"]["b"] = {"inherits_from": "a"}
    with pytest.raises(InputError, match="'a' inherits from itself"):
        resolved_configuration(plans, "a")
    with pytest.raises(InputError, match=r"'c' is not in it.*The plan has 2d"):
        resolved_configuration(plans, "c")


def test_inheritance_is_that_of_nnunet(study):
    study((400, 512, 512), (1.0, 0.8, 0.8))
    plans = planned()
    ours = resolved_configuration(plans, "3d_cascade_fullres")
    theirs = PlansManager(plans).get_configuration("3d_cascade_fullres").configuration
    assert {k: v for k, v in theirs.items() if k != "inherits_from"}.keys() == ours.keys()
    assert ours["patch_size"] == theirs["patch_size"]


# ------------------------------------------------------------------------ plans of nnU-Net


def test_a_plan_of_stock_nnunet_gets_at_least_four_patches():
    plans = {"configurations": {"a": {"batch_size": 2}, "b": {"batch_size": 9}}}
    assert run_recipe(plans, "a").batch.labeled == 4
    assert run_recipe(plans, "b").batch.labeled == 10
    assert run_recipe(plans, "b", {"batch": {"labeled": 6}}).batch.labeled == 6
    assert run_recipe(plans, "a").as_dict()["pseudo_label"]["largest_component"] is True


def test_layers_of_the_run_win_over_those_of_the_plan(study):
    study(*SMALL)
    plans = planned("optimizer.lr=0.1", "optimizer.momentum=0.5")
    recipe = run_recipe(plans, "3d_fullres", {"optimizer": {"lr": 0.2}}, {"loss": {}})
    assert (recipe.optimizer.lr, recipe.optimizer.momentum) == (0.2, 0.5)


def test_the_plan_holds_the_resolved_recipe(study):
    target = study(*SMALL)
    planned("optimizer.lr=0.1")
    plans = json.loads((target / "gnnunetPlans.json").read_text(encoding="utf-8"))
    assert plans["gnnunet"]["schema_version"] == 1
    for name, recipe in plans["gnnunet"]["recipes"].items():
        trained = run_recipe(plans, name).as_dict()
        assert {section: trained[section] for section in recipe} == recipe
        assert {"batch", "optimizer"} <= recipe.keys()
        assert recipe["optimizer"]["lr"] == 0.1


# --------------------------------------------------------------------------- same and safe


def test_two_plannings_write_the_same_bytes(study):
    target = study(*HEART)
    contents = []
    for _ in range(2):
        planned()
        contents.append((target / "gnnunetPlans.json").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("value", ["0", None, "3"])
def test_planning_works_without_augmentation_workers(study, monkeypatch, value):
    """nnU-Net's planner ends with a RuntimeError when nnUNet_n_proc_DA is 0."""
    study(*SMALL)
    if value is None:
        monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    else:
        monkeypatch.setenv("nnUNet_n_proc_DA", value)
    planned()
    assert os.environ.get("nnUNet_n_proc_DA") == value


def test_planning_leaves_the_number_of_threads(study):
    study(*SMALL)
    before = torch.get_num_threads()
    planned()
    assert torch.get_num_threads() == before


def test_planning_is_silent_and_returns_nnunets_account(study, capsys):
    study(*SMALL)
    _, account = make_plans(DATASET)
    assert "3D fullres U-Net configuration" in account
    assert capsys.readouterr().out == ""


def test_planning_starts_no_processes(study, monkeypatch):
    """nnU-Net starts twelve to list the files of a folder."""
    study(*SMALL)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a process was started"), raising=False)
    before = nnunet_utils.Pool
    planned()
    assert nnunet_utils.Pool is before


# --------------------------------------------------------------- tiny and thin scans


@pytest.mark.parametrize(
    ("shape", "spacing", "name", "patch"),
    [
        ((7, 7, 7), (1.0, 1.0, 1.0), "3d_fullres", [8, 8, 8]),
        ((7, 7, 7), (1.0, 1.0, 1.0), "2d", [8, 8]),
        ((2, 3, 2), (1.0, 1.0, 1.0), "3d_fullres", [8, 8, 8]),
        ((5, 6, 7), (5.0, 1.0, 1.0), "3d_fullres", [5, 8, 8]),
        ((7, 7, 7), (1.0, 5.0, 5.0), "3d_fullres", [7, 7, 12]),
        ((1, 1, 1), (1.0, 1.0, 1.0), "2d", [8, 8]),
    ],
)
def test_tiny_scans_are_padded_to_what_a_network_can_pool(study, shape, spacing, name, patch):
    study(shape, spacing)
    configuration = planned()["configurations"][name]
    assert sorted(configuration["patch_size"]) == sorted(patch)
    network = configuration["architecture"]["arch_kwargs"]
    assert network["n_stages"] == len(network["strides"]) == 2
    assert np.prod(network["strides"][1]) > 1


def test_patch_that_leaves_nothing_to_pool_is_refused(study):
    study(*SMALL)
    with pytest.raises(RecipeError, match=r"\[7, 7, 7\] leaves nothing to pool.*\[8, 8, 8\]"):
        planned("plan.patch_size=[7,7,7]")
