"""The stream of draws is two integers."""

import pytest

from bitnet import random


def test_a_seed_starts_its_stream():
    random.seed(4)
    first = [random.next_key() for _ in range(3)]
    assert random.get_state() == (4, 3)
    random.seed(4)
    assert [random.next_key() for _ in range(3)] == first and len(set(first)) == 3
    random.seed(5)
    assert random.next_key() not in first


def test_a_state_continues_where_it_was_taken():
    random.seed(4)
    random.next_key()
    state = random.get_state()
    following = random.next_key()
    random.set_state(state)
    assert random.next_key() == following


def test_preserved_leaves_no_trace():
    random.seed(4)
    with pytest.raises(KeyError), random.preserved():
        random.seed(9)
        random.next_key()
        raise KeyError
    assert random.get_state() == (4, 0)
