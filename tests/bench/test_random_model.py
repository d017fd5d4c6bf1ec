"""The random models' tokenizer: a letter is a token, and every token has a text."""

from bench.random_model import make_tokenizer

VOCABULARY = 4096


def test_a_letter_is_a_token() -> None:
    tokenizer = make_tokenizer(VOCABULARY)

    tokens = tokenizer.encode("w9 the cat", add_special_tokens=False)

    assert len(tokens) == len("w9 the cat")
    assert tokenizer.decode(tokens) == "w9 the cat"


def test_every_word_has_a_text_of_its_own() -> None:
    tokenizer = make_tokenizer(VOCABULARY)

    texts = {tokenizer.decode([token]) for token in range(1000, VOCABULARY)}

    assert len(texts) == VOCABULARY - 1000
    assert len(tokenizer) == VOCABULARY


def test_nothing_ends_an_answer() -> None:
    assert make_tokenizer(VOCABULARY).eos_token_id is None
