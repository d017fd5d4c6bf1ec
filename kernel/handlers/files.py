"""The workspace: `read_file`, `write_file`, `list_files`."""

from anyio import to_thread

from llmos.syscalls.files import (
    FileList,
    FileText,
    FileWritten,
    ListFiles,
    ReadFile,
    WriteFile,
)

from .trap import Trap


async def sys_read_file(trap: Trap, call: ReadFile) -> FileText:
    """A part of a text file."""
    read = trap.process.workspace.read_text
    text, more = await to_thread.run_sync(read, call.path, call.offset, call.max_chars)
    return FileText(text, more)


async def sys_write_file(trap: Trap, call: WriteFile) -> FileWritten:
    """Replace a file's content in one step."""
    write = trap.process.workspace.write_text
    return FileWritten(await to_thread.run_sync(write, call.path, call.text))


async def sys_list_files(trap: Trap, call: ListFiles) -> FileList:
    """The names in a folder."""
    return FileList(await to_thread.run_sync(trap.process.workspace.list_names, call.path))
