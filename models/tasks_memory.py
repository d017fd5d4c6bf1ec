"""Facts that users tell of themselves, and the questions that a note or an earlier turn answers."""

from dataclasses import dataclass, replace

from models.talk import Talk, to_second_person, to_sentence, write_sloppily

UNKNOWN = "I don't know that yet."
ANIMALS = (
    "cat dog parrot hamster rabbit horse goldfish turtle pony kitten puppy snake lizard canary "
    "duck goat cow pig donkey hen frog ferret mouse budgie sheep"
).split()
PEOPLE = (
    "sister|brother|mother|father|aunt|uncle|cousin|wife|husband|partner|boss|neighbour|teacher|"
    "doctor|dentist|best friend|friend|son|daughter|grandmother|grandfather|colleague|flatmate|"
    "landlord|coach|manager|niece|nephew|girlfriend|boyfriend|mum|dad|grandma|grandpa"
).split("|")
NAMED = "boat car bike company band team school ship house guitar blog robot server village".split()
FAVOURITES = (
    "colour|food|city|book|film|song|band|animal|drink|season|sport|subject|game|number|dish|"
    "flower|fruit|author|word|team|place|hobby|dessert|tree|music|restaurant|singer|movie|color"
).split("|")
ATTRIBUTES = (
    "locker number|door code|phone number|room number|shoe size|flat number|seat number|"
    "house number|pin|customer number|ticket number|student number|bus line|lucky number|"
    "bank code|alarm code|gate number|bike lock code"
).split("|")
OBJECTS = (
    "keys|passport|glasses|wallet|umbrella|phone|ticket|charger|camera|headphones|car|bike|"
    "suitcase|laptop|gloves|letter|spare key|tools|medicine|tent"
).split("|")
EVENTS = (
    "meeting|exam|flight|wedding|concert|interview|holiday|appointment|party|course|test|"
    "dentist appointment|train|match|lecture|anniversary|deadline|trip|moving day"
).split("|")


@dataclass(frozen=True)
class Relation:
    """Statements with their value `{v}`, and perhaps a noun `{n}`, and questions about them."""

    key: str
    kind: str
    nouns: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]


