"""From tokens to text, as it becomes certain: no half characters, no stop strings."""

import codecs

THINK = ("<think>", "</think>")


class TextStream:
    """Ids in, text out. `thinking` and `stopped` say where the stream stands.

    Thinking is what lies between <think> and </think>, of which the prompt may have
    written the first; neither is shown, nor the newlines after it. Stop strings are
    looked for in the answer alone. The processor knows each id's bytes.
    """

    def __init__(self, processor, prompt=(), stop=()):
        self.processor, self.stop = processor, tuple(stop)
        ids = [processor.encode(text) for text in THINK]
        # None where the tokenizer has no single id for a marker
        self.marks = [found[0] if len(found) == 1 else None for found in ids]
        self.thinking, self.stopped = self._opened(prompt), False
        self._begin(trim=False)

    def _begin(self, trim):
        # a character may be spread over tokens: this decoder waits for the rest
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self.held, self.trim = "", trim

    def _opened(self, prompt):
        """Has the prompt's last turn opened a <think> that it did not close?"""
        for token in reversed(prompt):
            if token in self.marks:
                return token == self.marks[0]
            if token in self.processor.stop_ids:
                break
        return False

    def push(self, token):
        """The text that is certain now that this token is written."""
        if token in self.marks:
            text = self.flush()
            self.thinking = token == self.marks[0]
            self._begin(trim=True)
            return text
        text = self.utf8.decode(self.processor.token_bytes(token))
        if self.trim:
            text = text.lstrip("\n")
            self.trim = not text
        if self.thinking or not self.stop:
            return text
        return self._hold(self.held + text)

    def _hold(self, text):
        """Text before a stop string, or before what may turn out to be one."""
        met = [text.find(s) for s in self.stop if s in text]
        if met:
            self.stopped, self.held = True, ""
            return text[: min(met)]
        starts = (s[:n] for s in self.stop for n in range(1, len(s)))
        keep = max((len(s) for s in starts if text.endswith(s)), default=0)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self):
        """What was held back, now that nothing follows; half a character is dropped."""
        text = self.held
        self._begin(trim=False)
        return text
