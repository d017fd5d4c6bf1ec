"""ask: answers one question, with every builtin tool at hand."""

from llmos import System, app
from llmos.syscalls.errors import E_ARG

SYSTEM = "You are a helpful assistant. Use a tool when it helps."
TOOLS = ("calculator", "clock", "read_file", "write_file", "list_files")


@app
async def main(sys: System, *question: str) -> None:
    """Answer QUESTION; without words, ask for it."""
    text = " ".join(question).strip() or (await sys.ask("question> ") or "").strip()
    if not text:
        raise E_ARG("there is no question; usage: ask QUESTION...", field="question")
    context = await sys.context(system=SYSTEM)
    await context.respond(text, tools=TOOLS, show=True)
    await sys.print()
