"""Plans: only nnU-Net's own names, whole, in range, and all faults of one together."""

import copy
import json
from pathlib import Path

import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_study import DATASET

from graphnn_unet.errors import GraphnnError, InputError, UnsafeFileError
from graphnn_unet.models.load import build_network
from graphnn_unet.storage.plan_schema import check_plans
from graphnn_unet.storage.safe_load import read_json


@pytest.fixture(scope="module")
def plans(tiny_home) -> dict:
    return json.loads(
        (tiny_home / "preprocessed" / DATASET / "gnnunetPlans.json").read_text(encoding="utf-8")
    )


@pytest.fixture
def changed(plans):
    return copy.deepcopy(plans)


def architecture(plans: dict) -> dict:
    return plans["configurations"]["3d_fullres"]["architecture"]


def test_our_own_plan_passes_unchanged(plans):
    before = copy.deepcopy(plans)
    assert check_plans(plans, "plans.json") is plans
    assert plans == before


def stock_planners() -> dict:
    from nnunetv2.experiment_planning.experiment_planners import resencUNet_planner
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import (
        ExperimentPlanner,
    )
    from nnunetv2.experiment_planning.experiment_planners.resampling import (
        planners_no_resampling,
        resample_with_torch,
    )
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import (
        residual_encoder_unet_planners as residual,
    )

    planners = {"ExperimentPlanner": ExperimentPlanner}
    for module in (residual, resencUNet_planner, planners_no_resampling, resample_with_torch):
        planners |= {
            name: value
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, ExperimentPlanner)
        }
    return planners


def test_plans_of_all_planners_of_nnunet_are_accepted(tiny_copy, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    planners = stock_planners()
    assert {"nnUNetPlannerResEncM", "nnUNetPlannerResEncL", "nnUNetPlannerResEncXL"} <= set(
        planners
    )
    for name, planner in planners.items():
        with torch.device("meta"):  # no weights are needed
            planner(DATASET, plans_name=f"stock{name}").plan_experiment()
        path = tiny_copy / "preprocessed" / DATASET / f"stock{name}.json"
        assert check_plans(read_json(path), path)["plans_name"] == f"stock{name}"


@pytest.mark.parametrize(
    "name",
    [
        "torch.hub.load",
        "os.system",
        "subprocess.Popen",
        "builtins.exec",
        "my_module.Network",
        "dynamic_network_architectures.architectures.unet",
        "torch.nn.Linear",
        None,
        ["os.system"],
        {"a": 1},
    ],
)
def test_a_network_from_elsewhere_is_refused(changed, name):
    architecture(changed)["network_class_name"] = name
    with pytest.raises(UnsafeFileError, match=r"plans\.json is refused.*network_class_name"):
        check_plans(changed, "plans.json")


def test_a_layer_from_elsewhere_is_refused(changed):
    architecture(changed)["arch_kwargs"]["norm_op"] = "os.system"
    with pytest.raises(UnsafeFileError, match=r"arch_kwargs\.norm_op = 'os\.system'"):
        check_plans(changed, "plans.json")


def test_any_key_that_nnunet_would_import_is_looked_at(changed):
    architecture(changed)["arch_kwargs"]["n_stages"] = "os.system"
    architecture(changed)["_kw_requires_import"] = ["n_stages"]
    with pytest.raises(UnsafeFileError, match="n_stages"):
        check_plans(changed, "plans.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_reader_writer", "my_reader.Reader"),
        ("image_reader_writer", None),
        ("label_manager", "MyLabelManager"),
    ],
)
def test_a_foreign_reader_or_label_manager_is_refused(changed, key, value):
    changed[key] = value
    with pytest.raises(UnsafeFileError, match=key):
        check_plans(changed, "plans.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("preprocessor_name", "MyPreprocessor"),
        ("resampling_fn_data", "my_resampling"),
        ("resampling_fn_seg", ["resample_torch_simple"]),
        ("resampling_fn_probabilities", None),
        ("normalization_schemes", ["ZScoreNormalization", "MyNormalization"]),
    ],
)
def test_a_foreign_step_of_preprocessing_is_refused(changed, key, value):
    changed["configurations"]["2d"][key] = value
    with pytest.raises(UnsafeFileError, match=rf"configurations\.2d\.{key}"):
        check_plans(changed, "plans.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("patch_size", "large"),
        ("patch_size", []),
        ("patch_size", [0, 16, 16]),
        ("patch_size", [16.5, 16, 16]),
        ("batch_size", True),
        ("spacing", [1.0, -1.0, 1.0]),
        ("spacing", None),
        ("normalization_schemes", "ZScoreNormalization"),
        ("architecture", "PlainConvUNet"),
    ],
)
def test_values_of_the_wrong_type_are_named(changed, key, value):
    changed["configurations"]["3d_fullres"][key] = value
    with pytest.raises(InputError, match=rf"plans\.json is not an nnU-Net plan.*{key}"):
        check_plans(changed, "plans.json")


@pytest.mark.parametrize(
    "content", [None, [], "x", {}, {"configurations": []}, {"configurations": None}]
)
def test_a_file_that_is_no_plan_is_named(content):
    with pytest.raises(InputError, match=r"plans\.json is not an nnU-Net plan"):
        check_plans(content, Path("plans.json"))


