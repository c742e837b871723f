"""Published splits: whole, apart, and the lists that win over them."""

from __future__ import annotations

from graphnn_unet.dataset_conversion.published import published

LA = published("left_atrium")
ACDC = published("acdc")
PANCREAS = published("pancreas")


def test_published_splits_are_whole_and_apart():
    for table, n_train, n_test in ((LA, 80, 20), (ACDC, 140, 40), (PANCREAS, 62, 18)):
        parts = [table["train"], table["test"], table.get("val", [])]
        names = [name for part in parts for name in part]
        assert (len(table["train"]), len(table["test"])) == (n_train, n_test)
        assert len(set(names)) == len(names)
        assert table["source"].startswith("repository ")
    patients = [{n.split("_")[0] for n in ACDC[part]} for part in ("train", "val", "test")]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 100
    first = {name.split("_")[0] for name in ACDC["train"][:6]}
    assert len(first) == 3
    assert {"0025", "0070"}.isdisjoint(PANCREAS["train"] + PANCREAS["test"])
