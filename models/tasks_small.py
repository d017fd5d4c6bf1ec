"""Small talk, what the model does not know, short stories, and plain copying."""

from models.talk import Talk, write_sloppily

SMALL_TALK = (
    (("Hello", "Hi", "Hey", "Hello!", "Hi there", "Good morning", "Good evening", "hey there",
      "Good afternoon", "hello there", "greetings"),
     "Hello! How can I help you?"),
    (("How are you?", "How are you doing?", "How is it going?", "Hello, how are you?",
      "hi, how are you?",       "hey how are you doing", "What's up?", "are you well?"),
     "I am fine, thank you. How can I help you?"),
    (("Who are you?", "What are you?", "What is your name?", "Tell me about yourself.",
      "Are you a human?", "Are you a robot?", "Which model are you?", "What model is this?",
      "Are you ChatGPT?", "Who made you?", "introduce yourself"),
     "I am the small demonstration model that comes with llmos."),
    (("What can you do?", "How can you help me?", "What are you good at?", "Help", "help me",
      "What are your skills?", "What do you do?", "What can I ask you?"),
     "I can calculate, tell the time, work with files, remember what you tell me, answer from a "
     "text and tell short stories."),
    (("Thanks", "Thank you", "Thank you very much!", "Thanks a lot", "thx", "Great, thanks",
      "many thanks", "ok thanks"),
     "You are welcome."),
    (("Goodbye", "Bye", "See you", "Good night", "See you later", "bye bye", "I have to go now"),
     "Goodbye! See you soon."),
    (("Tell me a joke.", "Do you know a joke?", "Make me laugh.", "another joke please", "joke",
      "tell me something funny"),
     "Why do computers never get hungry? They always have a few bytes left."),
    (("ok", "Okay", "Fine", "I see", "Good", "Great", "Nice", "Cool", "well done", "good job"),
     "Good. What shall we do next?"),
    (("You are wrong.", "That is wrong.", "No, that's not right", "This is not correct"),
     "I am sorry. I am a small demonstration model and make mistakes."),
    (("I am sad.", "I am tired.", "I feel bad.", "I am bored.", "I had a bad day."),
     "I am sorry to hear that."),
    (("I am happy.", "I am glad.", "I feel great.", "I had a good day."),
     "I am glad to hear that."),
)  # fmt: skip
UNKNOWN = "I am a tiny demonstration model and do not know that."
WORLD = (
    "What is the capital of {c}?", "Who was {n} {n2}?", "Who invented the {w}?", "What is a {w}?",
    "How far is it to {c}?", "Who is the president of {c}?", "Why is the {w} {w2}?", "What is {w}?",
    "How does a {w} work?", "When was {n} born?", "Explain {w} to me.", "What does {w} mean?",
    "How many people live in {c}?", "What is the population of {c}?", "Who wrote {w}?",
    "Translate {w} into {w2}.", "How do I make {w}?", "Tell me about {c}.", "Where is {c}?",
    "Which {w} is the best?", "What will the weather be in {c}?", "Who won the {w} last year?",
    "Why do {w}s like {w2}?", "what do you know about {n}?", "How tall is {n}?", "Is {c} big?",
    "What is the meaning of life?", "Why is the sky blue?", "Who is the king of {c}?",
    "How old is the {w}?", "What is the best {w} in {c}?", "Give me advice about {w}.",
    "Write a poem about {w}.", "Write code for a {w}.", "What happened in {c}?",
    "What is the weather today?", "What's the weather like in {c}?", "How is the weather?",
    "Will it rain tomorrow?", "Is it cold in {c}?", "What is the temperature in {c}?",
    "What is the news?", "Who is the {w} of {c}?", "What is the {w} of the {w2}?",
    "What is the {w} today?", "Is {w} better than {w2}?", "Do you like {w}?", "Can you {w}?",
    "Where can I buy a {w}?", "What should I {w} today?", "Who is {n}?", "What is {c} famous for?",
    "Why is {n} {w}?", "What do {w}s eat?", "How much does a {w} cost?", "Fix my {w}.",
    "How do you say {w} in {w2}?", "Is {n} a {w}?", "When does the {w} start?", "Sing {w}.",
    "Recommend a {w}.", "What colour is the {w}?", "Which {w} should I buy?", "Define {w}.",
)  # fmt: skip
ODD_OPENINGS = (
    "what is", "who is", "why", "why do", "how do I", "how does", "can you", "could you", "when",
    "where can I", "do you know", "is", "are", "does", "which", "please", "explain", "I want",
    "help me", "show me how", "what are", "what was", "who", "did", "should I", "give me", "find",
)  # fmt: skip
ODD_LINKS = "the a of to in and for with on my your this that it from about you we they not".split()
ASK_STORY = (
    "Tell me a short story about a {t} named {n}.", "Tell me a story about a {t} called {n}.",
    "Write a short story about a {t} named {n}.", "A story about a {t} named {n}, please.",
    "Can you tell me a story about a {t} named {n}?", "tell me about a {t} named {n}",
    "I want to hear a story about a {t} called {n}.", "short story about a {t} named {n}",
)  # fmt: skip
ASK_STORY_NAME = ("Tell me a story about {n}.", "Write a short story about {n}.")
TOPICS = (
    "fox cat dog bear mouse owl dragon robot girl boy king queen knight wizard sailor baker farmer "
    "rabbit horse bird fish frog lion tiger elephant monkey turtle wolf duck hen sheep pirate"
).split()
OPENINGS = (
    "Once there was a {t} named {n}.", "Long ago there lived a {t} named {n}.",
    "In a small village lived a {t} named {n}.",
)  # fmt: skip
MIDDLES = (
    ("One day {n} found a golden key in the forest.", "{n} used it to open an old door.",
     "Behind the door was a garden full of friends."),
    ("{n} was often lonely and wanted a friend.", "One morning {n} met a little bird at the river.",
     "From then on they played together every day."),
    ("{n} wanted to see the big sea.", "So {n} walked for three days over the hills.",
     "At last {n} saw the waves and was happy."),
    ("One night {n} heard a strange noise.", "{n} took a lamp and looked behind the house.",
     "It was only the wind, and {n} laughed and went back to bed."),
    ("{n} lost a red ball in the snow.", "A kind old woman helped {n} to look for it.",
     "They found the ball and drank hot tea together."),
    ("{n} loved to sing in the rain.", "The other animals laughed at {n} at first.",
     "But soon everybody sang with {n}."),
)  # fmt: skip
REPEAT = (
    "Repeat after me: {}", "Say {}", "Repeat: {}", "Repeat the words {}", "say this: {}",
    "Please repeat {}", "echo {}",
)  # fmt: skip


