"""Sessions run side by side, each turn on top of all that its session has said."""

from bench.peers.serving import drive


class Adder:
    """A real engine of a kind: a token a step for each session, the length of its prompt so far."""

    def __init__(self) -> None:
        self.prompts: list[tuple[int, list[int]]] = []
        self._open: dict[int, list[int]] = {}

    def start(self, session: int, prompt: list[int], num_new: int) -> None:
        self.prompts.append((session, list(prompt)))
        self._open[session] = [len(prompt), num_new]

    def step(self) -> list[tuple[int, list[int]]]:
        answers = []
        for session, state in list(self._open.items()):
            answers.append((session, [state[0]]))
            state[0], state[1] = state[0] + 1, state[1] - 1
            if not state[1]:
                del self._open[session]
        return answers


def test_a_turn_s_prompt_is_the_whole_session_so_far() -> None:
    engine = Adder()

    drive(engine, [[{"added": [7, 8], "num_new": 2}, {"added": [9], "num_new": 1}]])

    assert engine.prompts == [(0, [7, 8]), (0, [7, 8, 2, 3, 9])]


def test_sessions_do_not_wait_for_each_other() -> None:
    engine = Adder()
    short = [{"added": [1], "num_new": 1}, {"added": [1], "num_new": 1}]

    drive(engine, [[{"added": [5], "num_new": 9}], short])

    assert [session for session, _ in engine.prompts] == [0, 1, 1]


def test_the_answer_has_every_turn_s_tokens_and_times() -> None:
    answer = drive(Adder(), [[{"added": [1], "num_new": 3}], [{"added": [1, 2], "num_new": 1}]])

    turns = [turn for session in answer["turns"] for turn in session]
    assert [turn["tokens"] for turn in turns] == [[1, 2, 3], [2]]
    assert all(0 < turn["first"] <= turn["last"] <= answer["seconds"] for turn in turns)