def test_tables_that_are_none_are_named(changed):
    changed["configurations"]["mine"] = ["inherits_from"]
    with pytest.raises(InputError, match=r"configurations\.mine is no table"):
        check_plans(changed, "plans.json")
    del changed["configurations"]["mine"]
    architecture(changed)["arch_kwargs"] = []
    with pytest.raises(InputError, match="arch_kwargs is no table"):
        check_plans(changed, "plans.json")
    architecture(changed)["arch_kwargs"] = {}
    architecture(changed)["_kw_requires_import"] = [["conv_op"]]
    with pytest.raises(InputError, match=r"_kw_requires_import\.0 = \['conv_op'\]"):
        check_plans(changed, "plans.json")


def test_a_configuration_that_inherits_passes(changed):
    changed["configurations"]["mine"] = {"inherits_from": "3d_fullres", "batch_size": 8}
    check_plans(changed, "plans.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p.update(dataset_name="../../../escape"), "dataset_name = '../../../escape'"),
        (lambda p: p.update(transpose_forward=[0, 0, 1]), "are not inverse"),
        (lambda p: part(p).update(inherits_from="3d_fullres"), "inherits_from leads back"),
        (lambda p: part(p).update(inherits_from="4d"), "'4d' is no configuration of the plan"),
        (lambda p: part(p).pop("spacing"), "spacing is missing"),
        (lambda p: part(p).pop("architecture"), "architecture is missing"),
        (lambda p: part(p).update(patch_size=[4096] * 3), "larger than any memory"),
        (lambda p: keywords(p).pop("n_stages"), "n_stages is missing"),
        (lambda p: keywords(p).update(n_stages=2), "features_per_stage has 3 values, not 2"),
        (lambda p: keywords(p).update(features_per_stage="all"), "features_per_stage is no list"),
        (lambda p: keywords(p).update(features_per_stage=[10**6] * 3), "features_per_stage.0"),
        (lambda p: keywords(p).update(features_per_stage=[4096] * 3), "a network of"),
        (lambda p: keywords(p).update(strides=[[0, 1, 1]] * 3), "kernel or stride of [0, 1, 1]"),
        (lambda p: p["gnnunet"].update(recipes=[]), "gnnunet.recipes is no table"),
    ],
)
def test_what_nnunet_would_stumble_over_is_named(changed, change, words):
    change(changed)
    with pytest.raises(InputError) as caught:
        check_plans(changed, "plans.json")
    assert words in str(caught.value)


def part(plans: dict) -> dict:
    return plans["configurations"]["3d_fullres"]


def keywords(plans: dict) -> dict:
    return architecture(plans)["arch_kwargs"]


def test_an_old_plan_must_name_a_network_that_nnunet_knows(changed):
    part(changed).pop("architecture")
    part(changed)["UNet_class_name"] = "os.system"
    with pytest.raises(UnsafeFileError, match="UNet_class_name"):
        check_plans(changed, "plans.json")
    part(changed)["UNet_class_name"] = "PlainConvUNet"
    with pytest.raises(InputError) as caught:
        check_plans(changed, "plans.json")
    assert len(caught.value.lines) == 7
    part(changed).update(
        UNet_base_num_features=4, unet_max_num_features=8, n_conv_per_stage_encoder=[2, 2],
        n_conv_per_stage_decoder=[2], num_pool_per_axis=[1, 1, 1],
        pool_op_kernel_sizes=[[1, 1, 1], [2, 2, 2]], conv_kernel_sizes=[[3, 3, 3], [3, 3, 3]],
    )  # fmt: skip
    check_plans(changed, "plans.json")


def test_all_faults_of_a_plan_are_told_together(changed):
    changed["image_reader_writer"] = "evil.Reader"
    part(changed)["batch_size"] = -1
    changed["configurations"]["2d"]["inherits_from"] = "4d"
    keywords(changed)["conv_op"] = "os.system"
    with pytest.raises(UnsafeFileError) as caught:
        check_plans(changed, "plans.json")
    lines = caught.value.lines
    assert len(lines) == 4
    for word in ("evil.Reader", "batch_size = -1", "inherits_from = '4d'", "conv_op = 'os.system'"):
        assert sum(word in line for line in lines) == 1


def places(value: object, path: tuple = ()) -> list[tuple]:
    """All paths into a plan, but for the recipes, which have schemas of their own."""
    if not isinstance(value, (dict, list)):
        return []
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    below = [((*path, key), item) for key, item in inside if key != "gnnunet"]
    return [place for here, item in below for place in (here, *places(item, here))]


def test_a_plan_with_any_value_replaced_is_refused_or_builds_a_network(plans, tiny_home):
    """Neither nnU-Net nor the network may stumble over what the check lets pass."""
    description = read_json(tiny_home / "preprocessed" / DATASET / "dataset.json")
    passed = refused = 0
    values = (None, True, -1, 10**30, 1.5, float("nan"), "x", [], {}, [[]])
    for place in places(plans):
        if "2d" in place:
            continue
        for value in values:
            changed = copy.deepcopy(plans)
            table = changed
            for key in place[:-1]:
                table = table[key]
            table[place[-1]] = value
            try:
                check_plans(changed, "plans.json")
            except GraphnnError as error:
                assert "plans.json" in error.line  # noqa: PT017  # both outcomes are right
                refused += 1
                continue
            passed += 1
            if "architecture" in place or "patch_size" in place:
                with torch.device("meta"):
                    try:
                        build_network(
                            "SupervisedTrainer", PlansManager(changed), "3d_fullres", description
                        )
                    except InputError:
                        continue
    assert refused > 2 * passed > 0
