"""From a question to search terms, and from search scores to an order.

A question's words are quoted one by one and joined by OR: nothing a person writes is ever read
as the index's query language. What is left of a question without stop words decides.
"""

import re

MAX_TERMS = 64
MAX_TERM_CHARS = 100
WORD = re.compile(r"[^\W_]+")

# Words that say nothing about what is asked for, with the pieces that apostrophes leave behind.
STOP_WORDS = frozenset(
    """a about after again all also am an and any are as at be been before being but by can could
    d did do does doing don for from had has have having he her here hers him his how i if in into
    is it its just ll m me more most my no nor not now of off on once only or other our out over
    own re s same she should so some such t than that the their them then there these they this
    those through to too under until up us ve very was we were what when where which while who
    whom why will with would you your""".split()
)


def find_terms(query: str) -> list[str]:
    """The query's distinct words in lower case, without stop words, at most `MAX_TERMS`.

    A run of letters longer than `MAX_TERM_CHARS` is not a word.
    """
    terms: dict[str, None] = {}
    for match in WORD.finditer(query):
        word = match.group().casefold()
        if word not in STOP_WORDS and len(word) <= MAX_TERM_CHARS:
            terms[word] = None
            if len(terms) == MAX_TERMS:
                break
    return list(terms)


def match_expression(terms: list[str]) -> str:
    """The terms as an FTS5 query: each a quoted string, any may match."""
    return " OR ".join(f'"{term}"' for term in terms)
