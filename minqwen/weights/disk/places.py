"""Which experts a cache keeps: those that were asked for most, of late."""

from heapq import heappop, heappush
from math import inf, log2

HALF_LIFE = 64  # tokens after which having been asked for counts half


class Places:
    """Numbered places for experts; where all are taken, the least asked for goes.

    Whenever an expert is asked for, its count goes up by one, and all counts fade by
    half in HALF_LIFE tokens. `layers`: calls of `reserve` that make up a token.
    """

    def __init__(self, count, layers):
        self.free = list(range(count))[::-1]
        self.of = {}  # expert -> place
        # NOTE: instead of all counts fading, each new one weighs more: 2^now. Kept are
        # the counts' logarithms, which do not grow beyond what a float holds.
        self.now, self.step = 0.0, 1 / (HALF_LIFE * layers)
        self.counts, self.lowest = {}, []  # and a heap of them, some from earlier times

    def reserve(self, experts):
        """Places for these experts, and which of them are new there."""
        self.now += self.step
        for e in experts:
            before = self.counts.get(e, -inf) - self.now
            self.counts[e] = self.now + log2(1 + 2**before)
        new = [n for n, e in enumerate(experts) if e not in self.of]
        wanted = set(experts)
        for n in new:
            self.of[experts[n]] = self.free.pop() if self.free else self.evict(wanted)
            heappush(self.lowest, (self.counts[experts[n]], experts[n]))
        return [self.of[e] for e in experts], new

    def evict(self, wanted):
        """Take away the place of the least asked for expert that is not wanted now."""
        aside = []
        while True:
            count, e = heappop(self.lowest)
            if count < self.counts[e]:  # it has been asked for since
                heappush(self.lowest, (self.counts[e], e))
            elif e in wanted:
                aside.append((count, e))
            else:
                break
        for item in aside:
            heappush(self.lowest, item)
        return self.of.pop(e)

    def clear(self):
        """Give all places back."""
        self.free += self.of.values()
        self.of.clear()
        self.lowest.clear()
