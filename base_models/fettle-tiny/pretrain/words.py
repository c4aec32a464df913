"""Everyday words and sentences for the corpus: politeness, fillers, names, numbers, and plain prose."""

import random


def _words(text: str) -> list[str]:
    return text.split()


def _phrases(text: str) -> list[str]:
    return [phrase.strip() for phrase in text.replace("\n", " ").split("|")]


SYLLABLES = _words("""
ba be bi bo bu ca ce co da de di do fa fe fi fo ga ge go ha he hi ho ja jo ka ke ki ko la le li lo lu ma me mi mo mu
na ne ni no nu pa pe pi po ra re ri ro ru sa se si so su ta te ti to tu va ve vi vo wa we wi za ze zo ar el in on er
an or al est ing ton ber lan mar tor vin sel dor fen gor han kel lum nor pel quin ras sto tha ul ven wex yor zan
""")

# The empty ones at the end of the next two: often people open or close with nothing.
OPENINGS = _phrases("""
please | could you | can you | would you | I need you to | I want you to | kindly | hey, | hi, | hello, please | now
| quickly | go ahead and | time to | let us | I would like to | we have to | be so kind and | next, | ok, | alright,
| it would be great to | do me a favour and | you should | make sure to | remember to | try to | help me to | we
need to |||||
""")

CLOSINGS = _phrases("""
please | thanks | thank you | right away | when you can | if possible | as soon as you can | will you | for me | for
us | it is urgent | no hurry | if you do not mind | today if you can | cheers | as agreed | that is all |||||||||||
""")

PEOPLE = _words("""
Anna Boris Carla David Elena Felix Grace Hugo Irene Jonas Karin Lukas Maria Nadia Oscar Paula Quentin Rosa Simon
Tara Ursula Victor Wanda Xavier Yusuf Zoe Amir Bella Chen Dara Emil Fatima George Hana Ivan Julia
""")

ADJECTIVES = _words("""
small large old new green red blue heavy early late quiet bright narrow gentle round broken fresh frozen golden
hollow famous simple strange clean empty warm cold quick slow soft loud tall short wide
""")

NUMBERS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60,
    "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip

DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "today", "tomorrow"]

SUBJECTS = _phrases("""
the function | this module | the parser | the old captain | a small bird | the program | every reader | the library
| our neighbour | the compiler | this class | the river | a careful student | the server | the method | the wind |
an iterator | the object | the teacher | the socket | a young painter | the path | the caller | my sister | the
interpreter | the gardener
""")

PREDICATES = _phrases("""
returns a list of values | reads the file line by line | raises an error when the key is missing | sleeps in the
shade of the tree | writes the result to the stream | carries water up the hill | takes one argument and an optional
default | converts a string to an integer | waits until the lock is free | knows the way to the market | stores
every item in order | creates a new instance from the given arguments | checks whether the name is valid | sings
before the sun comes up | encodes text as bytes | closes the connection after a timeout | walks along the quiet
street | finds the first match in the text | is called once for each element | counts the words on the page | opens
the door and looks outside | sorts the entries by date | removes duplicates from the sequence | keeps a copy of the
data | tells a story about the sea | compares two numbers and gives the larger one | handles the request and sends a
response | formats the message for display
""")

LINKS = ["and then", "because", "while", "but", "so that", "if", "after", "although", "and", "when"]


def nonsense(rng: random.Random) -> str:
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3)))


def some_word(rng: random.Random) -> str:
    pool = rng.choice([PEOPLE, ADJECTIVES, DAYS, list(NUMBERS), None, None])
    return rng.choice(pool) if pool else nonsense(rng)


def sentence(rng: random.Random) -> str:
    parts = [f"{rng.choice(SUBJECTS)} {rng.choice(PREDICATES)}"]
    while rng.random() < 0.4:
        parts.append(f"{rng.choice(LINKS)} {rng.choice(SUBJECTS)} {rng.choice(PREDICATES)}")
    text = " ".join(parts)
    return text[0].upper() + text[1:] + "."


def dress(rng: random.Random, request: str) -> str:
    """Puts a request into the words that people wrap around one."""
    opening, closing = rng.choice(OPENINGS), rng.choice(CLOSINGS)
    text = f"{opening} {request}" if opening else request
    if closing:
        text += rng.choice([", ", " "]) + closing
    if rng.random() < 0.5:
        text = text[0].upper() + text[1:]
    return text + rng.choice(["", ".", ".", "!", "?"])
