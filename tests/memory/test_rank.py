"""From a question to search terms."""

from llmos.memory.rank import MAX_TERMS, find_terms, match_expression


def test_stop_words_case_and_repeats_fall_away() -> None:
    assert find_terms("What's the name of MY cat? The cat!") == ["name", "cat"]


def test_a_question_of_stop_words_has_no_terms() -> None:
    assert find_terms("what is it that you were to do?") == []
    assert find_terms("") == []


def test_operators_and_quotes_are_words_or_nothing() -> None:
    assert find_terms('"C++" NEAR(x) user:alice* - %_^ \0') == ["c", "near", "x", "user", "alice"]
    assert match_expression(["near", "x"]) == '"near" OR "x"'


def test_an_endless_question_is_cut() -> None:
    query = " ".join(f"w{number}" for number in range(200_000))

    assert find_terms(query) == [f"w{number}" for number in range(MAX_TERMS)]
