"""Which checkpoints are taken for the data as they are now."""

from pathlib import Path

import pytest

from graphnn_unet.data.patch_dataset import StoredCase
from graphnn_unet.data.run_cases import RunCases
from graphnn_unet.errors import InputError
from graphnn_unet.trainers.checkpointed import require_same_data

CONTENT = {"a": "1", "b": "2", "c": "3"}


def cases(labeled="a", unlabeled="b", held_out="c", content=CONTENT) -> RunCases:
    roles = ([StoredCase(name, Path(), True) for name in names]
             for names in (labeled, unlabeled, held_out))  # fmt: skip
    return RunCases(*roles, content=content)


def compare(trained: RunCases, now: RunCases, *left_out: str, for_scores=False) -> None:
    saved = {"cases": trained.as_dict(), "content": trained.content}
    state = {"gnnunet": {key: value for key, value in saved.items() if key not in left_out}}
    require_same_data(Path("fold_0/checkpoint.pth"), state, now, for_scores=for_scores)


def test_the_same_cases_are_taken_in_any_order():
    compare(cases(labeled="ab", unlabeled=""), cases(labeled="ba", unlabeled=""))


def test_a_training_case_that_is_held_out_now_is_refused():
    with pytest.raises(InputError, match=r"trained on other data: c, a in another role"):
        compare(cases(), cases(labeled="c", held_out="a"))


def test_each_difference_is_told_once():
    now = cases(labeled="ad", held_out="", content={"a": "9", "b": "2", "d": "4"})
    with pytest.raises(InputError, match="other data: a changed, d new, c gone") as caught:
        compare(cases(), now)
    assert "role" not in caught.value.why


def test_scores_do_not_depend_on_unlabeled_cases():
    more = cases(unlabeled="d", content={"a": "1", "c": "3", "d": "4"})
    compare(cases(), more, for_scores=True)
    with pytest.raises(InputError, match="d new, b gone"):
        compare(cases(), more)
    with pytest.raises(InputError, match="b in another role"):
        compare(cases(), cases(labeled="ab", unlabeled=""), for_scores=True)
    edited = cases(content={**CONTENT, "b": "9", "c": "9"})
    with pytest.raises(InputError, match="other data: c changed"):
        compare(cases(), edited, for_scores=True)


def test_a_checkpoint_that_does_not_tell_its_cases_is_taken():
    compare(cases(), cases(labeled="c", held_out="a"), "cases")
    compare(cases(), cases(content={**CONTENT, "a": "9"}), "content")
    require_same_data(Path("stock.pth"), {"network_weights": {}}, cases())