RELATIONS = (
    Relation(
        "named", "name", "named",
        ("my {n} is called {v}", "my {n}'s name is {v}", "the name of my {n} is {v}",
         "my {n} is named {v}"),
        ("what is my {n} called?", "what's my {n} called?", "what is the name of my {n}?",
         "what is my {n}'s name?", "do you know my {n}'s name?", "how is my {n} called?",
         "what was my {n} called?", "tell me the name of my {n}", "what did I call my {n}?",
         "can you tell me what my {n} is called?"),
    ),
    Relation(
        "has", "name", "animal",
        ("I have a {n} called {v}", "I have a {n} named {v}", "I got a {n} called {v}"),
        ("what is my {n} called?", "what is the name of my {n}?", "what's my {n}'s name?"),
    ),
    Relation(
        "favourite", "taste", "favourite",
        ("my favourite {n} is {v}", "{v} is my favourite {n}"),
        ("what is my favourite {n}?", "what's my favourite {n}?", "which {n} do I like best?",
         "do you know my favourite {n}?", "tell me my favourite {n}",
         "which {n} is my favourite?"),
    ),
    Relation(
        "home", "city", "",
        ("I live in {v}", "my home is in {v}", "I am living in {v}", "I'm living in {v}"),
        ("where do I live?", "in which city do I live?", "what city do I live in?",
         "where is my home?", "which town do I live in?", "do you know where I live?"),
    ),
    Relation(
        "origin", "city", "",
        ("I come from {v}", "I am from {v}", "I was born in {v}", "I'm from {v}",
         "I grew up in {v}"),
        ("where do I come from?", "where am I from?", "where was I born?",
         "where did I grow up?"),
    ),
    Relation(
        "visit", "city", "",
        ("I want to visit {v}", "I would like to travel to {v}", "my next trip goes to {v}"),
        ("where do I want to go?", "which city do I want to visit?", "where do I want to travel?",
         "where does my next trip go?"),
    ),
    Relation(
        "job", "job", "",
        ("I work as a {v}", "I am a {v}", "my job is {v}", "I'm a {v}"),
        ("what is my job?", "what do I do for a living?", "what do I work as?", "what's my job?",
         "what is my profession?", "do you remember my job?"),
    ),
    Relation(
        "employer", "name", "",
        ("I work at {v}", "I work for {v}", "my employer is {v}"),
        ("where do I work?", "who do I work for?", "what is my employer?",
         "which company do I work for?"),
    ),
    Relation(
        "self", "name", "",
        ("my name is {v}", "I am called {v}"),
        ("what is my name?", "who am I?", "what's my name?", "do you know my name?",
         "how am I called?"),
    ),
    Relation(
        "age", "number", "",
        ("I am {v} years old", "my age is {v}", "I'm {v} years old"),
        ("how old am I?", "what is my age?"),
    ),
    Relation(
        "birthday", "date", "",
        ("my birthday is on {v}", "my birthday is {v}", "I was born on {v}"),
        ("when is my birthday?", "what day is my birthday?", "when was I born?",
         "what is my date of birth?"),
    ),
    Relation(
        "event", "when", "event",
        ("my {n} is on {v}", "my {n} is at {v}", "the {n} is at {v}", "the {n} is on {v}",
         "my {n} starts at {v}", "I have a {n} at {v}",
         "I have a {n} on {v}"),
        ("when is my {n}?", "when is the {n}?", "at what time is my {n}?",
         "when does my {n} start?",
         "what time is my {n}?", "when do I have my {n}?"),
    ),
    Relation(
        "allergy", "food", "",
        ("I am allergic to {v}", "I have an allergy to {v}", "I can't eat {v}",
         "I'm allergic to {v}"),
        ("what am I allergic to?", "which food am I allergic to?", "what can't I eat?",
         "do I have an allergy?", "do you know my allergy?"),
    ),
    Relation(
        "like", "food", "",
        ("I like {v}", "I love {v}", "I like to eat {v}"),
        ("what do I like?", "what do I love?", "what do I like to eat?"),
    ),
    Relation(
        "dislike", "food", "",
        ("I hate {v}", "I don't like {v}", "I can't stand {v}"),
        ("what do I hate?", "what don't I like?", "what do I not like?"),
    ),
    Relation(
        "instrument", "word", "",
        ("I play the {v}", "I am learning the {v}"),
        ("which instrument do I play?", "what do I play?", "what instrument do I play?"),
    ),
    Relation(
        "hobby", "word", "",
        ("my hobby is {v}", "in my free time I do {v}"),
        ("what is my hobby?", "what do I do in my free time?", "do I have a hobby?"),
    ),
    Relation(
        "drives", "name", "",
        ("I drive a {v}", "my car is a {v}"),
        ("what car do I drive?", "which car do I have?", "what do I drive?",
         "what kind of car do I have?"),
    ),
    Relation(
        "school", "name", "",
        ("I go to {v} school", "my school is {v}", "I study at {v}"),
        ("which school do I go to?", "what is my school?", "where do I study?"),
    ),
    Relation(
        "studies", "word", "",
        ("I study {v}", "I am studying {v}"),
        ("what do I study?", "what am I studying?", "which subject do I study?"),
    ),
    Relation(
        "speaks", "word", "",
        ("I speak {v}", "my language is {v}", "I am learning to speak {v}"),
        ("which language do I speak?", "what language do I speak?"),
    ),
    Relation(
        "attribute", "number", "attribute",
        ("my {n} is {v}", "{v} is my {n}"),
        ("what is my {n}?", "what's my {n}?", "do you know my {n}?", "tell me my {n}",
         "can you tell me my {n}?", "what was my {n}?"),
    ),
    Relation(
        "stored", "word", "object",
        ("my {n} is in the {v}", "I put my {n} in the {v}", "I left my {n} in the {v}",
         "the {n} is in the {v}", "my {n} are in the {v}"),
        ("where is my {n}?", "where did I put my {n}?", "where did I leave my {n}?",
         "where are my {n}?"),
    ),
    Relation(
        "person home", "city", "person",
        ("my {n} lives in {v}", "my {n} comes from {v}", "my {n} moved to {v}"),
        ("where does my {n} live?", "where is my {n}?", "where does my {n} come from?",
         "in which city is my {n}?"),
    ),
    Relation(
        "person job", "job", "person",
        ("my {n} is a {v}", "my {n} works as a {v}"),
        ("what does my {n} do?", "what is my {n}'s job?", "what does my {n} work as?"),
    ),
    Relation(
        "person like", "food", "person",
        ("my {n} likes {v}", "my {n} loves {v}"),
        ("what does my {n} like?", "what does my {n} love?"),
    ),
    Relation(
        "count", "number", "animal",
        ("I have {v} {n}s", "I own {v} {n}s", "there are {v} {n}s on my farm"),
        ("how many {n}s do I have?", "how many {n}s are there?"),
    ),
)  # fmt: skip
REMEMBER = ("{}",) * 7 + (
    "remember that {}", "please remember that {}", "note that {}", "remember: {}",
    "don't forget that {}", "by the way, {}", "for the record: {}", "you should know that {}",
)  # fmt: skip
IDLE_NOTES = (
    "hello", "hi", "thanks", "thank you", "tell me a joke", "good morning", "ok", "bye", "hey",
    "tell me a story", "I am happy.", "nice", "good night", "help", "Hello!", "great",
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """One statement with what it is about, so that no two facts of a dialogue contradict."""

    key: tuple[str, ...]
    statement: str
    value: str
    question: str


def make_fact(talk: Talk, relation: Relation | None = None, noun: str | None = None) -> Fact:
    """A new fact that nothing in the dialogue has told yet."""
    while True:
        chosen = relation or talk.rng.choice(RELATIONS + RELATIONS[:1] * 5 + RELATIONS[2:3] * 2)
        subject = noun or _pick_noun(talk, chosen.nouns)
        noun = None
        key = _key(chosen, subject)
        if key in talk.facts:
            relation = None
            continue
        value = _pick_value(talk, chosen.kind)
        statement = talk.rng.choice(chosen.statements).format(n=subject, v=value)
        if talk.rng.random() < 0.25:
            statement = (
                statement.replace("I ", "i ", 1) if statement.startswith("I ") else statement
            )
        elif talk.rng.random() < 0.15:
            statement = statement[0].upper() + statement[1:]
        question = write_sloppily(talk.rng, talk.rng.choice(chosen.questions)).format(n=subject)
        return Fact(key, statement, value, question)


def make_facts(talk: Talk, count: int) -> list[Fact]:
    """Facts of one dialogue; every other one is of the kind of the one before."""
    facts: list[Fact] = []
    relation = None
    for _ in range(count):
        fact = make_fact(talk, relation)
        talk.facts[fact.key] = fact.statement
        facts.append(fact)
        similar = [each for each in RELATIONS if each.key == fact.key[0] and each.nouns]
        relation = similar[0] if similar and talk.rng.random() < 0.6 else None
    return facts


def recall_from_notes(talk: Talk) -> None:
    """A question below the notes that memory found, one of which answers it, or none."""
    facts = make_facts(talk, talk.rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8)))
    if len(facts) > 1 and talk.rng.random() < 0.12:
        joint = f"{facts[0].statement} and {facts[1].statement}"
        facts[:2] = [replace(fact, statement=joint) for fact in facts[:2]]
    notes = list(dict.fromkeys(fact.statement for fact in facts))
    if talk.rng.random() < 0.22:
        missing = make_fact(talk)
        talk.user(_with_notes(talk, notes, missing.question))
        talk.say(UNKNOWN, "recall_unknown")
        return
    asked = talk.rng.choice(facts)
    talk.user(_with_notes(talk, notes, asked.question))
    talk.say(to_sentence(asked.statement), "recall_notes", asked.value)
    for fact in talk.rng.sample(facts, min(len(facts), talk.rng.choice((0, 0, 1, 2, 3)))):
        talk.user(fact.question)
        talk.say(to_sentence(fact.statement), "recall_earlier", fact.value)


