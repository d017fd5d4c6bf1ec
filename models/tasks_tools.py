"""Requests that a tool answers: the call, what the tool returns and the sentence that says it."""

import math
from fractions import Fraction

from models.talk import Talk, write_sloppily
from models.words import DAYS, is_held_out

_TEXT = {"type": "string"}
SIGNATURES = {
    "calculator": ("Evaluate an arithmetic expression.", ["expression"], ["expression"]),
    "clock": ("Tell the current date and time.", ["timezone"], []),
    "list_files": ("List the files of the workspace.", ["path"], []),
    "read_file": ("Read a text file of the workspace.", ["path"], ["path"]),
    "write_file": ("Write a text file in the workspace.", ["path", "content"], ["path", "content"]),
}
ERRORS = {
    "calculator": ("division by zero", "the result is too large", "the expression ends early"),
    "clock": ("unknown time zone", "no such time zone"),
    "list_files": ("no such folder", "not a folder", "permission denied"),
    "read_file": ("no such file", "not a text file", "permission denied", "the file is too large"),
    "write_file": ("permission denied", "the disk is full", "the path is outside the workspace"),
}
ZONES = (
    "UTC Europe/Oslo Europe/London Europe/Berlin Europe/Paris Asia/Tokyo Asia/Delhi Asia/Seoul "
    "America/Denver America/Chicago Africa/Cairo Africa/Lagos Australia/Sydney CET EST PST GMT"
).split()
ABBREVIATIONS = "CET CEST EET EST EDT PST GMT BST JST IST AEST +03 -05 +08".split()
NO_TOOL = "I have no tool for that."

BINARY = {
    "+": ("{a} + {b}", "{a}+{b}", "{a} plus {b}", "{a} added to {b}", "{a} and {b} added"),
    "-": ("{a} - {b}", "{a}-{b}", "{a} minus {b}", "{a} less {b}"),
    "*": ("{a} * {b}", "{a}*{b}", "{a} times {b}", "{a} x {b}", "{a}x{b}",
          "{a} multiplied by {b}", "{a} \u00d7 {b}"),
    "/": ("{a} / {b}", "{a}/{b}", "{a} divided by {b}", "{a} over {b}", "{a} ÷ {b}"),
}  # fmt: skip
SPECIAL = (
    ("{b} percent of {a}", "{a} * {b} / 100"),
    ("{b}% of {a}", "{a} * {b} / 100"),
    ("half of {a}", "{a} / 2"),
    ("twice {a}", "2 * {a}"),
    ("{a} squared", "{a} ** 2"),
    ("the square of {a}", "{a} ** 2"),
    ("the square root of {a}", "sqrt({a})"),
    ("the root of {a}", "sqrt({a})"),
    ("sqrt({a})", "sqrt({a})"),
    ("the sum of {a} and {b}", "{a} + {b}"),
    ("the product of {a} and {b}", "{a} * {b}"),
    ("the difference of {a} and {b}", "{a} - {b}"),
)
ASK_SUM = (
    "What is {}?", "What's {}?", "Calculate {}.", "How much is {}?", "Compute {}.", "{}", "{} = ?",
    "{}=", "Can you calculate {}?", "Please calculate {}.", "Work out {}.",
    "What do you get for {}?",     "What does {} make?", "Tell me what {} is.",
    "I need to know what {} is.", "And {}?",
    "How much does {} make?", "Could you work out {} for me?", "Evaluate {}.", "what is {} please",
    "what is the result of {}?", "Solve {}.", "use the calculator: {}", "what about {}?",
)  # fmt: skip
ASK_TIME = (
    "What time is it?", "What's the time?", "Tell me the time.", "What time is it now?",
    "Do you know what time it is?", "How late is it?", "Can you tell me the time?", "time?",
    "What is the current time?", "What is the time now, please?",
)  # fmt: skip
ASK_DATE = (
    "What is the date?", "What day is it?", "What's the date today?", "What is today's date?",
    "Which day is today?", "What day is it today?", "Tell me the date.", "what weekday is it?",
)  # fmt: skip
ASK_LIST = (
    "What files are here?", "List the files.", "Which files are there?", "Show me the files.",
    "What files do I have?", "What's in the workspace?", "ls", "Can you list the files?",
    "List all files in the workspace.", "Show me what files there are.", "Which files do I have?",
)  # fmt: skip
ASK_LIST_IN = (
    "What files are in {}?", "List the files in {}.", "Which files are in the folder {}?",
    "Show me the folder {}.", "What's in {}?", "ls {}", "List {}.", "list the directory {}",
)  # fmt: skip
ASK_READ = (
    "Read {}.", "Read {}", "What is in {}?", "Show me {}.", "Open {}.", "What does {} say?",
    "Read the file {}.", "What's written in {}?", "Can you read {}?", "Print {}.", "cat {}",
    "Tell me what is in {}.", "Please read {}.", "Show me the contents of {}.",
)  # fmt: skip
ASK_WRITE = (
    "Write {c} to {p}.", "Write {c} to {p}", "Save {c} in {p}.", "Put {c} into {p}.",
    "Write {c} into {p}.", "Save the text {c} to {p}.", "Write the text {c} to the file {p}.",
    "Store {c} in {p}.", "Write '{c}' to {p}.", 'Write "{c}" to {p}.', 'Save "{c}" as {p}.',
    "Create a file {p} with the content {c}", "Create {p} with the text {c}",
    "Make a file {p} that says {c}", "write to {p}: {c}", "Please save {c} to {p}.",
)  # fmt: skip


