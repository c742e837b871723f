"""A recipe is typed, documented and merged in one order."""

import math
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphnn_unet.errors import MissingFileError, RecipeError
from graphnn_unet.plans.recipe import (
    PLANNING_SECTIONS,
    RECIPE_FOLDER,
    Recipe,
    check_layer,
    known_keys,
    known_sections,
    load_recipe,
    named_recipes,
    parse_overrides,
    resolve,
    to_toml,
    tomllib,
)
from graphnn_unet.trainers.copy_paste import box_edges

CONTRACT_DEFAULTS = {
    "plan.configuration": None,
    "plan.spacing": None,
    "plan.patch_size": None,
    "copy_paste.box_fraction": 2 / 3,
    "copy_paste.supervised": True,
    "optimizer.name": "sgd",
    "optimizer.lr": 0.01,
    "optimizer.momentum": 0.99,
    "optimizer.nesterov": True,
    "optimizer.schedule": "poly",
    "teacher.ema": 0.99,
    "teacher.warmup": True,
    "teacher.deploy": "student",
    "loss.unlabeled_weight": 0.5,
    "loss.deep_supervision": True,
    "graph.stage": -1,
    "graph.cluster_stage": None,
    "graph.cluster_graph": "positive",
    "graph.kappa": 0.01,
    "graph.tau": 2.0,
    "graph.features": "unit",
}
"""Keys of the documented table whose default is a value."""

PLANNED = ("batch.labeled", "batch.unlabeled", "schedule.pretrain_steps",
           "schedule.selftrain_steps", "pseudo_label.largest_component")  # fmt: skip


def value_of(recipe: Recipe, key: str):
    section, _, name = key.partition(".")
    return getattr(recipe.of(known_sections()[section]), name)


@pytest.mark.parametrize("key", [*CONTRACT_DEFAULTS, *PLANNED])
def test_every_key_of_the_documented_table_exists_and_is_described(key):
    assert len(known_keys()[key]) > 10


@pytest.mark.parametrize(("key", "value"), CONTRACT_DEFAULTS.items())
def test_defaults_are_the_documented_ones(key, value):
    assert value_of(resolve(), key) == value


def test_every_key_is_described():
    assert all(known_keys().values())
    assert {key.partition(".")[0] for key in known_keys()} == set(known_sections())
    assert set(PLANNING_SECTIONS) <= set(Recipe.model_fields)


def test_there_are_at_least_two_inward_and_two_outward_images():
    assert (resolve().batch.labeled, resolve().batch.unlabeled) == (4, 4)


# ------------------------------------------------------------------------- precedence


def test_later_layers_win_key_by_key():
    derived = {"batch": {"labeled": 8, "unlabeled": 8}, "loss": {"unlabeled_weight": 0.3}}
    named = {"batch": {"labeled": 12}, "optimizer": {"lr": 0.1}}
    single = {"optimizer": {"lr": 0.2}}
    recipe = resolve(derived, named, single)
    assert (recipe.batch.labeled, recipe.batch.unlabeled) == (12, 8)
    assert recipe.loss.unlabeled_weight == 0.3
    assert recipe.optimizer.lr == 0.2
    assert recipe.optimizer.momentum == 0.99


def test_layers_are_not_changed():
    first, second = {"batch": {"labeled": 8}}, {"batch": {"labeled": 4}}
    resolve(first, second)
    assert first == {"batch": {"labeled": 8}}


