"""What a plan tells of how it was made."""

import pytest

from graphnn_unet.data.plan_files import planning_options


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ({}, "no options"),
        ({"recipe quick": {"batch": {"labeled": 4}}}, "--recipe quick"),
        (
            {
                "recipe my own.toml": {},
                "--set": {"batch": {"labeled": 2}, "loss": {"variant": "x"}},
            },
            "--recipe 'my own.toml' --set batch.labeled=2 loss.variant=x",
        ),
        (
            {"--set": {"plan": {"patch_size": [8, 8]}, "augmentation": {"mirror": False}}},
            "--set 'plan.patch_size=[8, 8]' augmentation.mirror=false",
        ),
    ],
)
def test_options_can_be_typed_again(layers, expected):
    assert planning_options({"gnnunet": {"layers": layers}}) == expected


def test_a_plan_of_nnunet_has_none():
    assert planning_options({"plans_name": "nnUNetPlans"}) is None
