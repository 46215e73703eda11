"""Words that the tasks are about, some of them kept for testing.

Whatever a task asks about (names, things, variables) is held out when the hash of the
word says so; what it answers with (colours, towns, numbers) is not.
"""

import re
from collections import Counter
from functools import cache

from .text import documents
from .text import held_out as text_held_out

HELD_OUT = 1 / 8


def listed(text):
    return tuple(text.split())


NAMES = listed("""
Ada Adam Agnes Aiko Alan Alba Alex Ali Alice Alma Amara Amir Amy Ana Anders Andre Anika
Anita Anna Ann Anton Arif Arne Arthur Asha Astrid Ava Ayla Barbara Beatrice Ben Bella
Bianca Bill Birgit Björn Bo Bob Boris Brenda Bruno Carla Carlos Carmen Carol Cecilia
Celine Cem Chen Chidi Chloe Clara Claude Cleo Colin Cora Dana Daniel Daria Dario David
Deepa Diana Dieter Dina Dora Doris Dunja Edgar Edith Eli Elena Elif Elsa Elvis Emil
Emma Enzo Eric Erika Esther Eva Fatima Felix Femi Fiona Flora Frank Frida Fritz Gabriel
Gary George Gerda Gina Greta Gustav Hana Hannah Hans Harry Hassan Heidi Helen Henry Hugo
Ian Ibrahim Ida Ilse Imani Inga Ingrid Irene Iris Isaac Ivan Ivy Jack Jacob James Jane
Jasper Jean Jens Jill Joan Joe John Jonas Jorge Joy Juan Judy Julia June Kai Kamal Karen
Karl Kate Kavya Keiko Ken Kim Kira Klaus Lara Lars Laura Lea Lee Lena Leo Leon Lila Lina
Linda Lisa Liu Lola Louis Lucy Luis Luna Mabel Maja Malik Marc Maria Marie Mario Mark
Marta Mary Mateo Max Maya Mei Mia Mila Milo Mina Mira Mo Mona Nadia Naomi Nasrin Nico
Nils Nina Noah Nora Noor Olaf Olga Oliver Omar Oscar Otto Pablo Pat Paul Paula Pavel
Penny Peter Petra Pia Priya Quentin Quinn Rafael Rahel Raj Ralph Ravi Rita Robert Robin
Rosa Roy Ruben Ruth Sally Sam Samira Sandra Sara Sean Selma Simon Sina Sofia Sonja Stan
Stella Sue Sven Tamar Tanya Tara Ted Tessa Theo Thomas Tilda Tim Tina Tobias Tom Tony
Uma Ursula Vera Victor Viola Wanda Wei Will Wim Xenia Yann Yara Yuki Yusuf Zara Zoe
""")
THINGS = listed("""
pears apples plums figs cherries lemons melons peaches grapes olives nuts eggs carrots
onions beans books pens pencils coins stamps cards boxes bags cups plates spoons forks
knives bottles candles lamps chairs tables keys shoes hats coats shirts socks buttons
stones shells feathers leaves flowers roses trees seeds cats dogs hens cows sheep goats
pigs ducks bees fish birds horses bikes cars boats kites balls dolls drums bells ropes
nails screws bricks cakes rolls pies cookies sweets tickets letters maps photos
""")
OBJECTS = listed("""
key lamp book map ring watch phone purse letter ladder hammer saw rope kettle pan knife
spoon cup plate bottle jar basket box chest safe door gate window clock chair table sofa
bed desk shelf mirror carpet curtain pillow blanket coat hat scarf umbrella boot shoe
glove bag suitcase bike car van boat kite ball drum flute violin camera radio laptop
pen pencil brush ticket passport coin stamp candle vase tent cat dog parrot bakery shop
museum library school station bank cellar garage shed attic
""")
PLACES = listed("""
drawer cellar attic garage garden kitchen hall office shed barn bath bedroom library
cupboard fridge basket box bag car boat tower yard park school shop museum bank station
tent cave forest pond oven sink wardrobe suitcase desk lobby lift cafe
""")
TOWNS = listed("""
Oslo Rome Paris London Berlin Madrid Lisbon Vienna Prague Warsaw Athens Dublin Cairo
Lagos Nairobi Accra Tunis Delhi Mumbai Tokyo Kyoto Seoul Hanoi Manila Sydney Perth Lima
Bogota Quito Havana Boston Chicago Denver Dallas Toronto Ottawa Zurich Geneva Bern Basel
Milan Turin Naples Venice Porto Malaga Lyon Nice Lille Hamburg Munich Cologne Leipzig
Bergen Turku Riga Tallinn Vilnius Minsk Kyiv Sofia Zagreb Belgrade Ankara Izmir Tehran
""")
COLOURS = listed("red blue green yellow black white brown grey pink purple orange gold")
JOBS = listed("""
baker nurse pilot farmer teacher doctor cook driver painter singer dancer writer lawyer
judge tailor barber plumber miner sailor fisher gardener dentist clerk carpenter
""")
LANGUAGES = listed("""
Dutch French German Greek Hindi Italian Japanese Korean Latin Polish Russian Spanish
Swahili Swedish Tamil Thai Turkish Urdu Welsh Zulu
""")
GAMES = listed("""
chess golf tennis football cards darts rugby hockey poker bridge checkers volleyball
""")
DAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
PETS = listed("cat dog horse parrot hamster rabbit goat pony")
LETTERS = listed("A B C D E F G H J K L M N O P Q R S T U V W X Y Z")
VARIABLES = listed("""
a b c d e f g h i j k l m n o p q r s t u v w x y z total count size name age price
width height depth score limit start end step speed rate level index left right top
bottom first last low high mean best value result item key node line page word text
color city day month year hour weight length colour points items_left max_size
""")

