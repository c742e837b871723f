"""A run has one name: the grammar of model folders, there and back, and who is the same run."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphnn_unet.errors import InputError
from graphnn_unet.plans.recipe import resolve, to_toml
from graphnn_unet.trainers.run_spec import ModelName, RunSpec, parse_fold

WORD = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9]|_(?!_)){0,12}[A-Za-z0-9]", fullmatch=True)
NAMES = st.builds(
    ModelName, WORD, WORD, WORD,
    n_labeled=st.one_of(st.none(), st.integers(1, 999)), draw=st.just(0), seed=st.integers(0, 99),
    variant=st.one_of(st.just(""), st.from_regex(r"[0-9a-f]{8}", fullmatch=True)),
)  # fmt: skip


@given(NAMES, st.integers(0, 9))
def test_names_are_read_back(name, draw):
    if name.n_labeled is not None:
        name = replace(name, draw=draw)
    assert ModelName.parse(str(name)) == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GraphCLTrainer__gnnunetPlans__3d_fullres", {}),
        ("A__b__2d__labeled8", {"n_labeled": 8}),
        ("A__b__2d__labeled8_draw1__seed3", {"n_labeled": 8, "draw": 1, "seed": 3}),
        ("A__b__2d__seed3__recipe0123abcd", {"seed": 3, "variant": "0123abcd"}),
        ("A__b__2d__of_another_version", {"rest": ("of_another_version",)}),
    ],
)
def test_grammar_of_model_folders(text, expected):
    name = ModelName.parse(text)
    assert str(name) == text
    assert name == ModelName(*text.split("__")[:3], **expected)


@pytest.mark.parametrize("text", ["ensembles", "A__b", "__b__c", ""])
def test_other_folders_are_no_models(text):
    assert ModelName.parse(text) is None


def spec(**changes) -> RunSpec:
    return RunSpec("Dataset001_A", "2d", "BCPTrainer", recipe=resolve({}), **changes)


def test_every_part_makes_another_run_and_the_place_of_the_trainers_file_does_not():
    base = spec()
    assert base.is_same_as(spec())
    other = resolve({"loss": {"unlabeled_weight": 0.25}})
    for change in (
        {"dataset": "Dataset002_B"}, {"configuration": "3d_fullres"}, {"trainer": "X"}, {"fold": 0},
        {"plans": "p"}, {"n_labeled": 4}, {"draw": 1}, {"seed": 1}, {"recipe": other},
    ):  # fmt: skip
        assert not base.is_same_as(replace(base, **change)), change
    here, there = (replace(base, trainer=f"{place}/my.py:Mine") for place in ("a", "b"))
    assert here.is_same_as(there)


def test_plain_values_read_back_to_the_same_run():
    base = spec(fold=2, n_labeled=4, variant="0123abcd")
    assert RunSpec.from_dict(base.as_dict()) == base
    assert RunSpec.from_dict(replace(base, recipe=None).as_dict()).recipe is None


def test_variants_have_folders_of_their_own_and_older_ones_are_found(tmp_path):
    recipe = resolve({"graph": {"kappa": 0.5}})
    variant = replace(spec(), recipe=recipe, variant=recipe.fingerprint())
    plain = tmp_path / "Dataset001_A" / "BCPTrainer__gnnunetPlans__2d"
    named = plain.with_name(f"{plain.name}__recipe{recipe.fingerprint()}")
    assert spec().model_folder(tmp_path) == plain
    assert variant.model_folder(tmp_path) == named
    plain.mkdir(parents=True)
    (plain / "recipe.toml").write_text(to_toml(resolve({})))
    assert variant.model_folder(tmp_path) == named  # that of another recipe
    (plain / "recipe.toml").write_text(to_toml(recipe))
    assert variant.model_folder(tmp_path) == plain  # trained before variants had names
    named.mkdir()
    assert variant.model_folder(tmp_path) == named


def test_folds():
    assert [parse_fold(text) for text in ("0", "12", "all", "cv")] == [0, 12, "all", "cv"]
    with pytest.raises(InputError, match="fold 'one' is unknown"):
        parse_fold("one")
