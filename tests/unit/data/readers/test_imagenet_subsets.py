"""Ten classes of ImageNet, numbered anew."""

import pytest

from partwise.config import UserError
from partwise.data.readers.imagenet import SUBSETS, _within
from partwise.data.sample import Record

NAMES = tuple(f"class {k}" for k in range(1000))
RECORDS = [Record(id=str(k), label=k) for k in range(1000)]


@pytest.mark.parametrize("subset", SUBSETS)
def test_ten_classes_keep_their_pictures(subset: str) -> None:
    records, names = _within(subset, RECORDS, NAMES)
    assert len(names) == len(set(SUBSETS[subset])) == len(records) == 10
    for record in records:
        assert record.label is not None and names[record.label] == f"class {record.id}"
    assert names[0] == f"class {SUBSETS[subset][0]}"


def test_unknown_subsets_and_other_class_lists_are_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'nette'"):
        _within("netten", RECORDS, NAMES)
    with pytest.raises(UserError, match="here are 3"):
        _within("nette", RECORDS[:3], NAMES[:3])
