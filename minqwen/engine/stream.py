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
        self.processor = processor
        self.stops = [(text, borders(text)) for text in stop]
        ids = [processor.encode(text) for text in THINK]
        # None where the tokenizer has no single id for a marker
        self.marks = [found[0] if len(found) == 1 else None for found in ids]
        self.thinking, self.stopped = self._opened(prompt), False
        self._begin(trim=False)

    def _begin(self, trim):
        # a character may be spread over tokens: this decoder waits for the rest
        self.utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self.held, self.trim = "", trim
        self.met = [0] * len(self.stops)  # letters of each that the text ends with

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
        if self.thinking or not self.stops:
            return text
        return self._hold(text)

    def _hold(self, new):
        """Text before a stop string, or before what may turn out to be one."""
        text, ends = self.held + new, []
        for i, (stop, border) in enumerate(self.stops):
            met = self.met[i]
            for place, letter in enumerate(new, len(self.held) + 1):
                while met and letter != stop[met]:
                    met = border[met - 1]
                met += letter == stop[met]
                if met == len(stop):
                    ends.append(place - met)
                    break
            self.met[i] = met
        if ends:
            self.stopped, self.held = True, ""
            return text[: min(ends)]
        certain = len(text) - max(self.met)
        self.held = text[certain:]
        return text[:certain]

    def flush(self):
        """What was held back, now that nothing follows; half a character is dropped."""
        text = self.held
        self._begin(trim=False)
        return text


def borders(text):
    """For each beginning of `text`: how much of its end is its beginning again.

    With it a text is looked for in time that grows with the letters read (Knuth, Morris
    and Pratt, 1977).
    """
    found = [0] * len(text)
    for end in range(1, len(text)):
        met = found[end - 1]
        while met and text[end] != text[met]:
            met = found[met - 1]
        found[end] = met + (text[end] == text[met])
    return found
