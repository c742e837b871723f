import pytest

from graphnn_unet import demo
from graphnn_unet.errors import RefusedError


def test_demo_refuses_a_folder_that_holds_something(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    with pytest.raises(RefusedError, match="not empty"):
        demo(tmp_path)


@pytest.mark.slow
def test_demo_runs_the_whole_flow(tmp_path):
    result = demo(tmp_path / "demo", device="cpu")
    assert [trainer_result.trainer for trainer_result in result.results] == [
        "SupervisedTrainer",
        "GraphCLTrainer",
    ]
    for trainer_result in result.results:
        assert trainer_result.dice > 0.6
        assert trainer_result.metrics.is_file()
        assert trainer_result.overlay.read_bytes().startswith(b"\x89PNG")
        assert len(list(trainer_result.predictions.glob("case_*.nii.gz"))) == 6
