"""Work on a given text: questions to a passage, its key sentences, its sentiment and its intent."""

from models.talk import Talk, write_sloppily

NOT_SAID = "The text does not say."

# A sentence about {n}, the question for its value {v}, and the value's kind.
PASSAGE_FACTS = (
    ("{n} lives in {v}.", "Where does {n} live?", "city"),
    ("{n} was born in {v}.", "Where was {n} born?", "city"),
    ("{n} works as a {v}.", "What is the job of {n}?", "job"),
    ("{n} likes {v} very much.", "What does {n} like?", "food"),
    ("{n} is {v} years old.", "How old is {n}?", "number"),
    ("The best friend of {n} is {v}.", "Who is the best friend of {n}?", "name"),
    ("{n} has a dog called {v}.", "What is the dog of {n} called?", "name"),
    ("The favourite colour of {n} is {v}.", "What is the favourite colour of {n}?", "word"),
    ("The bridge of {n} was built by {v}.", "Who built the bridge of {n}?", "full"),
    ("The town of {n} has {v} people.", "How many people live in {n}?", "number"),
    ("The museum of {n} opens at {v}.", "When does the museum of {n} open?", "time"),
    ("The train to {n} leaves at {v}.", "When does the train to {n} leave?", "time"),
    ("{n} was founded in {v}.", "When was {n} founded?", "number"),
    ("The mayor of {n} is {v}.", "Who is the mayor of {n}?", "full"),
    ("The river of {n} is called {v}.", "What is the river of {n} called?", "name"),
    ("{n} is known for its {v}.", "What is {n} known for?", "word"),
    ("{n} sells {v}.", "What does {n} sell?", "food"),
    ("A ticket to {n} costs {v} crowns.", "How much is a ticket to {n}?", "number"),
    ("{n} keeps the {v} in the cellar.", "What does {n} keep in the cellar?", "word"),
    ("{n} visited {v} last year.", "Which city did {n} visit last year?", "city"),
    ("The festival of {n} is on {v}.", "When is the festival of {n}?", "date"),
    ("{n} plays the {v} every evening.", "Which instrument does {n} play?", "word"),
    ("The teacher of {n} is {v}.", "Who is the teacher of {n}?", "name"),
    ("The password of {n} is {v}.", "What is the password of {n}?", "words"),
)
TOPICS = (
    "The {w} of {n} changed a lot this year.", "This text is about the {w} of {n}.",
    "{n} opened a new {w} last week.", "The {w} is important for {n}.",
    "Many people in {c} talk about the {w}.", "A {w} from {c} became famous.",
    "The people of {c} want a new {w}.", "{n} wrote a report about the {w}.",
    "There is news about the {w} in {c}.", "The project {n} is about a {w}.",
)  # fmt: skip
CUES = (
    "The main point is that the {w} needs a {w2}.", "In short, the {w} is better than the {w2}.",
    "Most importantly, {n} will keep the {w}.", "As a result, {n} has {d} new {w}s.",
    "In short, {n} decided to build a {w} in {c}.", "The main point is that {c} has a {w}.",
    "As a result, the {w} will open on {t}.", "Most importantly, the {w} costs {d} crowns.",
    "In short, the {w} was a success.", "As a result, the {w} was closed.",
    "The main point is that {n} found the {w}.", "Most importantly, nobody lost a {w}.",
)  # fmt: skip
FILLERS = (
    "The {w} was next to a {w2}.", "Some people saw a {w} there.", "{n} brought a {w} and a {w2}.",
    "It was a day like any other.", "A {w} stood near the {w2}.", "The weather in {c} was good.",
    "{n} talked to {n2} about the {w}.", "There were {d} {w}s in the {w2}.",
    "Later {n} went home.", "The {w} was old and the {w2} was new.", "It took {d} days.",
    "{n} did not like the {w}.", "Everybody had a {w} to carry.", "Then {n} showed them the {w}.",
    "A friend of {n} came from {c}.", "The {w} looks like a {w2}.", "Nobody asked for the {w}.",
    "On {t} there was a {w}.", "{n2} has known {n} for {d} years.",
)  # fmt: skip

