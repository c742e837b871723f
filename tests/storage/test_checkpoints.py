from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from graphnn_unet.storage.checkpoints import plain


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
