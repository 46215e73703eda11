"""What experts on disk cost an answer, as numbers and as lines to read."""

from dataclasses import replace

from ...errors import InputError
from ...units import human
from .pages import Stats


class Meter:
    """Reads the Stats of a model's experts before, within and after an answer."""

    def __init__(self, model):
        shared = [m.pages for m in model.modules() if hasattr(m, "pages")]
        if not shared:
            raise InputError(
                "--stats is about experts on disk, and about what was measured here; "
                "add --experts disk, or run `minqwen plan NAME --measure` first"
            )
        # Where most are mapped, a draft head stored in another form may still be read.
        self.pages = max(shared, key=lambda pages: pages.mapped)
        self.marks = []

    def watch(self, steps):
        """The same steps; notes the Stats before the first, after it and at the end."""
        self._mark()
        for step in steps:
            if len(self.marks) == 1:
                self._mark()  # the prompt has been read
            yield step
        self._mark()

    def _mark(self):
        self.marks.append(replace(self.pages.stats))

    def report(self, answer):
        """{"prompt", "answer"} -> counts, bytes a token, seconds by where they went."""
        before, read, after = self.marks[0], self.marks[1], self.marks[-1]
        first = answer["prompt_seconds"]
        parts = {
            "prompt": (read - before, answer["prompt_tokens"], first),
            "answer": (after - read, answer["tokens"] - 1, answer["seconds"] - first),
        }
        return {"mapped": self.pages.mapped, "cache_bytes": self.pages.cache_bytes} | {
            name: _costs(*part) for name, part in parts.items() if part[1]
        }

    def lines(self, answer):
        """The report for the terminal."""
        told = answer["experts"]
        if told["mapped"]:
            yield "experts: all fit in memory, so their files are mapped"
        else:
            yield f"experts: read into a cache of {human(told['cache_bytes'])}"
        for name, p in ((n, told[n]) for n in ("prompt", "answer") if n in told):
            found = f"{p['hit_rate']:.1%} of choices in the cache, "
            found += f"{human(p['bytes_read_a_token'])} read a token; "
            yield (
                f"{name}: {'' if told['mapped'] else found}"
                f"{p['wait_seconds']:.2f} s waiting, {p['compute_seconds']:.2f} s in "
                f"experts, {p['other_seconds']:.2f} s elsewhere"
            )


def _costs(stats: Stats, tokens, seconds):
    chosen = stats.hits + stats.misses
    return {
        "hit_rate": round(stats.hits / chosen, 4) if chosen else 0.0,
        "chosen": chosen,
        "read": stats.misses,
        "bytes_read": stats.bytes_read,
        "bytes_read_a_token": round(stats.bytes_read / tokens),
        "read_seconds": round(stats.read_seconds, 4),
        "wait_seconds": round(stats.wait_seconds, 4),
        "compute_seconds": round(stats.expert_seconds - stats.wait_seconds, 4),
        "other_seconds": round(max(0.0, seconds - stats.expert_seconds), 4),
    }