GOOD = (
    "great|wonderful|excellent|lovely|fantastic|amazing|delicious|perfect|beautiful|brilliant|"
    "superb|good|nice|pleasant|awesome|fun|delightful|very good|really nice"
).split("|")
BAD = (
    "terrible|awful|horrible|bad|boring|disappointing|disgusting|ugly|poor|useless|broken|"
    "dreadful|annoying|sad|worst|nasty|very bad|really bad|a waste of time"
).split("|")
MEASURES = "absolutely really very totally so just truly quite completely simply utterly".split()
POSITIVE = (
    "I love this {w}.", "The {w} was {g}.", "What a {g} {w}!", "{n} was so kind and {g}.",
    "I am very happy with the {w}.", "The {w} works well and looks {g}.", "I enjoyed the {w}.",
    "We had a {g} time in {c}.", "Thank you for the {g} {w}, I will come back.", "{g}, just {g}!",
    "This is the best {w} I ever had.", "The {w} is not bad at all, it is {g}.",
    "I really like the {w}, it is {g}.", "I recommend the {w} to everyone.", "This {w} is {g}!",
    "I {m} loved the {w}.", "I {m} love {w}!", "We {m} enjoyed the {w}.", "{n} loves the {w}.",
    "The {w} made me so happy.", "It was {m} {g}.", "{m} {g} {w}, thank you!", "I adore the {w}.",
    "My {w} is {m} {g}.", "The {w} was better than I thought, {m} {g}.", "I am glad I came.",
    "{n} was friendly and the {w} was {g}.", "Five stars for the {w}.", "I liked the {w} a lot.",
)  # fmt: skip
NEGATIVE = (
    "I hate this {w}.", "The {w} was {b}.", "What a {b} {w}!", "{n} was rude and {b}.",
    "I am very unhappy with the {w}.", "The {w} broke after {d} days.", "I did not enjoy the {w}.",
    "We had a {b} time in {c}.", "I want my money back, the {w} is {b}.", "{b}, just {b}!",
    "This is the worst {w} I ever had.", "The {w} is not good at all, it is {b}.",
    "I really dislike the {w}, it is {b}.", "I would never buy the {w} again.", "This {w} is {b}!",
    "I {m} hated the {w}.", "I {m} hate {w}!", "We {m} disliked the {w}.", "{n} hates the {w}.",
    "The {w} made me so angry.", "It was {m} {b}.", "{m} {b} {w}, no thanks!", "I regret the {w}.",
    "My {w} is {m} {b}.", "The {w} was worse than I thought, {m} {b}.", "I am sorry I came.",
    "{n} was unfriendly and the {w} was {b}.", "One star for the {w}.", "I did not like the {w}.",
)  # fmt: skip
NEUTRAL = (
    "The {w} is in the {w2}.", "{n} lives in {c}.", "The {w} has {d} parts.",
    "The train leaves at {t}.", "The {w} was delivered on Monday.", "There is a {w} on the table.",
    "{n} works in {c}.", "The shop opens at {t}.", "The {w} costs {d} crowns.",
    "{n} bought a {w} and a {w2}.", "The meeting is at {t}.", "The {w} is made of {w2}.",
    "{c} has {d} streets.", "The {w} and the {w2} are in the box.",
)  # fmt: skip
INTENTS = {
    "question": (
        "Where is the {w}?", "When does the {w} open?", "How much is the {w}?", "Who is {n}?",
        "What is a {w}?", "Is there a {w} in {c}?", "Do you have a {w}?", "Why is the {w} closed?",
        "Does the train to {c} leave at {t}?", "How do I get to {c}?", "Which {w} is cheaper?",
    ),
    "request": (
        "Please send me the {w}.", "Could you bring a {w} to {n}?", "Please call {n} at {t}.",
        "I would like to order {d} {w}s.", "Can you book a room in {c} for me?",
        "Please cancel my {w}.", "Give me the {w}, please.", "I need a {w} by Monday, please.",
        "Would you please open the {w}?", "Please change the {w} to {t}.", "Send a {w} to {c}.",
    ),
    "complaint": (
        "The {w} is broken.", "My {w} arrived {d} days late.", "The {w} does not work.",
        "I am not happy with the {w}.", "{n} was very rude to me.", "I want my money back.",
        "My {w} never arrived.", "The {w} is too slow.",
        "The {w} that you sent is the wrong one.", "I have been waiting for the {w} for {d} days.",
        "This is unacceptable, the {w} is dirty.", "Your {w} is terrible.", "Nobody answers me!",
    ),
    "praise": (
        "Great job with the {w}!", "The {w} is wonderful, thank you.", "{n} did excellent work.",
        "I love the new {w}.", "Your {w} is the best in {c}.", "Well done, {n}!",
        "Thank you so much for the {w}.", "The {w} works perfectly.", "You are very helpful.",
        "What a lovely {w}, thank you!", "I am very happy with the {w}.",
    ),
    "greeting": (
        "Hello {n}!", "Good morning, {n}.", "Hi there!", "Hey {n}, how are you?", "Good evening!",
        "Hello everybody in {c}!", "Nice to meet you, {n}.", "Greetings from {c}!", "Hi {n}",
        "Good afternoon {n}, I hope you are well.", "Welcome, {n}!",
    ),
}  # fmt: skip
CUE_OPENINGS = ("The main point is that ", "In short, ", "Most importantly, ", "As a result, ")
LINKS = (
    "the the the a a of of to to in in and and is was with for on that it from by at as has have "
    "will not but they she he their more first new after before his her its were had who which "
    "can could would about into over than most many some all one two when where because said"
).split()


