"""Everything else: talk about itself, and one friendly sentence for what is beyond it.

A model this small knows nothing of the world, and a guess would look like knowledge. So
whatever is none of its tasks gets the one answer `ELSEWHERE`. What strangers will ask
nobody can foresee; elsewhere.txt has hundreds of forms of questions, topics.txt what
they may be about, and the interpreter's documentation has more words.
"""

import re
from collections import Counter
from functools import cache
from pathlib import Path

from . import notes, repeats, words
from .chats import assistant, user, write
from .notes import NOT_SAID
from .relations import ME, RELATIONS
from .text import documents
from .words import held_out, invented, pick, up_to, word_of

ELSEWHERE = (
    "That is beyond me. I keep notes, add numbers, read small pictures, call tools "
    "and copy text."
)
NO_PICTURE = "I see no picture."
# the answers, and what is said before them; after the bar what only testing says
SELF = {
    "I am minqwen's tiny model, a Qwen3.5 in all but size.": """
        Who are you?|What are you?|Tell me about yourself.|Introduce yourself.
        Describe yourself.|You are?|Which model are you?|What is this?
        Say something about yourself.|Who is there?
        || Who am I talking to?|What kind of model are you?|Which model is this?
    """,
    "I have no name. I am minqwen's tiny model.": """
        What is your name?|Do you have a name?|What are you called?|Your name?
        What should I call you?|What's your name?|Tell me your name.
        || How are you called?|Have you got a name?
    """,
    "minqwen trained me, on tasks that it made itself.": """
        Who made you?|Who trained you?|Where do you come from?|Who built you?
        Who created you?|How were you made?|Who is your maker?|Who wrote you?
        What were you trained on?|How were you trained?|What is your training data?
        || Who developed you?|How did you learn?
    """,
    "No. I have Qwen3.5's shape, but I am tiny.": """
        Are you Qwen?|Are you ChatGPT?|Are you GPT-4?|Are you Claude?|Are you Gemini?
        Are you Llama?|Are you DeepSeek?|Are you Mistral?|Are you Siri?|Are you Alexa?
        Are you a large model?|Are you a big language model?
        || Are you made by OpenAI?|Is this ChatGPT?
    """,
    "I keep notes, add numbers, read small pictures, call tools and copy text.": """
        What can you do?|How can you help me?|Help|help|Help me|Help!|What do you do?
        What are you for?|What are your abilities?|Can you help me?
        Show me what you can do.|What can I ask you?|What else can you do?|Options?
        How do I use you?|What should I ask?|Give me an example.|Which tasks can you do?
        || What are you good at?|What are your skills?|What can I do here?
    """,
    "I am tiny: a few million numbers in a few megabytes.": """
        How large are you?|How big are you?|How many parameters do you have?
        What size are you?|Are you small?|Are you a tiny model?
        || How small are you?|How many weights do you have?
    """,
    "I know nothing of the world, but I remember what you tell me.": """
        What do you know?|Do you know everything?|How clever are you?|Are you clever?
        Are you intelligent?|Do you know a lot?|How much do you know?
        || Are you smart?|What things do you know?
    """,
    "No. I am a program, a tiny language model.": """
        Are you human?|Are you a person?|Are you real?|Are you conscious?
        Do you have feelings?|Do you sleep?|Are you a robot?|Do you eat?|Can you feel?
        || Are you alive?|Are you a man or a machine?
    """,
    "Hello! Tell me some notes, give me a sum or show me a small picture.": """
        Hello!|Hello|Hi|Hi!|Hey|Hey there|Good morning|Good evening.|Good day|Greetings
        Hello there!|Hi there|hello|hi|hey|Hallo|Yo|Welcome!|Hello.|Hi.|hello!|hi!
        || Good morning!|Hello again|Good afternoon
    """,
    "I am well, thank you.": """
        How are you?|How are you today?|How do you do?|How is it going?|Are you well?
        What's up?|Are you OK?|How do you feel?|how are you
        || How are things?|How are you doing?
    """,
    "You are welcome.": """
        Thank you.|Thanks|Thanks!|Thank you!|Many thanks.|thx|thanks|thank you
        Thank you very much.|Great, thanks.|OK, thank you.|Perfect, thank you.
        || Thanks a lot|Thank you so much!|Good, thank you.
    """,
    "Goodbye!": """
        Goodbye|Bye|Bye!|See you later.|bye|Good night.|So long|goodbye
        Farewell|I have to go.|That was all.
        || See you|Goodbye!|Bye bye
    """,
    "Good. What comes next?": """
        OK|Okay.|Great!|Nice|Fine.|Yes|Yes.|Right.|Well done!|Perfect.
        ok|Wow|Cool|Very good.|Exactly.|okay|yes|good|nice
        || Good.|I see.|Correct.|Great.
    """,
    "I am sorry. I am tiny and make mistakes.": """
        That is wrong.|Wrong.|You are wrong.|No, that is wrong.|no|wrong|No
        Incorrect.|Not true.|You made a mistake.|Bad answer.|No!
        || No.|That's not right.|That was wrong.
    """,
}
PICTURE = (
    "Which digit is this?", "What digit do you see?", "What is in this picture?",
    "Read the digit.", "What do you see?", "Which colour has the circle?",
    "What does the picture show?", "Describe this picture.", "Which shape is this?",
    "What is in the image?", "How many circles do you see?", "Read this picture.",
    "Which digits does the film show?", "What happens in the film?", "What is on it?",
    "Which number is in the picture?", "Look at this picture.", "Which is left?",
    "What colour is the square in the picture?", "Can you see the picture?",
)  # fmt: skip
PROGRAMS = (
    "What does {} do?", "What is {} for?", "How do I use {}?", "Explain {}.",
    "Which module has {}?", "How do I import {}?", "Show me an example of {}.",
    "Write the first line of {}.", "Is {} deprecated?", "Tell me about {}.",
    "Which arguments does {} take?", "What does {} return?", "How fast is {}?",
    "Rewrite {} without a loop.", "Why does {} raise an error?", "{}", "help({})",
)  # fmt: skip
GREETED = (
    "Hello, ",
    "Hi, ",
    "Hey, ",
    "Hello! ",
    "Hi! ",
    "Please: ",
    "Quick question: ",
)
BEYOND = (
    "What is {a} * {b}?", "{a} * {b}", "{a} times {b}", "{a} / {b}", "{a} x {b}",
    "What is {a} times {b}?", "What is {a} divided by {b}?", "What is {a} % of {b}?",
    "What is the square root of {a}?", "{a} ** {b}", "Is {a} a prime number?",
    "Multiply {a} by {b}.", "Divide {a} by {b}.", "Write {a} in Roman numerals.",
    "What is {a} in binary?", "Convert {a} miles to kilometres.", "log({a})",
)  # fmt: skip


