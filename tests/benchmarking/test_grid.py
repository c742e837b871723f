"""The runs of a comparison: crossed, balanced, named by what decides their result."""

import pytest
from tiny_study import DATASET, use_home

from graphnn_unet.benchmarking.grid import GridSettings, Row, rows_of, runs_of
from graphnn_unet.errors import InputError, RecipeError
from graphnn_unet.trainers.run_spec import ModelName


@pytest.fixture(autouse=True)
def _home(tiny_home, monkeypatch):
    use_home(tiny_home, monkeypatch)


ROWS = (Row("SupervisedTrainer", "SupervisedTrainer"), Row("BCPTrainer", "BCPTrainer"))


def settings(**changes) -> GridSettings:
    values = {"rows": ROWS, "labeled": (1, 2), "draws": 3, "seeds": 2, "development": 1}
    return GridSettings(DATASET, "3d_fullres", **{**values, **changes})


def test_draws_and_seeds_are_crossed_and_the_same_for_every_row():
    runs = list(runs_of(settings(), has_unlabeled=True))
    assert len(runs) == len({run.name for run in runs}) == 2 * 2 * 3 * 2
    of_row = {
        row.name: {(r.spec.n_labeled, r.spec.draw, r.spec.seed) for r in runs if r.row == row}
        for row in ROWS
    }
    assert of_row["SupervisedTrainer"] == of_row["BCPTrainer"]
    assert {run.spec.development for run in runs} == {1}


def test_cut_short_anywhere_no_row_is_ahead_by_more_than_a_run():
    runs = list(runs_of(settings(labeled=(1,)), has_unlabeled=True))
    for stop in range(len(runs)):
        counts = [sum(run.row == row for run in runs[:stop]) for row in ROWS]
        assert max(counts) - min(counts) <= 1


def test_all_labels_have_one_draw_and_no_teacher_without_other_scans():
    runs = list(runs_of(settings(labeled=(None,)), has_unlabeled=True))
    assert [(r.row.name, r.spec.draw, r.spec.seed) for r in runs] == [
        ("SupervisedTrainer", 0, 0), ("BCPTrainer", 0, 0),
        ("SupervisedTrainer", 0, 1), ("BCPTrainer", 0, 1),
    ]  # fmt: skip
    alone = list(runs_of(settings(labeled=(None,)), has_unlabeled=False))
    assert {run.row.name for run in alone} == {"SupervisedTrainer"}


def test_published_order_is_one_draw():
    runs = list(runs_of(settings(draws=0, seeds=1, labeled=(1,)), has_unlabeled=True))
    assert [run.spec.draw for run in runs] == [0, 0]


def test_rows_of_other_settings_have_other_folders():
    rows = [*ROWS, Row("plain", "SupervisedTrainer", ("copy_paste.supervised=false",))]
    runs = list(runs_of(settings(rows=rows, draws=1, seeds=1, labeled=(1,)), has_unlabeled=True))
    names = {run.row.name: ModelName.parse(run.name) for run in runs}
    assert names["plain"].variant
    assert not names["SupervisedTrainer"].variant
    assert names["plain"].development == 1


def test_command_is_the_same_training(capsys, monkeypatch):
    """What is printed parses to the arguments that make the same specification."""
    from graphnn_unet.commands import train as command

    (run,) = runs_of(
        settings(rows=[Row("a", "BCPTrainer", ("teacher.ema=0.9",))], labeled=(2,), draws=1,
                 seeds=1, overrides=["loss.unlabeled_weight=0.3"]),
        has_unlabeled=True,
    )  # fmt: skip
    seen = {}

    def train(*arguments, **keywords):
        seen.update(keywords, arguments=arguments)
        raise InputError("enough")

    monkeypatch.setattr("graphnn_unet.trainers.run.train", train)
    assert command.main(run.command[1:]) == 2
    assert seen["arguments"][:3] == (DATASET, "3d_fullres", "BCPTrainer")
    assert (seen["n_labeled"], seen["draw"], seen["development"]) == (2, 1, 1)
    assert seen["overrides"] == ["loss.unlabeled_weight=0.3", "teacher.ema=0.9"]


