"""What the README shows runs as it is written."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from tiny_study import DATASET, REPOSITORY, train_in, use_home

from graphnn_unet import export, predict
from graphnn_unet.errors import RecipeError
from graphnn_unet.storage.checkpoints import FINAL, LATEST
from graphnn_unet.storage.safe_load import load_checkpoint


def example() -> tuple[str, str]:
    """The README's trainer and the name of its class."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return code, re.findall(r"^class (\w+Trainer)\(", code, flags=re.MULTILINE)[0]


class StopAfter:
    """Asks to stop after so many steps."""

    def __init__(self, n_steps):
        self.n_steps = n_steps

    def is_set(self):
        self.n_steps -= 1
        return self.n_steps <= 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.fixture
def trainer_file(tmp_path):
    code, name = example()
    file = tmp_path / "my_trainer.py"
    file.write_text(code, encoding="utf-8")
    return f"{file}:{name}"


def test_own_trainer_trains_stops_goes_on_exports_and_predicts(
    trainer_file, tiny_copy, tmp_path, monkeypatch
):
    from graphnn_unet.trainers import semi

    settings = ["reconstruction.weight=0.5"]
    whole = train_in(tiny_copy, trainer_file, overrides=settings, output=tmp_path / "whole")
    rows = pd.read_csv(whole.model / "fold_all" / "metrics.csv")
    assert (rows["reconstruction"].dropna() > 0).all()
    assert rows["reconstruction"].notna().any()
    assert "weight = 0.5  # weight of the reconstruction" in (
        whole.model / "recipe.toml"
    ).read_text(encoding="utf-8")

    monkeypatch.setattr(semi, "stop_requests", lambda: StopAfter(5))
    model = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt, match="--c"):
        train_in(tiny_copy, trainer_file, overrides=settings, output=model)
    assert load_checkpoint(model / "fold_all" / LATEST)["gnnunet"]["step"] == 5
    monkeypatch.undo()
    use_home(tiny_copy, monkeypatch)
    train_in(tiny_copy, trainer_file, overrides=settings, output=model, mode="continue")
    ours, theirs = (load_checkpoint(m / "fold_all" / FINAL) for m in (model, whole.model))
    for state in (ours, theirs):
        assert set(state["gnnunet"]["heads"]) == {"painter"}
    for weights, other in (
        (ours["network_weights"], theirs["network_weights"]),
        (ours["gnnunet"]["heads"]["painter"], theirs["gnnunet"]["heads"]["painter"]),
    ):
        assert all(torch.equal(weights[key], other[key]) for key in other)

    images = tiny_copy / "raw" / DATASET / "imagesTs"
    predict(images, tmp_path / "ours", model=model, device="cpu", trainer=trainer_file)
    plain = export(model, tmp_path / "plain", trainer=trainer_file).target
    stock = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False)
    stock.initialize_from_trained_model_folder(str(plain), ("all",), FINAL)
    (tmp_path / "stock").mkdir()
    stock.predict_from_files_sequential(str(images), str(tmp_path / "stock"))
    read = stock.plans_manager.image_reader_writer_class().read_seg
    paths = sorted((tmp_path / "ours").glob("*.nii.gz"))
    assert len(paths) == 2
    for path in paths:
        assert np.array_equal(read(str(path))[0], read(str(tmp_path / "stock" / path.name))[0])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("reconstruction.wieght=1.0", r"The nearest known key is reconstruction\.weight"),
        ("reconstruction.weight=-1.0", r"cannot be used: .*reconstruction\.weight: weight of"),
    ],
)
def test_wrong_settings_of_the_own_trainer_are_told(trainer_file, tiny_copy, override, words):
    with pytest.raises(RecipeError, match=words):
        train_in(tiny_copy, trainer_file, overrides=[override])


def test_help_lists_the_settings_of_the_own_trainer(trainer_file, capsys):
    from graphnn_unet.commands.train import main

    with pytest.raises(SystemExit):
        main([trainer_file, "--help"])
    assert "reconstruction.weight" in capsys.readouterr().out