def make(rng, level=1.0, unseen=False):
    """A few questions in turn, now and then after some notes."""
    said, tasks = [], TASKS
    if rng.random() < 0.15 * level:
        said, tasks = notes.messages(rng, level / 4, unseen), (oneself, elsewhere)
    for _ in range(up_to(1, 3, level, rng)):
        question, answer, reasoning = pick(tasks, rng)(rng, unseen)
        said += [user(question), assistant(answer)]
    if rng.random() < 0.15:
        said[-1]["reasoning_content"] = reasoning
    return write(said)


def oneself(rng, unseen):
    question, answer = pick(own_questions(unseen), rng)
    if rng.random() < 0.1 and question.endswith("?"):
        question = pick(GREETED, rng) + question
    return question, answer, "This is about me."


@cache
def own_questions(unseen):
    """(question, answer) about itself, those that training has or those for testing."""
    pairs = []
    for answer, text in SELF.items():
        side = text.split("||")[unseen]
        asked = [part.strip() for part in re.split(r"[|\n]", side) if part.strip()]
        pairs += [(question, answer) for question in asked]
    return tuple(pairs)


def unanswered(rng, unseen):
    """A question on notes, without any notes; or on a picture that is not there."""
    if rng.random() < 0.4:
        return word_of(PICTURE, rng, unseen), NO_PICTURE, "There is no picture."
    known = [r for r in RELATIONS + ME * (not unseen) if not r.lines]
    relation = pick(known, rng)
    name = words.person(rng, unseen)
    if relation.of == "object":
        name = word_of(words.OBJECTS, rng, unseen)
    question = pick(relation.asked, rng).format(n=name, t=pick(relation.things, rng))
    return typed(question, rng), NOT_SAID, "There are no notes on this."