def describe_tool(name: str) -> dict[str, object]:
    """The tool as it stands in a request, OpenAI's form."""
    description, properties, required = SIGNATURES[name]
    parameters = {
        "type": "object",
        "properties": dict.fromkeys(properties, _TEXT),
        "required": required,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


def calculate(talk: Talk) -> None:
    """Arithmetic in words or signs; the call holds it in signs, spaced."""
    for _ in range(200):
        spoken, expression = _make_sum(talk)
        value = evaluate(expression)
        if value is not None and (len(value) == 1 or is_held_out(value) == talk.fillers.held_out):
            break
    template = write_sloppily(talk.rng, talk.rng.choice(ASK_SUM))
    talk.user(template.format(spoken))
    if not _has(talk, "calculator"):
        return
    talk.call("calculator", {"expression": expression}, "calculator_call")
    if _fails(talk, "calculator"):
        return
    talk.result("calculator", value or "0")
    talk.say(f"{expression} = {value or '0'}.", "calculator_answer")


def evaluate(expression: str) -> str | None:
    """The value as the calculator tool shows it, or None where there is none."""
    try:
        exact = eval(expression, {"__builtins__": {}}, {"sqrt": math.sqrt})
    except ZeroDivisionError:
        return None
    value = float(exact)
    return str(int(Fraction(exact))) if value.is_integer() else f"{value:.12g}"


def tell_time(talk: Talk) -> None:
    """The clock, with a time zone only where the user names one."""
    rng = talk.rng
    date = rng.random() < 0.35
    text = write_sloppily(rng, rng.choice(ASK_DATE if date else ASK_TIME))
    arguments = {}
    zone = "UTC"
    if rng.random() < 0.25:
        zone = rng.choice(ZONES) if rng.random() < 0.6 else f"Europe/{talk.fillers.pick('city')}"
        text = f"{text.rstrip('?. ')} in {zone}" + rng.choice(("", "?"))
        arguments = {"timezone": zone}
        if "/" in zone and rng.random() < 0.5:
            zone = rng.choice(ABBREVIATIONS)
    talk.user(text)
    if not _has(talk, "clock"):
        return
    talk.call("clock", arguments, "clock_call")
    if _fails(talk, "clock"):
        return
    day = f"20{rng.randint(10, 49)}-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
    time = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}"
    weekday = rng.choice(DAYS)
    talk.result("clock", f"{day} {time} {zone}, {weekday}")
    said = f"Today is {weekday}, {day}." if date else f"It is {time[:5]} {zone}."
    talk.say(said, "clock_answer")


