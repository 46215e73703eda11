"""Notes to remember: who has what and where things are, some of it overwritten later.

    Ann has 7 pears. Tom has 2 pears. Now Ann has 3 pears. How many pears does Ann have?
    -> Ann has 3 pears.

An answer is the newest sentence about what was asked, which names the one it is about
before the value. So a stranger's wordings work, too. It is the plainest test of a
memory: one that only adds up keeps 7 and 3, the delta rule puts 3 in the place of 7.
"""

from . import words
from .chats import assistant, user, write
from .relations import CODE, ME, RELATIONS, value
from .words import invented, person, pick, up_to, word_of

MOST_FACTS = 32
CODE_SHARE = 0.2
NOT_SAID = "I was not told."
NOTED = "Noted."
NEWS = (
    "Now {}", "Now {}", "Now {}", "Later {}", "Today {}", "Correction: {}", "{}",
    "Actually, {}", "No, {}",
)  # fmt: skip
HEADS = (
    "", "", "", "Notes: ", "Remember: ", "Please remember this. ", "My notes: ",
    "Note: ", "Please note: ",
)  # fmt: skip
ASKED = ("{}", "{}", "{}", "{}", "Question: {}", "Please tell me: {}", "So: {}")


def make(rng, level=1.0, unseen=False):
    return write(messages(rng, level, unseen))


