"""Trainers by name: ours, a user's file, an installed package's, nnU-Net's own."""

from importlib.metadata import EntryPoint

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from graphnn_unet import trainers
from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.prediction.planned_networks import network_name
from graphnn_unet.trainers import registry
from graphnn_unet.trainers.registry import (
    known_trainer,
    known_trainers,
    trainer_class,
)


def test_own_trainers_are_found_and_listed():
    names = ("SupervisedTrainer", "BCPTrainer", "GraphCLTrainer", "MLLCTrainer",
             "MeanTeacherTrainer", "UncertaintyMeanTeacherTrainer", "PseudoLabelTrainer",
             "FilterMatchTrainer")  # fmt: skip
    for name in names:
        assert trainer_class(name) is getattr(trainers, name)
        assert name in known_trainers()
    assert "SemiTrainer" not in known_trainers()


def test_trainers_of_nnunet_are_found_without_importing_the_others():
    import sys

    sys.modules.pop("nnunetv2.training.nnUNetTrainer.primus.primus_trainers", None)
    assert trainer_class("nnUNetTrainer") is nnUNetTrainer
    loaded_class = trainer_class("nnUNetTrainer_250epochs")
    assert loaded_class.__module__.endswith("nnUNetTrainer_Xepochs")
    assert issubclass(loaded_class, nnUNetTrainer)
    assert "nnunetv2.training.nnUNetTrainer.primus.primus_trainers" not in sys.modules


def test_trainers_of_an_external_folder_are_found(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "mine.py").write_text(
        "from graphnn_unet.trainers import BCPTrainer\n"
        "class ExternalTrainer(BCPTrainer):\n    pass\n"
    )
    (tmp_path / "broken.py").write_text("raise SystemError\n")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    assert issubclass(trainer_class("ExternalTrainer"), trainers.BCPTrainer)


def test_a_users_file_is_known_by_its_class_from_then_on(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from graphnn_unet.trainers import BCPTrainer\nclass FromFile(BCPTrainer):\n    pass\n"
    )
    with pytest.raises(InputError, match="'FromFile' is unknown"):
        trainer_class("FromFile")
    loaded_class = trainer_class(f"{file}:FromFile")
    assert trainer_class("FromFile") is loaded_class


def test_trainer_of_an_installed_package_is_found(monkeypatch):
    point = EntryPoint("Theirs", "graphnn_unet.trainers.bcp:BCPTrainer", registry.ENTRY_POINTS)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    assert trainer_class("Theirs") is trainers.BCPTrainer
    assert known_trainers()[-1] == "Theirs"


@pytest.mark.parametrize(
    ("text", "name", "error", "words"),
    [
        ("", "x.py:Missing", InputError, "has no class Missing"),
        ("class Odd:\n    pass\n", "x.py:Odd", InputError, "Derive it from SemiTrainer"),
        ("1/0\n", "x.py:Odd", InputError, "cannot be imported: ZeroDivisionError"),
        ("", "y.py:Odd", MissingFileError, "is missing"),
    ],
)
def test_what_is_wrong_with_a_users_file_is_told(tmp_path, text, name, error, words):
    (tmp_path / "x.py").write_text(text)
    with pytest.raises(error, match=words):
        trainer_class(f"{tmp_path}/{name}")


@pytest.mark.parametrize("name", ["GraphClTrainer", "os.system", "a b", ""])
def test_unknown_trainer_lists_near_names(name):
    with pytest.raises(InputError, match=r"is unknown: (near|known) names: .*GraphCLTrainer"):
        trainer_class(name)


def test_a_name_without_a_user_behind_it_imports_no_file(tmp_path):
    mark = tmp_path / "mark"
    (tmp_path / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Odd:\n    pass\n")
    for name in ("own.py:Odd", f"{tmp_path}/own.py:Odd", "own:Odd", "own.Odd"):
        with pytest.raises(InputError, match="is unknown"):
            known_trainer(name)
    assert not mark.exists()


def test_a_network_is_noted_by_name_where_its_trainer_is_not_needed(tmp_path):
    (tmp_path / "own.py").write_text(
        "from graphnn_unet.trainers import BCPTrainer, GraphCLTrainer\n"
        "class Same(GraphCLTrainer):\n    pass\n"
        "class Other(BCPTrainer):\n"
        "    @staticmethod\n    def build_network_architecture(*arguments):\n        pass\n"
    )

    def noted(trainer):
        return network_name(trainer.build_network_architecture)

    assert noted(trainer_class(f"{tmp_path}/own.py:Same")) == "aligned"
    assert noted(trainer_class(f"{tmp_path}/own.py:Other")) == ""
    assert all(noted(getattr(trainers, name)) for name in trainers.TRAINERS)
    assert noted(trainers.BCPTrainer) == "planned"