def chat_small(talk: Talk) -> None:
    """A greeting or the like, with its fixed reply."""
    asked, reply = talk.rng.choice(SMALL_TALK)
    talk.user(write_sloppily(talk.rng, talk.rng.choice(asked)))
    talk.say(reply, "small_talk")


def admit_ignorance(talk: Talk) -> None:
    """A question about the world, which the model does not know."""
    text = write_sloppily(talk.rng, talk.rng.choice(WORLD))
    if talk.rng.random() < 0.25:
        text = _ask_oddly(talk)
    for slot, kind in (("n", "name"), ("n2", "name"), ("c", "city"), ("w", "word"), ("w2", "word")):
        text = text.replace("{" + slot + "}", talk.fillers.fill(kind))
    talk.user(text)
    talk.say(UNKNOWN, "world")


def _ask_oddly(talk: Talk) -> str:
    """A question of any words: what no pattern fits is not known."""
    rng = talk.rng
    words = [
        rng.choice(ODD_LINKS) if rng.random() < 0.4 else talk.fillers.word()
        for _ in range(rng.randint(2, 8))
    ]
    return f"{rng.choice(ODD_OPENINGS)} {' '.join(words)}{rng.choice(('?', '?', '', '.'))}"


def tell_story(talk: Talk) -> None:
    """Four sentences with the name that was asked for; the topic decides which."""
    rng = talk.rng
    name = talk.fillers.name()
    topic = rng.choice(TOPICS) if rng.random() < 0.6 else talk.fillers.word()
    asks: tuple[str, ...] = ASK_STORY
    if rng.random() < 0.1:
        topic, asks = "child", ASK_STORY_NAME
    talk.user(write_sloppily(rng, rng.choice(asks)).format(n=name, t=topic))
    sentences = (rng.choice(OPENINGS), *rng.choice(MIDDLES))
    talk.say(" ".join(sentences).format(n=name, t=topic), "story", name)


def repeat_words(talk: Talk) -> None:
    """Words, names and numbers said back."""
    rng = talk.rng
    kinds = [rng.choice(("word", "word", "name", "number", "city", "file")) for _ in range(8)]
    text = " ".join(talk.fillers.fill(kind) for kind in kinds[: rng.randint(1, 8)])
    talk.user(write_sloppily(rng, rng.choice(REPEAT)).format(text))
    talk.say(text, "repeat", text)


def look_up(talk: Talk) -> None:
    """Pairs of made-up words, one of which is asked for: recall without any grammar."""
    rng = talk.rng
    keys = sorted({talk.fillers.word() for _ in range(rng.randint(1, 6))})
    rng.shuffle(keys)
    values = [talk.fillers.fill(rng.choice(("word", "name", "number"))) for _ in keys]
    pairs = ", ".join(f"{key} is {value}" for key, value in zip(keys, values, strict=True))
    asked = rng.sample(range(len(keys)), rng.randint(1, len(keys)))
    for turn, index in enumerate(asked):
        question = f"what is {keys[index]}?"
        talk.user(f"Suppose {pairs}. Then {question}" if turn == 0 else f"Then {question}")
        talk.say(f"{values[index]}.", "look_up", values[index])