# ----------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("btach.labeled", "batch.labeled"),
        ("batch.labelled", "batch.labeled"),
        ("optimizer.learning_rate", "optimizer.lr"),
        ("loss.alpha", "loss.unlabeled_weight"),
        ("loss.kappa", "graph.kappa"),
        ("schedule.selftrain_step", "schedule.selftrain_steps"),
        ("plan.patch", "plan.patch_size"),
        ("teacher.EMA", "teacher.ema"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(given, near):
    with pytest.raises(RecipeError) as caught:
        parse_overrides([f"{given}=1"])
    assert f"unknown recipe key '{given}'" in caught.value.line
    assert f"nearest known key is {near} ({known_keys()[near]})" in caught.value.line
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("optimizer.lr=fast", "valid number"),
        ("optimizer.lr='0.1'", "valid number"),
        ("optimizer.lr=0", "greater than 0"),
        ("optimizer.lr=inf", "finite"),
        ("optimizer.lr=nan", "finite"),
        ("optimizer.nesterov=1", "valid boolean"),
        ("optimizer.name=lion", "'sgd', 'adam' or 'adamw'"),
        ("batch.labeled=3", "multiple of 2"),
        ("batch.labeled=4.0", "valid integer"),
        ("batch.unlabeled=0", "greater than or equal to 2"),
        ("batch.labeled=true", "valid integer"),
        ("plan.spacing=[1.0]", "at least 2 items"),
        ("plan.spacing=[1.0,0.0,1.0]", "greater than 0"),
        ("plan.patch_size=[16,16,16,16]", "at most 3 items"),
        ("plan.patch_size=64", "valid list"),
        ("plan.configuration=3d", "'2d', '3d_fullres' or '3d_lowres'"),
        ("copy_paste.box_fraction=1.0", "less than 1"),
        ("copy_paste.box_fraction=[0,1]", "greater than 0"),
        ("teacher.ema=1.5", "less than or equal to 1"),
        ("pseudo_label.largest_component={1=3}", "valid boolean"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused(text, cause):
    key = text.partition("=")[0]
    with pytest.raises(RecipeError) as caught:
        parse_overrides([text])
    assert caught.value.line.startswith(f"{key} = ")
    assert cause in caught.value.line
    assert known_keys()[key] in caught.value.line


def test_all_faults_of_a_recipe_come_together(tmp_path):
    (tmp_path / "my.toml").write_text(
        "[optimizer]\nlr = 'x'\nlearning_rate = 1\n"
        "[batch]\nlabeled = 3\n"
        "[grap]\nkappa = 1\ntau = 2\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "my.toml")
    lines = caught.value.lines
    assert len(lines) == 5
    assert all(str(tmp_path / "my.toml") in line for line in lines)
    for key in (
        "optimizer.lr = 'x'",
        "optimizer.learning_rate",
        "batch.labeled",
        "grap.kappa",
        "grap.tau",
    ):
        assert sum(key in line for line in lines) == 1, key
    assert str(caught.value) == "\n".join(lines)


def test_a_value_in_the_place_of_a_section_is_refused(tmp_path):
    (tmp_path / "my.toml").write_text("batch = 4\n")
    with pytest.raises(RecipeError, match="unknown recipe key 'batch'"):
        load_recipe(tmp_path / "my.toml")
    with pytest.raises(RecipeError, match="unknown recipe key 'batch'"):
        resolve({"batch": 4})


def test_a_plan_of_another_version_is_refused_with_the_key_it_has():
    with pytest.raises(RecipeError, match=r"'graph\.node' in the resolved recipe"):
        resolve({"graph": {"node": 1}})


# -------------------------------------------------------------------- --set and files


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optimizer.lr=0.1", 0.1),
        ("optimizer.lr = 1e-3", 1e-3),
        ("optimizer.lr=1", 1),
        ("optimizer.nesterov=false", False),
        ("optimizer.name=adam", "adam"),
        ("optimizer.name='adam'", "adam"),
        ("plan.patch_size=[16,32,32]", [16, 32, 32]),
        ("pseudo_label.largest_component={1=true,2=false}", {"1": True, "2": False}),
        ('pseudo_label.largest_component={"whole tumour"=true}', {"whole tumour": True}),
    ],
)
def test_values_on_the_command_line_are_toml_and_bare_words_are_strings(text, value):
    section, _, name = text.partition("=")[0].strip().partition(".")
    assert parse_overrides([text]) == {section: {name: value}}


def test_several_assignments_are_one_layer_and_the_last_wins():
    layer = parse_overrides(["batch.labeled=8", "optimizer.lr=0.1", "batch.labeled=4"])
    assert layer == {"batch": {"labeled": 4}, "optimizer": {"lr": 0.1}}


@pytest.mark.parametrize("text", ["batch.labeled", "batch=4", "batch.=4", "=4", "", "a"])
def test_text_that_is_no_assignment_is_refused(text):
    with pytest.raises(RecipeError, match=r"Write --set section\.key=value"):
        parse_overrides([text])


def test_an_unknown_recipe_is_refused_with_near_names():
    with pytest.raises(MissingFileError, match=r"recipe 'pancrea' was not found.*pancreas"):
        load_recipe("pancrea")


def test_a_file_that_is_not_toml_is_named_with_its_line(tmp_path):
    (tmp_path / "my.toml").write_text("[batch]\nlabeled = = 3\n")
    with pytest.raises(RecipeError, match=r"my\.toml is not TOML.*line 2"):
        load_recipe(tmp_path / "my.toml")
    (tmp_path / "my.toml").write_bytes(b"\xff\xe9")
    with pytest.raises(RecipeError, match=r"my\.toml is not TOML"):
        load_recipe(str(tmp_path / "my.toml"))


# ------------------------------------------------------------------------- round trip

POSITIVE = st.integers(1, 10**6)
FLOAT = st.floats(1e-12, 1e12)
SPECIAL = {
    "plan.spacing": st.lists(FLOAT, min_size=2, max_size=3),
    "plan.patch_size": st.lists(POSITIVE, min_size=2, max_size=3),
    "copy_paste.box_fraction": st.floats(0, 1, exclude_min=True, exclude_max=True)
    | st.lists(POSITIVE, min_size=2, max_size=3),
    "pseudo_label.largest_component": st.booleans() | st.dictionaries(st.text(), st.booleans()),
    "batch.labeled": st.integers(1, 100).map(lambda n: 2 * n),
    "batch.unlabeled": st.integers(1, 100).map(lambda n: 2 * n),
    "plan.gpu_memory_gb": st.floats(0.01, 1e6),
    "network.max_stages": st.integers(2, 9),
    "pseudo_label.correct": st.lists(st.text(max_size=8), max_size=3),
    "diffusion.reach": st.floats(0, 1, exclude_max=True),
    "graph.stage": st.integers(-9, 9),
    "graph.cluster_stage": st.integers(-9, 9),
}


def values_of(key: str, model_field) -> st.SearchStrategy:
    if key in SPECIAL:
        return SPECIAL[key]
    kinds = [model_field.annotation, *get_args(model_field.annotation)]
    words = [arg for kind in kinds for arg in get_args(kind) if isinstance(arg, str)]
    words += [kind for kind in kinds if isinstance(kind, str)]
    if words:
        return st.sampled_from(words)
    default = model_field.default
    if isinstance(default, bool):
        return st.booleans()
    limits = {name: getattr(m, name) for m in model_field.metadata for name in ("le", "lt")
              if hasattr(m, name)}  # fmt: skip
    if isinstance(default, int) or "int" in str(model_field.annotation):
        least = max([1, *(m.ge for m in model_field.metadata if hasattr(m, "ge"))])
        return st.integers(least, min(limits.values(), default=10**6))
    if limits:
        return st.floats(0.001, min(limits.values()), exclude_max="lt" in limits)
    return FLOAT


@st.composite
def layers(draw) -> dict:
    layer: dict = {}
    for section, model in known_sections().items():
        for name, model_field in model.model_fields.items():
            if draw(st.booleans()):
                value = draw(values_of(f"{section}.{name}", model_field))
                layer.setdefault(section, {})[name] = value
    return layer


@given(layers())
@settings(max_examples=40, deadline=None)
def test_toml_reads_back_to_the_same_recipe(layer):
    recipe = resolve(layer)
    again = tomllib.loads(to_toml(recipe))
    check_layer(again, "a test")
    assert resolve(again) == recipe
    for section, table in layer.items():
        for name, value in table.items():
            assert again[section][name] == value


@pytest.mark.parametrize("name", ['"', "\\", "\x7f", "\x00\n\t", "größe", "a.b = 1 # c"])
def test_names_of_regions_survive_in_toml(name):
    recipe = resolve({"pseudo_label": {"largest_component": {name: True}}})
    assert resolve(tomllib.loads(to_toml(recipe))) == recipe


def test_toml_has_a_comment_for_each_key():
    for line in to_toml(resolve()).splitlines():
        if " = " in line:
            key, _, comment = line.partition(" = ")[0], "", line.partition("  # ")[2]
            assert comment in [v for k, v in known_keys().items() if k.endswith(f".{key}")]


# -------------------------------------------------------------------- shipped recipes


def test_the_promised_recipes_ship():
    promised = {
        "la",
        "la_paper",
        "acdc",
        "acdc_paper",
        "pancreas",
        "pancreas_paper",
        "quick",
        "demo",
    }
    assert promised <= set(named_recipes())


@pytest.mark.parametrize("name", named_recipes())
def test_every_shipped_recipe_is_valid_and_says_what_it_is_for(name):
    recipe = resolve(load_recipe(name))
    assert (RECIPE_FOLDER / f"{name}.toml").read_text(encoding="utf-8").startswith("# ")
    patch = recipe.plan.patch_size
    if patch:
        edges = box_edges(patch, recipe.as_dict()["copy_paste"]["box_fraction"])
        assert all(0 < edge < size for edge, size in zip(edges, patch, strict=True))


PUBLISHED = {
    "la": ("3d_fullres", [80, 112, 112], [53, 74, 74], 4, 5000, 15000),
    "acdc": ("2d", [256, 256], [170, 170], 12, 10000, 30000),
    "pancreas": ("3d_fullres", [96, 96, 96], [64, 64, 64], 4, 60 * 30, 200 * 25),
}
"""Patch, box, labeled images a step (half of batch 8, 24, 8), steps; epochs times steps of one."""


@pytest.mark.parametrize("suffix", ["", "_paper"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_schedule_are_as_published(name, suffix):
    recipe = resolve(load_recipe(name + suffix))
    configuration, patch, box, labeled, pretrain, selftrain = PUBLISHED[name]
    assert recipe.plan.configuration == configuration
    assert recipe.plan.patch_size == patch
    assert list(box_edges(patch, recipe.as_dict()["copy_paste"]["box_fraction"])) == box
    assert (recipe.batch.labeled, recipe.batch.unlabeled) == (labeled, labeled)
    assert recipe.schedule.pretrain_steps == pretrain
    assert recipe.schedule.selftrain_steps == selftrain
    assert recipe.loss.unlabeled_weight == 0.5
    assert recipe.as_dict()["teacher"]["ema"] == 0.99
    assert (recipe.as_dict()["graph"]["kappa"], recipe.as_dict()["graph"]["tau"]) == (0.01, 2.0)
    assert recipe.as_dict()["pseudo_label"]["largest_component"] is True


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_default_box_equals_the_published_one(name):
    _, patch, box, *_ = PUBLISHED[name]
    assert list(box_edges(patch, resolve().as_dict()["copy_paste"]["box_fraction"])) == box


@pytest.mark.parametrize(
    ("name", "spacing"), [("la", [0.625] * 3), ("acdc", None), ("pancreas", [1.0] * 3)]
)
def test_voxel_sizes_are_as_published(name, spacing):
    assert resolve(load_recipe(name)).plan.spacing == spacing
    assert resolve(load_recipe(f"{name}_paper")).plan.spacing == spacing


def test_optimizers_of_the_papers():
    la, acdc, pancreas = (
        resolve(load_recipe(f"{name}_paper")).optimizer for name in ("la", "acdc", "pancreas")
    )
    for sgd in (la, acdc):
        assert (sgd.name, sgd.lr, sgd.momentum, sgd.nesterov) == ("sgd", 0.01, 0.9, False)
        assert math.isclose(sgd.weight_decay, 1e-4)
    assert (la.schedule, la.step_size, la.gamma) == ("step", 2500, 0.1)
    assert acdc.schedule == pancreas.schedule == "constant"
    assert (pancreas.name, pancreas.lr) == ("adam", 0.001)
    assert la.reset_between_phases
    assert not acdc.reset_between_phases
    assert not pancreas.reset_between_phases


def test_losses_of_the_papers():
    for name, variant in {"la": "paper3d", "acdc": "paper2d", "pancreas": "paper3d"}.items():
        recipe = resolve(load_recipe(f"{name}_paper"))
        assert recipe.loss.variant == variant
        assert not recipe.loss.deep_supervision
        assert not recipe.as_dict()["copy_paste"]["supervised"]
        assert recipe.as_dict()["copy_paste"]["directions"] == "one"
