import argparse
import hashlib

import pytest
import torch
from torch import nn

from graphnn_unet.errors import InputError, MissingFileError, UnsafeFileError
from graphnn_unet.storage.weights import read_weights, sha256_of


@pytest.fixture
def saved(tmp_path):
    def save(content):
        torch.save(content, tmp_path / "w.pth")
        return tmp_path / "w.pth"

    return save


STATE = {"conv.weight": torch.ones(2), "conv.steps": torch.tensor(3)}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": {f"module.{key}": value for key, value in STATE.items()}},
        {"network_weights": {f"module.backbone.{k}": v for k, v in STATE.items()}},
        {"teacher": STATE, "student": {"conv.weight": torch.zeros(2)}},
    ],
)
def test_tables_of_all_kinds_give_plain_names(saved, content):
    path = saved(content)
    weights = read_weights(path)
    assert set(weights.tensors) == set(STATE)
    assert torch.equal(weights.tensors["conv.weight"], torch.ones(2))
    assert weights.sha256 == sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_branch_of_a_checkpoint_is_chosen_and_its_options_do_no_harm(saved):
    content = {"student": {"a": torch.zeros(1)}, "args": argparse.Namespace(lr=0.1)}
    assert read_weights(saved(content), "student").tensors["a"].tolist() == [0]
    with pytest.raises(InputError, match="no branch 'teacher'"):
        read_weights(saved(content))


def test_what_is_no_weight_file_is_refused(saved, tmp_path):
    with pytest.raises(MissingFileError, match=r"weights .*none\.pth are missing.*Look there"):
        read_weights(tmp_path / "none.pth", remedy="Look there")
    with pytest.raises(UnsafeFileError, match=r"weights file .*w\.pth is refused"):
        read_weights(saved({"a": nn.Linear(1, 1)}))
    for content in ([1, 2], {"epoch": 3}, torch.ones(2)):
        with pytest.raises(InputError, match="holds no table of weights"):
            read_weights(saved(content))
    for value in (torch.nan, torch.inf):
        with pytest.raises(InputError, match="not finite: first in a"):
            read_weights(saved({"a": torch.tensor([1.0, value])}))
    path = saved(STATE)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="cannot be read: it is cut off or damaged"):
        read_weights(path)