def list_files(talk: Talk) -> None:
    """The names of the files, said in a row."""
    rng = talk.rng
    arguments = {}
    if rng.random() < 0.3:
        arguments["path"] = talk.fillers.word().replace(" ", "_")
        talk.user(write_sloppily(rng, rng.choice(ASK_LIST_IN)).format(arguments["path"]))
    else:
        talk.user(write_sloppily(rng, rng.choice(ASK_LIST)))
    if not _has(talk, "list_files"):
        return
    talk.call("list_files", arguments, "files_call")
    if _fails(talk, "list_files"):
        return
    names = [talk.fillers.file() for _ in range(rng.choice((0, 1, 2, 3, 4, 5)))]
    talk.result("list_files", "\n".join(names) or "(empty)")
    said = f"The files are: {', '.join(names)}." if names else "There are no files."
    talk.say(said, "files_answer")


def read_file(talk: Talk) -> None:
    """The content of a file, repeated."""
    path = talk.fillers.file()
    talk.user(write_sloppily(talk.rng, talk.rng.choice(ASK_READ)).format(path))
    if not _has(talk, "read_file"):
        return
    talk.call("read_file", {"path": path}, "files_call")
    if _fails(talk, "read_file"):
        return
    lines = [talk.fillers.words(1, 6) for _ in range(talk.rng.choice((1, 1, 1, 2, 3)))]
    if talk.rng.random() < 0.3:
        lines[0] += f" {talk.fillers.number()}"
    content = "\n".join(lines)
    talk.result("read_file", content)
    talk.say(f"{path} says: {content}", "files_answer")


def write_file(talk: Talk) -> None:
    """The content and the path, taken apart."""
    rng = talk.rng
    path = talk.fillers.file()
    content = talk.fillers.words(1, 5)
    if rng.random() < 0.2:
        content += f" {talk.fillers.number()}"
    talk.user(write_sloppily(rng, rng.choice(ASK_WRITE)).format(c=content, p=path))
    if not _has(talk, "write_file"):
        return
    talk.call("write_file", {"path": path, "content": content}, "files_call")
    if _fails(talk, "write_file"):
        return
    done = f"wrote {len(content.encode())} bytes to {path}"
    talk.result("write_file", done)
    talk.say(f"Done, I {done}.", "files_answer")


def _has(talk: Talk, tool: str) -> bool:
    if tool in talk.tools:
        return True
    talk.say(NO_TOOL, "no_tool")
    return False


def _fails(talk: Talk, tool: str) -> bool:
    if talk.rng.random() > 0.06:
        return False
    error = talk.rng.choice(ERRORS[tool])
    if talk.rng.random() < 0.5:
        error = f"{error}: {talk.fillers.word()}"
    talk.result(tool, f"error: {error}")
    talk.say(f"Sorry, that did not work: {error}.", "tool_error")
    return True


def _make_sum(talk: Talk) -> tuple[str, str]:
    """Arithmetic as a user says it, and the expression for the tool."""
    rng = talk.rng
    draw = rng.random()
    a, b = _number(talk), _number(talk)
    if draw < 0.12:
        spoken, expression = rng.choice(SPECIAL)
        return spoken.format(a=a, b=b), expression.format(a=a, b=b)
    sign = rng.choice("+-*/")
    spoken = rng.choice(BINARY[sign]).format(a=a, b=b)
    expression = f"{a} {sign} {b}"
    if draw < 0.75:
        return spoken, expression
    other, c = rng.choice("+-*/"), _number(talk)
    joint = rng.choice([each for each in BINARY[other] if " and " not in each])
    if draw < 0.88:
        written = rng.choice((f"{a}{sign}{b}", f"{a} {sign} {b}"))
        return joint.format(a=f"({written})", b=c), f"({expression}) {other} {c}"
    if draw < 0.91:
        return joint.format(a=c, b=f"({spoken})"), f"{c} {other} ({expression})"
    if sign == "+" and spoken.endswith("added"):
        spoken = f"{a} plus {b}"
    return joint.format(a=spoken, b=c), f"{expression} {other} {c}"


def _number(talk: Talk) -> str:
    draw = talk.rng.random()
    if draw < 0.12:
        return talk.fillers.decimal()
    return talk.fillers.number(0, 99 if draw < 0.55 else 99999)