def tell_fact(talk: Talk) -> None:
    """A statement, three times in ten below notes, and its acknowledgement."""
    facts = make_facts(talk, talk.rng.choice((1, 2, 3, 4)) if talk.rng.random() < 0.3 else 1)
    told = facts[-1]
    if talk.rng.random() < 0.1:
        other = make_facts(talk, 1)[0]
        told = replace(told, statement=f"{told.statement} and {other.statement}")
    text = talk.rng.choice(REMEMBER).format(told.statement)
    if text == told.statement and talk.rng.random() < 0.3:
        text += talk.rng.choice(".!")
    notes = [fact.statement for fact in facts[:-1]]
    talk.user(_with_notes(talk, notes, text) if notes else text)
    talk.say(f"Got it, {to_second_person(told.statement)}.", "acknowledge", told.value)


def recall_earlier(talk: Talk) -> None:
    """A few statements, acknowledged one by one, then questions about them."""
    told = []
    for _ in range(talk.rng.choice((1, 2, 2, 3, 4))):
        tell_fact_of(talk, fact := make_facts(talk, 1)[0])
        told.append(fact)
    for fact in talk.rng.sample(told, talk.rng.randint(1, len(told))):
        talk.user(fact.question)
        talk.say(to_sentence(fact.statement), "recall_earlier", fact.value)
    if talk.rng.random() < 0.25:
        talk.user(make_fact(talk).question)
        talk.say(UNKNOWN, "recall_unknown")