def test_sweeps_make_rows_of_the_trainers_that_know_them():
    rows = rows_of(["SupervisedTrainer", "BCPTrainer"], ["teacher.ema=0.9,0.99"])
    assert [row.name for row in rows] == [
        "SupervisedTrainer", "BCPTrainer, teacher.ema=0.9", "BCPTrainer, teacher.ema=0.99",
    ]  # fmt: skip
    crossed = rows_of(["BCPTrainer"], ["teacher.ema=0.9,0.99", "copy_paste.box_fraction=0.5,0.6"])
    assert len(crossed) == 4
    listed = rows_of(["BCPTrainer"], ["pseudo_label.correct=[],['blur','diffusion']"])
    assert [row.overrides for row in listed] == [
        ("pseudo_label.correct=[]",), ("pseudo_label.correct=['blur','diffusion']",)
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"no trainer of the comparison knows graph\.kappa"):
        rows_of(["SupervisedTrainer"], ["graph.kappa=1,2"])
    for text in ("graph.kappa", "kappa=1", "graph.kappa=", "graph.kappa=1,,2"):
        with pytest.raises(InputError, match="KEY=VALUE"):
            rows_of(["GraphCLTrainer"], [text])


def test_rows_have_names_of_their_own():
    rows = rows_of(["BCPTrainer"], named=[["slow", "BCPTrainer", "teacher.ema=0.999"]])
    assert rows[1] == Row("slow", "BCPTrainer", ("teacher.ema=0.999",))
    with pytest.raises(InputError, match="two rows are called BCPTrainer"):
        rows_of(["BCPTrainer", "BCPTrainer"])
    with pytest.raises(InputError, match="has no trainer"):
        rows_of([], named=[["slow"]])
    with pytest.raises(RecipeError, match=r"teacher\.emma"):
        list(runs_of(settings(rows=[Row("x", "BCPTrainer", ("teacher.emma=1",))]),
                     has_unlabeled=True))  # fmt: skip
    with pytest.raises(InputError, match="4d"):
        list(runs_of(GridSettings(DATASET, "4d", ROWS, (1,)), has_unlabeled=True))


def test_file_of_a_trainer_is_found_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from graphnn_unet.trainers import SupervisedTrainer\n\n"
        "class MineTrainer(SupervisedTrainer):\n    pass\n"
    )
    (run,) = runs_of(
        settings(rows=[Row("mine", "mine.py:MineTrainer")], labeled=(1,), draws=1, seeds=1),
        has_unlabeled=True,
    )
    assert run.spec.trainer == f"{tmp_path / 'mine.py'}:MineTrainer"
    assert run.spec.class_name == "MineTrainer"
    assert "mine.py:MineTrainer" in run.command


def test_a_row_that_predicts_otherwise_shares_the_model_and_no_other_folder():
    words = ["sparse", "SupervisedTrainer", "prediction.step_size=1", "prediction.mirroring=false"]
    rows = rows_of(["SupervisedTrainer"], named=[words])
    assert rows[1].prediction == {"step_size": 1, "mirroring": False}
    plain, sparse = runs_of(settings(rows=rows, draws=1, seeds=1, labeled=(1,)), has_unlabeled=True)
    assert plain.model == sparse.model == plain.name
    assert sparse.name == f"{plain.model}__mirroring=False__step_size=1"


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("step_size=0", "greater than 0"), ("scan_graph=perhaps", "valid boolean"),
        ("tta=true", "known names: scan_graph, scan_graph_blend, mirroring, step_size"),
    ],
)  # fmt: skip
def test_a_prediction_that_cannot_be_is_refused_with_row_and_reason(word, why):
    key = word.partition("=")[0]
    with pytest.raises(InputError, match=f"{key} = .* in --row far off cannot be used.*{why}"):
        rows_of([], named=[["far off", "SupervisedTrainer", f"prediction.{word}"]])


def test_a_blend_without_a_vote_is_refused():
    words = ["voted", "SupervisedTrainer", "prediction.scan_graph_blend=0.3"]
    with pytest.raises(InputError, match=r"--row voted: .*acts with prediction.scan_graph alone"):
        rows_of([], [], [words])
    (row,) = rows_of([], [], [[*words, "prediction.scan_graph=true"]])
    assert row.prediction == {"scan_graph": True, "scan_graph_blend": 0.3}
