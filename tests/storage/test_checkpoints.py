from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from graphnn_unet.errors import InputError
from graphnn_unet.storage.checkpoints import (
    LATEST,
    PREVIOUS,
    load_resumable,
    plain,
    save_checkpoint,
)
from graphnn_unet.storage.safe_load import load_checkpoint


def test_nested_values_become_plain_and_load_as_such(tmp_path):
    content = {
        "weights": OrderedDict(layer=torch.nn.Parameter(torch.ones(2))),
        "log": [{"loss": np.float64(0.5), "steps": np.int64(3)}, (1, Path("a"))],
        "array": np.arange(3),
        "device": torch.device("cpu"),
    }
    torch.save(plain(content), tmp_path / "c.pth")
    checkpoint = torch.load(tmp_path / "c.pth", weights_only=True)  # refuses anything else
    assert checkpoint["weights"]["layer"].tolist() == [1, 1]
    assert not checkpoint["weights"]["layer"].requires_grad
    assert checkpoint["log"] == [{"loss": 0.5, "steps": 3}, (1, "a")]
    assert checkpoint["array"] == [0, 1, 2]
    assert checkpoint["device"] == "cpu"


def two_generations(folder: Path) -> None:
    for step in (1, 2):
        weights = {"layer": torch.arange(4000.0) + step}
        save_checkpoint(folder / LATEST, {"network_weights": weights, "step": step})


def flip(path: Path, place: int, bit: int = 4) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


def middle_of_the_weights(path: Path) -> int:
    return path.read_bytes().index((torch.arange(2000.0, 2004.0)).numpy().tobytes())


def test_a_flipped_bit_is_named_and_the_one_before_is_taken(tmp_path, caplog):
    two_generations(tmp_path)
    flip(tmp_path / LATEST, middle_of_the_weights(tmp_path / LATEST))
    with pytest.raises(InputError, match=rf"{LATEST} cannot be read.*checksum of .*data"):
        load_checkpoint(tmp_path / LATEST)
    path, content = load_resumable(tmp_path)
    assert (path.name, content["step"]) == (PREVIOUS, 1)
    assert f"continuing from {PREVIOUS} instead" in caplog.text


def test_where_all_are_damaged_training_anew_is_offered(tmp_path):
    two_generations(tmp_path)
    for name in (LATEST, PREVIOUS):
        flip(tmp_path / name, middle_of_the_weights(tmp_path / name))
    with pytest.raises(InputError, match=r"cannot be read.*Use --restart to train anew"):
        load_resumable(tmp_path)


def test_no_flipped_bit_changes_a_weight_without_a_word(tmp_path):
    two_generations(tmp_path)
    path = tmp_path / LATEST
    whole, expected = path.read_bytes(), load_checkpoint(path)
    n_named = 0
    for place in np.random.default_rng(0).integers(0, len(whole), 150):
        flip(path, int(place))
        try:
            content = load_checkpoint(path)
        except InputError:
            n_named += 1
        else:  # a byte that pads, or repeats what stands elsewhere
            weights = content["network_weights"]["layer"]
            assert torch.equal(weights, expected["network_weights"]["layer"])
            assert content["step"] == expected["step"]
        path.write_bytes(whole)
    assert n_named > 100
