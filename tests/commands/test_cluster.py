import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from graphnn_unet.commands import cluster

COMMAND = "import sys; from graphnn_unet.commands.{} import main; sys.exit(main())"


def call(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND.format(name), *map(str, arguments)],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :56]
    mask = (rows - 24) ** 2 + (columns - 28) ** 2 < 150
    picture = np.where(mask[..., None], 90, 200) + rng.normal(0, 4, (48, 56, 3))
    for place, array in (("in", picture), ("truth", 255 * mask)):
        (tmp_path / place).mkdir()
        Pillow.fromarray(array.astype(np.uint8)).save(tmp_path / place / "a.png")
    return tmp_path


def test_images_to_maps_to_figures(folder):
    done = call("cluster", "-i", folder / "in", "-o", folder / "out", "-np", 1, "--side", 56)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"1 image clustered: {folder / 'out'}\n"
    first, second, third = done.stderr.splitlines()[:3]
    assert first.startswith("folders: images=")
    assert second.startswith("features: hand-made distance to the border")
    assert third == "method: auto (loss cc, layer gcn, linear graph)"
    scored = call("evaluate", "-p", folder / "out", "-g", folder / "truth", "--unsupervised")
    assert scored.returncode == 0, scored.stderr
    assert scored.stdout.startswith("protocol honest, foreground, 1 image\n")
    figure = float(scored.stdout.splitlines()[2].split()[1])
    assert figure > 0.9


def test_partial_failure_ends_with_three_and_a_mistake_with_two(folder, capsys):
    (folder / "in" / "b.png").write_bytes(b"x")
    arguments = ("-i", folder / "in", "-o", folder / "out", "-np", 1, "--side", 56, "--steps", 2)
    done = call("cluster", *arguments, "--quiet")
    assert done.returncode == 3
    assert done.stderr.startswith("error: b: b.png cannot be read")
    assert (folder / "out" / "a.png").is_file()
    assert (folder / "out" / "failures.csv").is_file()
    for wrong, message in (
        (("--method", "deep"), "error: method 'deep' is not known"),
        (("--clusters", 1), "error: n_clusters = 1 cannot be used: input should be"),
        (("--features", "encoder"), "error: features 'encoder' are not known: there are auto"),
        (("--features", "self"), "error: features 'self' are not known: there are auto"),
        (("--features", "dino"), "error: --features dino needs a weight file"),
        (("-i", folder / "none"), "error: input folder"),
    ):
        assert cluster.main([str(word) for word in (*arguments, "--quiet", *wrong)]) == 2
        told = capsys.readouterr().err
        assert told.startswith(message)
        assert "Traceback" not in told
