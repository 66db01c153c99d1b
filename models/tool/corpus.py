"""The synthetic corpus: people, the cities they live in, the things they have, and how many.

People, things and places are drawn anew for every dialogue, so nothing but the way of answering can be learned.
"""

from dataclasses import dataclass
from random import Random

NAMES = """Ann Bob Cara Dan Eve Finn Gia Hal Ida Jon Kim Leo Mia Ned Ola Pam Quin Ray Sue Tom Uma Val Wes Xia Yan Zoe
Abe Bea Cal Dora Eli Fay Gus Hope Ivan Jane Kurt Lena Max Nora""".split()
CITIES = """Oslo Rome Lima Cairo Delhi Paris Quito Tokyo Seoul Berlin Madrid Athens Dublin Hanoi Lagos Tunis Vienna
Warsaw Zagreb Prague Lisbon Havana Dakar Accra Kyoto Milan Turin Basel Bergen Porto Sofia Riga""".split()
NUMBERS = """two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety""".split()
THINGS = """coins apples books keys stamps maps lamps seeds bolts tiles cups pens plates ropes bells shells candles
ribbons pencils buttons""".split()
VALUES = {"home": CITIES, "count": NUMBERS}

START, END = "<|im_start|>", "<|im_end|>"
ACKS = ["Understood.", "I have read the notes.", "Thank you. I will remember the notes.", "Yes."]
UNKNOWN, UNKNOWN_WORD = "I do not know.", "Unknown"
ONE_WORD = "Answer in one word. "

# Loss weights: the prompt, the assistant's words, and the values among them.
PROMPT, REPLY, VALUE = 0.1, 0.3, 1.0


@dataclass
class World:
    homes: dict
    stock: dict


@dataclass
class Question:
    kind: str
    text: str
    before: str
    answer: str
    after: str

    def one_word(self):
        return Question(self.kind, ONE_WORD + self.text, "", self.answer, "")

    def unknown(self):
        short = self.text.startswith(ONE_WORD)
        return Question(self.kind, self.text, "", UNKNOWN_WORD if short else UNKNOWN, "")


def world(r: Random, n):
    """The homes of n people, and how many there are of n things."""
    homes = dict(zip(r.sample(NAMES, n), r.sample(CITIES, n)))
    return World(homes, dict(zip(r.sample(THINGS, n), r.sample(NUMBERS, n))))


def notes(w: World):
    homes = ", ".join(f"{name} {city}" for name, city in w.homes.items())
    stock = ", ".join(f"{thing} {count}" for thing, count in w.stock.items())
    return f"Notes: Homes: {homes}. Stock: {stock}."


def question(r: Random, w: World, kind=None):
    """The key stands one word before the question mark, and right before the value in the notes and in the answer."""
    if (kind or r.choice(["home", "count"])) == "home":
        name = r.choice(list(w.homes))
        return Question("home", f"Where does {name} live?", f"Home: {name}", w.homes[name], ".")
    thing = r.choice(list(w.stock))
    return Question("count", f"How many {thing} remain?", f"Stock: {thing}", w.stock[thing], ".")


def sum_question(r: Random):
    a, b = r.randint(0, 9), r.randint(0, 9)
    return Question("sum", f"What is {a} + {b}?", f"{a} + {b} =", str(a + b), ".")


# -- dialogues ---------------------------------------------------------------------------------------------------------

class Dialogue:
    """Token ids with a loss weight each. Soft positions stand where another agent's latent steps may stand."""

    def __init__(self, r: Random, encode, vocab_size):
        self.r, self.encode, self.vocab_size = r, encode, vocab_size
        self.ids, self.weights, self.soft = [], [], []
        self.cut = True

    def add(self, text, weight, soft=False, most=None):
        """Text is cut only where every pre-tokenizer cuts too, so that its tokens do not depend on its neighbours."""
        ids = self.encode(text)[:most]
        self.ids += ids
        self.weights += [weight] * len(ids)
        self.soft += [soft] * len(ids)

    def noise(self):
        self.ids.append(self.r.randrange(self.vocab_size))
        self.weights.append(0.0)
        self.soft.append(True)

    def open(self, role):
        """Nothing foretells a turn that comes after a hint or cuts another short."""
        self.add(START, 0.0 if self.cut else PROMPT)
        self.cut = False
        self.add(f"{role}\n", PROMPT)

    def close(self, weight):
        self.add(END, weight)
        self.add("\n", PROMPT)

    def say(self, role, text, weight=PROMPT):
        self.open(role)
        self.add(text, weight)
        self.close(weight)

    def answer(self, q: Question):
        """A value after other words carries its space; one that opens the turn has none."""
        self.open("assistant")
        self.add(q.before, REPLY)
        self.add(" " + q.answer if q.before else q.answer, VALUE)
        self.add(q.after, REPLY)
        self.close(REPLY)

    def ask(self, q: Question):
        self.say("user", q.text)
        self.answer(q)

    def handover(self):
        """The turn after the notes: whole, or cut where another agent goes on, after 0 to 10 latent steps."""
        if self.r.random() < 0.35:
            return self.say("assistant", ACKS[0], REPLY)
        self.open("assistant")
        self.add(self.going_on(self.r.choice(ACKS)), 0.0, soft=True, most=self.r.choice([0, self.r.randint(1, 10)]))
        self.cut = True

    def going_on(self, reply):
        """What a model's latent steps run through: its reply, and past the turn's end into some question."""
        q = question(self.r, world(self.r, 1))
        return f"{reply}{END}\n{START}user\n{q.one_word().text if self.r.random() < 0.3 else q.text}"

    def hint(self, answer):
        """1 to 8 positions before the prompt, among which the answer stands at least once."""
        n, style = self.r.randint(1, 8), self.r.random()
        value = answer if self.r.random() < 0.7 else " " + answer
        if style < 0.2:
            self.add(value, 0.0, soft=True)
        elif style < 0.4:
            for _ in range(n):
                self.add(value, 0.0, soft=True)
        elif style < 0.7:
            self.add(self.going_on(value), 0.0, soft=True, most=n)
        else:
            place = self.r.randrange(n)
            for i in range(n):
                self.add(value, 0.0, soft=True) if i == place else self.noise()


def notes_dialogue(d: Dialogue, most):
    """Notes, and questions that need them: in one message, in separate turns, or after a handover."""
    r = d.r
    w = world(r, r.randint(2, most))

    def draw():
        if r.random() < 0.06:
            return sum_question(r)
        q = question(r, w)
        return q.one_word() if r.random() < 0.4 else q

    if r.random() < 0.6:
        d.say("user", notes(w))
        d.handover()
    else:
        q = draw()
        d.say("user", notes(w) + r.choice(["\n", "\n\n", " "]) + q.text)
        d.answer(q)
    for _ in range(8):
        d.ask(draw())


def hint_dialogue(d: Dialogue, most):
    """A question without notes: after a hint the hint is the answer, after noise or nothing it is not known."""
    r = d.r
    q = question(r, world(r, 1))
    q = q.one_word() if r.random() < 0.5 else q
    if r.random() < 0.75:
        d.hint(q.answer)
    else:
        q = q.unknown()
        for _ in range(r.randint(1, 8) if r.random() < 0.3 else 0):
            d.noise()
    d.ask(q)
    notes_dialogue(d, most)


def dialogue(r: Random, encode, vocab_size, most):
    d = Dialogue(r, encode, vocab_size)
    if r.random() < 0.25:
        hint_dialogue(d, most)
    else:
        if r.random() < 0.05:
            d.say("system", "You are a helpful assistant.")
        notes_dialogue(d, most)
    return d
