"""Labels that may stand for another one: masks of 0/255 among masks of 0/1, a stray voxel of 7."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from graphnn_unet.images.find import some

_SHOWN = 3
_FEW_MAPS = 4
"""A label that one of fewer maps has alone is nothing odd."""

_NAME_IT = "or give a class of its own a name with --label-names"


def odd_labels(values: Mapping[str, Mapping[int, str]], unnamed: Collection[int]) -> list[str]:
    """Questions about labels whose maps share none with the others, and about those of one map.

    Rare classes are legitimate, so these are questions, and none about a label with a name.

    Args:
        values: Case to label to its size in words; background and empty maps do not count.
        unnamed: Labels that nobody has named.
    """
    maps = {
        case: {label: of[label] for label in sorted(of) if label} for case, of in values.items()
    }
    maps = {case: labels for case, labels in maps.items() if labels}
    groups = _sharing_none(maps.values())
    cases = {group: [case for case in maps if group & maps[case].keys()] for group in groups}
    usual = max(groups, key=lambda g: (bool(g - {*unnamed}), len(cases[g])), default=frozenset())
    apart = [group for group in groups if group != usual and group & {*unnamed}]
    questions = [_same_structure(group, usual, cases[group], len(maps)) for group in apart[:_SHOWN]]
    asked = frozenset().union(*apart)
    n_maps = Counter(label for labels in maps.values() for label in labels)
    alone = [
        (label, case)
        for case, labels in maps.items()
        for label in labels.keys() & {*unnamed} - asked
        if n_maps[label] == 1
    ]
    if alone and len(maps) >= _FEW_MAPS:
        listed = [f"label {label} ({case}, {maps[case][label]})" for label, case in sorted(alone)]
        are_they = "is it" if len(alone) == 1 else "are they"
        questions.append(
            f"only 1 of {len(maps)} label maps has {some(listed, _SHOWN)}: {are_they} meant? "
            f"Correct the label map, {_NAME_IT}"
        )
    return questions


def _same_structure(
    group: Collection[int], usual: Collection[int], cases: Sequence[str], n_maps: int
) -> str:
    is_one = len(group) == 1
    labels, others = (some(map(str, sorted(ids))) for ids in (group, usual))
    return (
        f"{'label' if is_one else 'labels'} {labels} {'occurs' if is_one else 'occur'} in "
        f"{len(cases)} of {n_maps} label maps only ({some(cases, _SHOWN)}), "
        f"which {'has' if len(cases) == 1 else 'have'} none of the others' labels ({others}): "
        f"{'is it the same structure' if is_one else 'are they the same structures'}? "
        f"Bring all label maps to the same values, {_NAME_IT}"
    )


def _sharing_none(maps: Collection[Collection[int]]) -> list[frozenset[int]]:
    """Sets of labels of which no map has labels of two, in the order of their first label."""
    groups: list[frozenset[int]] = []
    for labels in set(map(frozenset, maps)):
        touched = [group for group in groups if group & labels]
        groups = [group for group in groups if group not in touched]
        groups.append(labels.union(*touched))
    return sorted(groups, key=min)
