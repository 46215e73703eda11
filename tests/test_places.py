"""Which experts a cache keeps, beside a plain form that compares all counts."""

import pytest
import torch

from minqwen.weights.disk.places import HALF_LIFE, Places


def draws(layers, tokens, experts=20, top_k=4):
    """What a skewed router asks for: a list of (layer, expert), layer after layer."""
    likes = 1.5 * torch.randn(layers, experts)
    for _ in range(tokens):
        for layer, scores in enumerate(likes + torch.randn(layers, experts)):
            yield [(layer, e) for e in scores.topk(top_k).indices.tolist()]


class Plain:
    """All counts fade at every call, and all are compared when one must go."""

    def __init__(self, room, layers):
        self.room, self.fade = room, 2 ** (-1 / (HALF_LIFE * layers))
        self.counts, self.held = {}, set()

    def reserve(self, wanted):
        """Which are new."""
        self.counts = {e: count * self.fade for e, count in self.counts.items()}
        for e in wanted:
            self.counts[e] = self.counts.get(e, 0) + 1
        new = [n for n, e in enumerate(wanted) if e not in self.held]
        for n in new:
            if len(self.held) == self.room:
                others = self.held - {*wanted}
                self.held.remove(min(others, key=lambda e: (self.counts[e], e)))
            self.held.add(wanted[n])
        return new


@pytest.mark.parametrize("room", [4, 7, 30, 60])
def test_the_least_asked_for_makes_room(room):
    places, plain = Places(room, 3), Plain(room, 3)
    for wanted in draws(layers=3, tokens=1000):
        where, new = places.reserve(wanted)
        assert new == plain.reserve(wanted)
        assert where == [places.of[e] for e in wanted]
        assert places.of.keys() == plain.held
        assert sorted([*places.of.values(), *places.free]) == list(range(room))


def test_by_hand():
    places = Places(2, layers=1)
    new = [bool(places.reserve([e])[1]) for e in "aababcaacb"]
    # c takes b's place (a was asked for three times, b twice); then b that of c
    assert new == [True, False, True, False, False, True, False, False, False, True]
    assert places.of.keys() == {"a", "b"}
    places = Places(2, layers=1)  # where all are asked for alike, each goes in turn
    assert all(places.reserve([e])[1] for e in "abcabcabcabc")


def test_favourites_are_found_more_often_than_by_who_was_used_last():
    places, last, hits = Places(15, 3), {}, [0, 0]
    for wanted in draws(layers=3, tokens=500):
        hits[0] += len(wanted) - len(places.reserve(wanted)[1])
        found = [e for e in wanted if e in last]
        hits[1] += len(found)
        for e in found + [e for e in wanted if e not in found]:
            last.pop(e, None)
            last[e] = True
            if len(last) > 15:
                del last[next(iter(last))]
    assert hits[0] > 1.1 * hits[1]


def test_given_back():
    places = Places(2, layers=1)
    places.reserve("ab")
    places.clear()
    assert not places.of and sorted(places.free) == [0, 1]
    assert places.reserve("cd")[1] == [0, 1]