def tell_fact_of(talk: Talk, fact: Fact) -> None:
    """The turn that tells one given fact."""
    talk.user(talk.rng.choice(REMEMBER).format(fact.statement))
    talk.say(f"Got it, {to_second_person(fact.statement)}.", "acknowledge", fact.value)


def notes_above(talk: Talk, question: str) -> str:
    """A question that the notes have nothing to do with, below one to four notes."""
    facts = make_facts(talk, talk.rng.randint(1, 4))
    return _with_notes(talk, [fact.statement for fact in facts], question)


def _with_notes(talk: Talk, notes: list[str], text: str) -> str:
    notes = [_as_typed(talk, note) for note in notes]
    if talk.rng.random() < 0.25:
        notes.append(talk.rng.choice(IDLE_NOTES))
    talk.rng.shuffle(notes)
    return "Notes from memory:\n" + "".join(f"- {note}\n" for note in notes) + f"\n{text}"


def _as_typed(talk: Talk, note: str) -> str:
    """The note as the user once typed it, perhaps with "remember that" or a full stop."""
    draw = talk.rng.random()
    return f"{note}." if draw < 0.08 else talk.rng.choice(REMEMBER).format(note)


def _key(relation: Relation, noun: str) -> tuple[str, ...]:
    """Relations that one question may fit share a key."""
    name = {"has": "named", "person home": "person", "stored": "object"}.get(
        relation.key, relation.key
    )
    if name in ("instrument", "hobby", "studies", "speaks", "like", "dislike"):
        return (name,)
    if name in ("home", "origin", "visit", "job", "employer", "school"):
        return (name,)
    return (name, noun.replace("color", "colour"))


def _pick_noun(talk: Talk, nouns: str) -> str:
    rng = talk.rng
    if not nouns:
        return ""
    if nouns == "named":
        noun = rng.choice(rng.choice((ANIMALS, ANIMALS, PEOPLE, NAMED)))
        if rng.random() < 0.15:
            return talk.fillers.word()
        return f"{rng.choice(PEOPLE)}'s {noun}" if rng.random() < 0.25 else noun
    if nouns == "event" and rng.random() < 0.2:
        link = rng.choice(("with", "with", "of", "for"))
        return f"{rng.choice(EVENTS)} {link} {talk.fillers.name()}"
    if rng.random() < 0.1 and nouns not in ("person",):
        return talk.fillers.word()
    pools = {
        "animal": ANIMALS, "person": PEOPLE, "favourite": FAVOURITES, "event": EVENTS,
        "attribute": ATTRIBUTES, "object": OBJECTS,
    }  # fmt: skip
    return rng.choice(pools[nouns])


def _pick_value(talk: Talk, kind: str) -> str:
    rng = talk.rng
    if kind == "taste":
        kind = rng.choice(("word", "food", "name", "city", "number"))
    if kind == "when":
        kind = rng.choice(("time", "date", "day"))
    if kind == "day":
        return f"{talk.fillers.time()} on {rng.choice(('Monday', 'Friday', 'Sunday', 'Tuesday'))}"
    if kind == "name" and rng.random() < 0.1:
        kind = "full"
    value = talk.fillers.fill(kind)
    return value.lower() if rng.random() < 0.2 else value
