"""Corrections are applied in the recipe's order, before the clean-up."""

import pytest
import torch

from graphnn_unet import pseudo_labels
from graphnn_unet.errors import RecipeError
from graphnn_unet.plans.recipe import resolve
from graphnn_unet.pseudo_labels import corrector_class, known_correctors
from graphnn_unet.pseudo_labels.blur import Blur
from graphnn_unet.pseudo_labels.corrector import Corrector, Place, Surroundings, Teaching
from graphnn_unet.pseudo_labels.pipeline import PseudoLabels

SEEN: list[Teaching] = []


class Shift(Corrector):
    """Adds 1 to the second class."""

    feature_scales = (1,)

    def __call__(self, teaching):
        SEEN.append(teaching)
        return teaching.logits + torch.tensor([0.0, 1.0]).view(1, 2, 1)


class Double(Corrector):
    def __call__(self, teaching):
        return 2 * teaching.logits


def pipeline(monkeypatch, *names, largest=False):
    correctors = {"shift": Shift, "double": Double}
    monkeypatch.setattr(
        f"{pseudo_labels.__name__}.pipeline.known_correctors",
        lambda: {**correctors, "blur": "Blur"},
    )
    monkeypatch.setattr(
        f"{pseudo_labels.__name__}.pipeline.corrector_class", correctors.__getitem__
    )
    recipe = resolve({"pseudo_label": {"correct": list(names), "largest_component": largest}})
    return PseudoLabels(Surroundings(recipe, (1.0,)), ["1"])


def test_files_of_the_room_are_the_known_corrections():
    assert known_correctors()["blur"] == "Blur"
    assert corrector_class("blur") is Blur
    assert not {"corrector", "pipeline", "largest_component"} & set(known_correctors())


@pytest.mark.parametrize(("names", "expected"), [
    (("shift", "double"), [[2.0, 2.0]]), (("double", "shift"), [[2.0, 1.0]]), ((), [[1.0, 0.0]]),
])  # fmt: skip
def test_order_is_that_of_the_recipe(monkeypatch, names, expected):
    logits = torch.tensor([1.0, 0.0]).view(1, 2, 1)
    assert pipeline(monkeypatch, *names).correct(Teaching(logits))[..., 0].tolist() == expected


def test_corrections_see_features_cases_and_places(monkeypatch):
    SEEN.clear()
    labels = pipeline(monkeypatch, "double", "shift")
    assert labels.feature_scales == (1,)
    features = {1: torch.rand(1, 4, 1)}
    said = Teaching(torch.zeros(1, 2, 1), features, ["case"], [Place((0, 1, 2), (0,))])
    labels.correct(said)
    (seen,) = SEEN
    assert seen.features is features
    assert (seen.cases, seen.places) == (["case"], [Place((0, 1, 2), (0,))])


def test_a_table_of_other_classes_is_refused_and_one_of_some_told(monkeypatch, capsys):
    with pytest.raises(RecipeError, match="largest_component has a class 'tumor'"):
        pipeline(monkeypatch, largest={"tumor": False, "1": True})
    assert not capsys.readouterr().err
    pipeline(monkeypatch, largest={})
    assert "says nothing of 1: only the largest component is kept" in capsys.readouterr().err


def test_components_are_cleaned_after_the_correction(monkeypatch):
    logits = torch.zeros(1, 2, 1, 5)
    logits[0, 1, 0] = torch.tensor([-0.5, -2.0, -0.5, -0.5, -3.0])
    labels = pipeline(monkeypatch, "shift", largest=True)
    shifted = logits + torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert shifted.argmax(1).flatten().tolist() == [1, 0, 1, 1, 0]
    monkeypatch.setattr(Shift, "__call__", lambda self, said: shifted)
    result = labels.finish(labels.start(Teaching(logits)))
    assert result.flatten().tolist() == [0, 0, 1, 1, 0]


def test_unknown_correction_lists_those_that_exist():
    recipe = resolve({"pseudo_label": {"correct": ["blurr"]}})
    with pytest.raises(RecipeError, match="'blurr' is no correction: near names: blur"):
        PseudoLabels(Surroundings(recipe, (1.0,)), ["1"])
