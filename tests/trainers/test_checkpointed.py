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


def is_taken(trained: RunCases, now: RunCases, *left_out: str, for_scores=False) -> bool:
    """True where nothing is raised."""
    saved = {"cases": trained.as_dict(), "content": trained.content}
    state = {"gnnunet": {key: value for key, value in saved.items() if key not in left_out}}
    require_same_data(Path("fold_0/checkpoint.pth"), state, now, for_scores=for_scores)
    return True


def test_the_same_cases_are_taken_in_any_order():
    ordered, swapped = (cases(labeled=names, unlabeled="") for names in ("ab", "ba"))
    assert ordered.as_dict() != swapped.as_dict()
    assert is_taken(ordered, swapped)


def test_a_training_case_that_is_held_out_now_is_refused():
    with pytest.raises(InputError, match=r"trained on other data: c, a in another role"):
        is_taken(cases(), cases(labeled="c", held_out="a"))


def test_each_difference_is_told_once():
    now = cases(labeled="ad", held_out="", content={"a": "9", "b": "2", "d": "4"})
    with pytest.raises(InputError, match="other data: a changed, d new, c gone") as caught:
        is_taken(cases(), now)
    assert "role" not in caught.value.why


def test_scores_do_not_depend_on_unlabeled_cases():
    more = cases(unlabeled="d", content={"a": "1", "c": "3", "d": "4"})
    assert is_taken(cases(), more, for_scores=True)
    with pytest.raises(InputError, match="d new, b gone"):
        is_taken(cases(), more)
    with pytest.raises(InputError, match="b in another role"):
        is_taken(cases(), cases(labeled="ab", unlabeled=""), for_scores=True)
    edited = cases(content={**CONTENT, "b": "9", "c": "9"})
    with pytest.raises(InputError, match="other data: c changed"):
        is_taken(cases(), edited, for_scores=True)


def test_a_checkpoint_that_does_not_tell_its_cases_is_taken():
    assert is_taken(cases(), cases(labeled="c", held_out="a"), "cases")
    assert is_taken(cases(), cases(content={**CONTENT, "a": "9"}), "content")
    assert is_taken(cases(), cases(labeled="c", held_out="a"), "cases", "content")
