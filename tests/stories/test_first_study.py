"""A first study: each command is typed as the one before says, and nothing foreign is printed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_study import N_LABELED, N_TEST, N_UNLABELED, TINY, ball_case, write_image

FOREIGN = re.compile(
    r"warning|deprecat|please cite|#{4}|nnunet_raw is not|traceback", re.IGNORECASE
)


class Terminal:
    """Runs commands as a user does and keeps all lines that they print."""

    def __init__(self):
        self.lines: list[str] = []

    def type(self, words: list[str]) -> list[str]:
        """Run a command; return the one that it says is next."""
        done = subprocess.run(
            [str(Path(sys.executable).parent / words[0]), *words[1:]],
            capture_output=True, encoding="utf-8", check=False,
        )  # fmt: skip
        printed = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        assert done.returncode == 0, printed
        self.lines += printed
        hints = [line for line in printed if line.startswith("next: ")]
        assert hints == [line for line in done.stderr.splitlines()[-1:] if line in hints]
        return shlex.split(hints[0].removeprefix("next: ")) if hints else []


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Scans, and label maps of some, under the user's own names."""
    for number in range(N_LABELED + N_TEST + N_UNLABELED):
        (image,), label = ball_case(number)
        write_image(tmp_path / "scans" / f"patient {number}.nii.gz", image)
        if number < N_LABELED + N_TEST:
            write_image(tmp_path / "masks" / f"patient {number}.nii.gz", label)
    return tmp_path


def test_each_command_leads_to_the_next(study: Path):
    terminal = Terminal()
    convert = shlex.split("gnnunet_convert nifti --images scans --labels masks -d Study --test 2")
    hint = terminal.type([*convert, "--dry-run"])
    assert " ".join(hint) == "the same command without --dry-run"
    table = [line for line in terminal.lines if line.startswith("patient_")]
    assert len(table) == N_LABELED + N_TEST + N_UNLABELED
    assert all(" LPS " in line for line in table)  # how each is stored
    plan = terminal.type(convert)
    assert plan[0] == "gnnunet_plan_and_preprocess"
    train = terminal.type([*plan, "-np", "1", "-c", "3d_fullres", "--set", *TINY])
    assert train == ["gnnunet_train", "Study", "3d_fullres", "GraphCLTrainer"]
    predict = terminal.type([*train, "-device", "cpu", "--workers", "0"])
    assert predict[0] == "gnnunet_predict"
    tests = Path("home") / "raw" / "Dataset501_Study" / "imagesTs"
    places = {"NEW_SCANS": str(tests), "OUT": "my results"}
    predict = [places.get(word, word) for word in predict]
    evaluate = terminal.type([*predict, "-device", "cpu", "--disable_tta"])
    assert evaluate == ["gnnunet_evaluate", "-p", "my results", "-g",
                        str(tests.with_name("labelsTs"))]  # fmt: skip
    assert terminal.type(evaluate) == []
    clusters = terminal.type(["gnnunet_cluster", "-i", str(tests), "-o", "clusters"])
    assert clusters[0] == "gnnunet_evaluate"
    places = {"LABELS": str(tests.with_name("labelsTs"))}
    terminal.type([places.get(word, word) for word in clusters])
    assert [line for line in terminal.lines if FOREIGN.search(line)] == []