SENTENCE = r"(?<=\. )[A-Z][a-z' ,]{15,80}\.(?= |$)"
ONSETS = listed("b d f g h j k l m n p r s t v w z br dr kr tr pl st sh ch th")
VOWELS = listed("a e i o u ai ou ea")
CODAS = ("", "", "", "n", "l", "r", "s", "x", "m", "t", "nd", "rk")


def held_out(text, share=HELD_OUT):
    """Is a word, or whatever stands for a choice, kept for testing?"""
    return text_held_out(text, share)


@cache
def on_side(words, unseen):
    """Those of a tuple of words that are held out, or those that are not."""
    return tuple(word for word in words if held_out(word) == unseen)


def pick(choices, rng):
    return choices[rng.integers(len(choices))]


def up_to(low, high, level, rng):
    """A whole number, uniform between `low` and as much of `high` as `level` allows."""
    return int(rng.integers(low, low + round(level * (high - low)) + 1))


def word_of(words, rng, unseen):
    return pick(on_side(words, unseen), rng)


def person(rng, unseen):
    """A name: well known, invented or, in training only, a single letter."""
    kind = rng.random()
    if kind < 0.6:
        return word_of(NAMES, rng, unseen)
    if kind < 0.7 and not unseen:
        return pick(LETTERS, rng)
    return invented(rng, unseen).capitalize()


def invented(rng, unseen):
    """A word of two or three syllables that hardly anybody has seen."""
    while True:
        more = (ONSETS, VOWELS) if rng.random() < 0.2 else ()
        parts = (ONSETS, VOWELS, *more, ONSETS, VOWELS, CODAS)
        word = "".join(pick(part, rng) for part in parts)
        if held_out(word) == unseen:
            return word


@cache
def code_words():
    """Words that training files of the library use often."""
    texts = (d.text for d in documents() if d.kind == "source" and not d.held_out)
    counts = Counter(word for t in texts for word in re.findall(r"\b[a-z]{3,10}\b", t))
    return tuple(word for word, _ in counts.most_common(1000))


@cache
def prose(unseen):
    """Short sentences of the documentation, from training files or held-out ones."""
    found = {}
    for document in documents():
        if document.kind == "docs" and document.held_out == unseen:
            text = re.sub(r"\s+", " ", document.text)
            found |= dict.fromkeys(re.findall(SENTENCE, text))
    return tuple(found)