def messages(rng, level, unseen):
    """A chat on some notes; every fifth time the notes are assignments in Python."""
    notes = Notes(rng, level, unseen)
    most = 1 + level * (MOST_FACTS - 1)
    count = round(most ** rng.random())  # as often 1 to 5 as 6 to 32
    turns = up_to(1, min(5, 1 + MOST_FACTS // count), max(level, 0.5), rng)
    said, head = [], pick(HEADS, rng)
    if count <= 6 and rng.random() < 0.25:  # one by one
        for _ in range(count):
            said += [user(notes.tell(1, head).strip()), assistant(NOTED)]
            head = ""
        count = 0
    told = notes.tell(count, head)
    for turn in range(turns):
        if told and rng.random() < 0.3:  # the question comes in a turn of its own
            said += [user(told.strip()), assistant(NOTED)]
            told = ""
        if turn and rng.random() < 0.15:
            pairs = [notes.ask_again()]
        else:
            questions = up_to(1, 6, level, rng) if rng.random() < 0.6 else 1
            pairs = [notes.ask() for _ in range(questions)]
        asked, answers = zip(*pairs, strict=True)
        asked = pick(ASKED, rng).format(notes.gap.join(asked))
        said += [user(told + asked), assistant(notes.gap.join(answers))]
        told = notes.tell(up_to(0, 2, level, rng))
    if rng.random() < 0.1:
        said[-1]["reasoning_content"] = "The notes may say this."
    return said


class Notes:
    """What is known so far, new sentences about it, and questions with answers."""

    def __init__(self, rng, level, unseen):
        self.rng, self.level, self.unseen = rng, level, unseen
        chosen = [CODE]
        if rng.random() > CODE_SHARE:
            chosen = [pick(RELATIONS, rng) for _ in range(up_to(1, 3, level, rng))]
        lists = [relation for relation in chosen if relation.lines][:1]
        things = up_to(1, 2, level, rng)
        self.relations = {  # with the few things that each is about here
            relation: [pick(relation.things, rng) for _ in range(things)]
            for relation in lists or chosen
        }
        self.known = {}  # (relation, n, t) -> the value and how it was said last
        self.changed = []
        self.filler = up_to(1, 12, level, rng) if rng.random() < 0.3 * level else 0
        self.changes = rng.random() < 0.5
        self.speaks = rng.random() < 0.25 * level and not lists  # of oneself
        self.small = rng.random() < 0.06 and not lists  # letters, as one types in haste
        self.gap = "\n" if lists else " "
        self.form = "\n" if lists else pick((" ", " ", "\n", "\n- ", " and "), rng)
        self.news_forms = ("{}",) if chosen == [CODE] else NEWS

    def tell(self, count, head=""):
        """`count` more facts as text, with or without a line that announces them."""
        lines = []
        most = self.filler if count < 12 else 0
        for _ in range(count):
            lines.append(self.line())
            for _ in range(up_to(0, most, 1.0, self.rng)):
                lines.append(pick(words.prose(self.unseen), self.rng))
        if not lines:
            return ""
        if self.form == " and " and len(lines) < 5:
            parts = [lines[0], *map(uncapitalised, lines[1:])]
            return head + " and ".join(part.rstrip(".") for part in parts) + ". "
        if self.form in (" ", " and "):
            return head + " ".join(lines) + " "
        head = head.strip() + self.form if head else self.form.strip("\n")
        return head + self.form.join(lines) + "\n"

    def line(self):
        if self.changes and self.known and self.rng.random() < 0.3:
            return self.news()
        if self.speaks and self.rng.random() < 0.3:
            relation = pick([r for r in ME if self.fits(r)], self.rng)
            return self.fact((relation, "", pick(relation.things, self.rng)))
        return self.fact(self.new_key())

    def fits(self, relation):
        """What is unseen differs in its name from all that training has."""
        return relation.values == "person" or not self.unseen

    def fact(self, key):
        if key in self.known:
            self.changed.append(key)
        return self.say(key, self.value(key[0]))

    def say(self, key, value):
        self.known[key] = value, pick(key[0].said, self.rng)
        return self.told(key)

    def told(self, key):
        """The newest sentence about something."""
        value, form = self.known[key]
        return self.typed(form.format(n=key[1], t=key[2], v=value))

    def typed(self, text):
        return text.lower() if self.small else text

    def news(self):
        """A known fact gets another value."""
        key = pick(list(self.known), self.rng)
        before = value = self.known[key][0]
        while value == before:
            value = self.value(key[0])
        self.changed.append(key)
        text = self.say(key, value)
        form = pick(self.news_forms, self.rng)
        return text if form == "{}" else form.format(uncapitalised(text))

    def new_key(self):
        """Something not known yet, of the same kind as what is."""
        while True:
            relation = pick(list(self.relations), self.rng)
            key = relation, self.subject(relation), self.thing(relation)
            if key not in self.known:
                return key

    def thing(self, relation):
        return pick(self.relations[relation], self.rng)

    def subject(self, relation):
        if relation.of == "person":
            return person(self.rng, self.unseen)
        if self.rng.random() < 0.2:
            return invented(self.rng, self.unseen)
        known = words.OBJECTS
        if relation.of == "variable":
            often = self.unseen or self.rng.random() < 0.5
            known = words.VARIABLES if often else words.code_words()
        return word_of(known, self.rng, self.unseen)

    def value(self, relation):
        return value(relation.values, self.rng, self.level, self.unseen)

    def answer(self, key):
        value = self.typed(self.known[key][0])
        return key[0].answer.format(t=key[2], v=value) or self.told(key)

    def question(self, key):
        asked = pick(key[0].asked, self.rng)
        return self.typed(asked.format(n=key[1], t=key[2]))

    def ask(self):
        """A question and its answer; a little often about what has changed."""
        draw = self.rng.random()
        if draw < 0.05:
            key, answer = self.new_key(), NOT_SAID
        else:
            often = self.changed and draw < 0.5
            key = pick(self.changed if often else list(self.known), self.rng)
            answer = self.answer(key)
        self.asked = key
        question = self.question(key)
        if self.rng.random() < 0.05 and not key[0].lines:  # as one types in haste
            question = question[0].lower() + question[1:].rstrip("?")
        return question, answer

    def ask_again(self):
        """What was asked last, of someone or something else: `And Tom?`"""
        relation, name, thing = self.asked
        alike = [k for k in self.known if (k[0], k[2]) == (relation, thing)]
        alike = [k for k in alike if k[1] != name]
        if not alike or relation.lines:
            return self.ask()
        self.asked = pick(alike, self.rng)
        the = "the " if relation.of == "object" else ""
        return f"And {the}{self.typed(self.asked[1])}?", self.told(self.asked)


def uncapitalised(text):
    """As it stands within a sentence; names keep their capital."""
    plain = "The You My Now Later Today Correction:".split()
    return text[0].lower() + text[1:] if text.split()[0] in plain else text