def answer_from_text(talk: Talk) -> None:
    """A question that one sentence of the text answers, or (one in eight) none does."""
    rng = talk.rng
    names = [talk.fillers.name() for _ in range(rng.randint(1, 3))]
    pairs = {(rng.choice(names), rng.choice(PASSAGE_FACTS)) for _ in range(rng.randint(2, 7))}
    missing = rng.random() < 0.2 and len(pairs) > 1
    facts = sorted(pairs)
    rng.shuffle(facts)
    values = [talk.fillers.fill(kind) for _, (_, _, kind) in facts]
    lines = [fact[0].format(n=name, v=v) for (name, fact), v in zip(facts, values, strict=True)]
    asked = rng.randrange(len(facts))
    if missing:
        lines.pop(asked)
    if rng.random() < 0.4:
        other = _fill(talk, rng.choice(FILLERS)) if rng.random() < 0.5 else _make_sentence(talk)
        lines.insert(rng.randrange(len(lines) + 1), other)
    name, (_, question, _) = facts[asked]
    asking = write_sloppily(rng, question).format(n=name)
    talk.user(f"Answer from the text.\n\nText:\n{' '.join(lines)}\n\nQuestion: {asking}")
    if missing:
        talk.say(NOT_SAID, "passage_unknown")
    else:
        talk.say(f"{values[asked]}.", "passage", values[asked])


def pick_key_sentences(talk: Talk) -> None:
    """The first sentence and up to two with a cue such as "In short", as they stand."""
    rng = talk.rng
    free = rng.random() < 0.6
    count = rng.choice((0, 1, 1, 1, 2))
    if free:
        cues = [each + _make_clause(talk) for each in rng.sample(CUE_OPENINGS, count)]
        others = [_make_sentence(talk) for _ in range(rng.randint(1, 5 - count))]
        first = _make_sentence(talk)
    else:
        cues = [_fill(talk, each) for each in rng.sample(CUES, count)]
        others = [_fill(talk, rng.choice(FILLERS)) for _ in range(rng.randint(2, 6 - count))]
        first = _fill(talk, rng.choice(TOPICS + FILLERS[:3]))
    body = cues + others
    rng.shuffle(body)
    ask = rng.choice(("Give the key sentences of the text.",) * 3 + ("Summarize the text.",))
    gap = rng.choice((" ", " ", " ", "\n"))
    talk.user(f"{ask}\n\nText:\n{gap.join([first, *body])}")
    keys = [each for each in body if each in cues]
    talk.say(" ".join([first, *keys]), "key_sentences")


def name_sentiment(talk: Talk) -> None:
    """One word for the sentiment."""
    label, sentences = talk.rng.choice(
        (("positive", POSITIVE), ("negative", NEGATIVE), ("neutral", NEUTRAL))
    )
    text = _fill(talk, talk.rng.choice(sentences))
    if talk.rng.random() < 0.3:
        text = " ".join((text, _fill(talk, talk.rng.choice(sentences))))
    question = "What is the sentiment of this text: positive, negative or neutral?"
    talk.user(f"{question}\n\nText: {write_sloppily(talk.rng, text)}")
    talk.say(label, "sentiment")


def name_intent(talk: Talk) -> None:
    """One word for the intent."""
    label = talk.rng.choice(list(INTENTS))
    text = write_sloppily(talk.rng, _fill(talk, talk.rng.choice(INTENTS[label])))
    kinds = "question, request, complaint, praise or greeting"
    talk.user(f"What is the intent of this message: {kinds}?\n\nMessage: {text}")
    talk.say(label, "intent")


def _make_sentence(talk: Talk) -> str:
    """A sentence of any words, so that whole texts are copied by their tokens."""
    clause = _make_clause(talk)
    return clause[0].upper() + clause[1:]


def _make_clause(talk: Talk) -> str:
    rng = talk.rng
    words = []
    for _ in range(rng.randint(4, 15)):
        draw = rng.random()
        if draw < 0.55:
            words.append(rng.choice(LINKS))
        elif draw < 0.9:
            words.append(talk.fillers.word())
        else:
            words.append(talk.fillers.fill(rng.choice(("name", "city", "number"))))
        if rng.random() < 0.06:
            words[-1] += ","
    return f"{' '.join(words).rstrip(',')}."


def _fill(talk: Talk, template: str) -> str:
    fillers = talk.fillers
    text = template
    for slot, kind in (("{w}", "word"), ("{w2}", "word"), ("{n}", "name"), ("{n2}", "name"),
                       ("{c}", "city"), ("{d}", "number"), ("{t}", "time")):  # fmt: skip
        if slot in text:
            text = text.replace(slot, fillers.fill(kind))
    for slot, words in (("{g}", GOOD), ("{b}", BAD), ("{m}", MEASURES)):
        text = text.replace(slot, talk.rng.choice(words))
    return text[0].upper() + text[1:]
