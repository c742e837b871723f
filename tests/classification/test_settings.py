import argparse
import math

import pytest

from graphnn_unet.classification.settings import ClassifySettings
from graphnn_unet.commands._command import add_settings, given_settings
from graphnn_unet.errors import InputError
from graphnn_unet.settings import make_section


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mode", "two-pass"), ("p", 3), ("variation", "cut"), ("dropout", 1.0), ("rounds", 0),
        ("gamma", 0.0), ("learning_rate", float("inf")), ("image_size", 8), ("batch_size", 0),
        ("a_max", -1.0), ("descriptor_share", 1.5), ("augmentation", "strong"),
        ("averaging", 1.0), ("validation_share", 1.0), ("n_neighbors", -1), ("tta", 0),
        ("symmetrize", "min"), ("seed", -1), ("patience", 0), ("prior", 1), ("rounds", 2.5),
        ("alpha", 1.0), ("alpha", -0.1), ("alpha", 1.5), ("alpha", math.nan),
    ],
)  # fmt: skip
def test_values_that_cannot_be_used_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"^{name} = "):
        make_section(ClassifySettings, {name: value})


def test_limits_that_are_allowed():
    allowed = {"alpha": 0, "image_size": 16, "descriptor_share": 1, "a_max": 0.0, "dropout": 0.0}
    assert make_section(ClassifySettings, allowed).image_size == 16


def test_settings_of_older_versions_and_typing_errors_are_told():
    with pytest.raises(InputError, match="trust = 'all' cannot be used: no setting is called so"):
        make_section(ClassifySettings, {"trust": "all"})
    with pytest.raises(InputError, match="near names: rounds"):
        make_section(ClassifySettings, {"round": 3})


def test_number_of_neighbors_follows_the_images():
    settings = ClassifySettings()
    assert [settings.neighbors(n) for n in (50, 400, 5000)] == [10, 20, 50]
    assert ClassifySettings(n_neighbors=7).neighbors(5000) == 7


def test_every_setting_has_a_flag_and_those_of_former_versions_stay():
    parser = argparse.ArgumentParser()
    add_settings(parser, ClassifySettings)
    words = (
        "--mode one-pass --p 1 --variation ratio --k 9 --descriptors 0.5 --gamma 3 "
        "--symmetrize max --alpha 0.8 --prior --final-uses-validation --image-size 32 "
        "--batch-size 4 --lr 0.01 --averaging 0 --dropout 0.1 --epochs 3 --patience 2 --rounds 4 "
        "--round-patience 1 --validation-share 0.2 --a-max 0.5 --tta 2 "
        "--augmentation any-orientation --seed 7 --min-steps 2 --ramp-rounds 1"
    )
    given = given_settings(parser.parse_args(words.split()), ClassifySettings)
    assert set(given) == set(ClassifySettings.model_fields)
    settings = make_section(ClassifySettings, given)
    assert settings.n_neighbors == 9
    assert settings.descriptor_share == 0.5
    assert settings.learning_rate == 0.01
    assert settings.max_epochs == 3
    assert given_settings(parser.parse_args([]), ClassifySettings) == {}
