"""Calls of `generate` of every kind, drawn by a seed: greedy and sampled, with stops, penalties,
log-probabilities, tools, grammars and branches."""

import json
from random import Random

import msgspec

from llmos.syscalls.generate import Generate
from llmos.syscalls.types import Grammar, Message, Sampling

PROMPTS = (
    "what is 17 * 23?",
    "my cat is called Miso and lives in Oslo",
    "Grüße, 世界! 🦊 tell me more",
    "write hello world to hello.txt",
    "summarize: the sea was calm, the ships came home and nobody was lost. The harbour was lit.",
)
REGEXES = ("[a-z ]{400}", "([0-9]{3}-){50}", "(é|ü|世|🦊|[a-c]){100}")
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 20, "maxLength": 80},
            "numbers": {"type": "array", "items": {"type": "integer"}, "maxItems": 20},
        },
        "required": ["name", "numbers"],
        "additionalProperties": False,
    }
)


def draw_call(random: Random, *, max_tokens: int = 200) -> Generate:
    """A call whose answer has up to so many tokens."""
    prompt = f"{random.choice(PROMPTS)} ({random.randrange(1000)})"
    call = Generate(
        (Message("user", prompt),),
        sampling=_draw_sampling(random, random.randint(40, max_tokens)),
        stream=True,
        show=True,
    )
    kind = random.choice(("plain", "tools", "must call", "grammar", "grammar", "branches"))
    match kind:
        case "tools":
            return msgspec.structs.replace(call, tools=("calculator", "clock"))
        case "must call":
            return msgspec.structs.replace(call, tools=("calculator",), tool_choice="required")
        case "grammar":
            return msgspec.structs.replace(call, grammar=_draw_grammar(random))
        case "branches":
            few = msgspec.structs.replace(call, n=random.randint(2, 3), stream=False, show=False)
            return msgspec.structs.replace(
                few, grammar=random.choice((None, _draw_grammar(random)))
            )
    return call


def _draw_grammar(random: Random) -> Grammar:
    if random.random() < 0.3:
        return Grammar("json_schema", SCHEMA)
    return Grammar("regex", random.choice(REGEXES))


def _draw_sampling(random: Random, max_tokens: int) -> Sampling:
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0)
    if random.random() < 0.7:
        sampling = Sampling(
            max_tokens=max_tokens,
            temperature=random.uniform(0.5, 1.8),
            top_p=random.choice((None, 0.95)),
            top_k=random.choice((None, 50)),
            repetition_penalty=random.choice((None, 1.2)),
            presence_penalty=random.choice((0.0, 0.5)),
            frequency_penalty=random.choice((0.0, 0.3)),
            seed=random.choice((None, random.randrange(2**40))),
        )
    stop = random.choice(((), (), ("zq", " the", "e."), ("\n\n",)))
    return msgspec.structs.replace(sampling, stop=stop, logprobs=random.choice((None, None, 2)))