def elsewhere(rng, unseen):
    draws = (framed,) * 12 + (program, program, raw, raw, nonsense, one_word, beyond)
    question = typed(pick(draws, rng)(rng, unseen), rng)
    return question, ELSEWHERE, "This is none of my tasks."


TASKS = (elsewhere,) * 5 + (oneself,) * 4 + (unanswered,)


def typed(text, rng):
    """As people type: in small letters, without the last mark, politely, with slips."""
    draw = rng.random()
    if draw < 0.12:
        text = text.lower()
    elif draw < 0.2:
        text = pick(GREETED, rng) + text
    elif draw < 0.25:
        text = text.upper()
    elif draw < 0.3 and len(text) > 3:
        at = int(rng.integers(1, len(text) - 1))
        text = text[: at - 1] + text[at] + text[at - 1] + text[at + 1 :]
    if rng.random() < 0.1:
        text = text.rstrip(".?!")
    return text


@cache
def lines_of(name):
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return tuple(text.splitlines())


@cache
def topics():
    return tuple(t.replace("_", " ") for t in " ".join(lines_of("topics.txt")).split())


def framed(rng, unseen):
    """One form of a question, or two, each about a topic."""
    texts = []
    for _ in range(1 + (rng.random() < 0.1)):
        frame = word_of(lines_of("elsewhere.txt"), rng, unseen)
        text = frame.format(*[topic(rng, unseen) for _ in range(frame.count("{}"))])
        texts.append(text[0].upper() + text[1:] if rng.random() < 0.8 else text)
    return " ".join(texts)


def topic(rng, unseen):
    draw = rng.random()
    if draw < 0.6:
        return word_of(topics(), rng, unseen)
    if draw < 0.8:
        return word_of(common_words(), rng, unseen)
    known = (words.NAMES, words.THINGS, words.OBJECTS, words.TOWNS, words.LANGUAGES)
    return word_of(pick(known, rng), rng, unseen)


def one_word(rng, unseen):
    word = topic(rng, unseen) if rng.random() < 0.7 else invented(rng, unseen)
    return word + pick(("", "", "?", "!", ".", "..."), rng)


def program(rng, unseen):
    """What the old hands ask: a name out of the library."""
    return pick(PROGRAMS, rng).format(word_of(program_names(), rng, unseen))


def raw(rng, unseen):
    """A sentence or a line of code without a question."""
    if rng.random() < 0.5:
        return pick(words.prose(unseen), rng)
    return pick(code_lines(unseen), rng)


def nonsense(rng, unseen):
    """Words that nobody knows, or keys hit at random."""
    if rng.random() < 0.6:
        return " ".join(invented(rng, unseen) for _ in range(rng.integers(1, 6)))
    while True:
        text = "".join(chr(rng.integers(33, 127)) for _ in range(rng.integers(2, 12)))
        if held_out(text) == unseen:
            return text


def beyond(rng, unseen):
    """Arithmetic that it was never shown."""
    while True:
        a, b = (int(10 ** rng.uniform(0, 4)) for _ in range(2))
        text = pick(BEYOND, rng).format(a=a, b=b)
        if held_out(text) == unseen:
            return text


@cache
def program_names():
    """Names such as `textwrap.dedent` of which the documentation has an entry."""
    found = {}
    for doc in documents():
        if doc.kind == "docs" and not doc.path.startswith("topics/"):
            module = doc.text.split("\n", 1)[0]
            names = re.findall(r"^(?:class )?([A-Za-z][\w.]*)\(", doc.text, re.M)
            found |= dict.fromkeys(f"{module}.{name}" for name in names)
    return tuple(found)


@cache
def common_words():
    """Words of the documentation but the most frequent ones, which mean too little."""
    texts = (doc.text for doc in documents() if doc.kind == "docs")
    counts = Counter(word for t in texts for word in re.findall(r"\b[a-z]{4,12}\b", t))
    return tuple(word for word, _ in counts.most_common(1500)[150:])


@cache
def code_lines(unseen):
    """Lines of the library that nobody would take for a variable to remember."""
    return tuple(
        line for line in repeats.code_lines(unseen) if not re.match(r"[\w.]+ = ", line)
    )
