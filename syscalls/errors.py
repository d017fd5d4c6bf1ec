"""Typed errors: one class per situation that a caller can act on.

SyscallError
├── E_ARG             an argument is out of its bounds; `field` names it
├── E_PERM            the manifest does not allow it
├── E_LIMIT           a limit of the process is reached
├── E_BUSY            no room now; try again after `retry_after_seconds`
├── E_CONTEXT         the prompt does not fit the model's window
├── E_GRAMMAR         the schema or grammar cannot be compiled
├── E_MODEL           the model is unknown, cannot be loaded, or its executor died
├── E_TOOL            the tool failed, is unknown, or refused its arguments
├── E_IN_DOUBT        a `once` tool was interrupted: it may have had its effect
├── E_CANCELLED       the call was cancelled; a partial result may be attached
├── E_NONDETERMINISM  a replay, or a number that came again, asked for something else than before
├── E_STORAGE         the store cannot write now (disk full, I/O error)
├── E_TIMEOUT         the call took longer than it may
├── E_FRAME           the byte stream is not a sequence of frames; the connection closes
├── E_DECODE          a frame is not valid msgpack of the expected shape
├── E_SEQ             a sequence number is out of order, or its strand has ended
├── E_APP             the app itself failed: it crashed, or its main raised
└── E_KERNEL          a fault of the kernel itself; the call had no journaled result
"""

from typing import Annotated, ClassVar, NoReturn

import msgspec
from msgspec import Meta

MAX_MESSAGE_CHARS = 500


class ErrorReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as it travels: the one shape that every surface answers with."""

    code: str
    message: Annotated[str, Meta(max_length=MAX_MESSAGE_CHARS)]
    field: str | None = None
    retry_after_seconds: float | None = None
    partial: str | None = None


class SyscallError(Exception):
    """A syscall's typed failure. `partial` is text that was made before a cancel."""

    code: ClassVar[str] = "E_KERNEL"

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        retry_after_seconds: float | None = None,
        partial: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.retry_after_seconds = retry_after_seconds
        self.partial = partial

    def reply(self) -> ErrorReply:
        """This error in its wire form, the message cut to its bound."""
        text = (
            self.message if len(self.message) <= MAX_MESSAGE_CHARS else self.message[:497] + "..."
        )
        return ErrorReply(self.code, text, self.field, self.retry_after_seconds, self.partial)

    def __str__(self) -> str:
        place = f" (field: {self.field})" if self.field else ""
        return f"{self.code}: {self.message}{place}"


class E_ARG(SyscallError):
    """An argument is out of its bounds; `field` names it."""

    code = "E_ARG"


class E_PERM(SyscallError):
    """The manifest does not allow it."""

    code = "E_PERM"


class E_LIMIT(SyscallError):
    """A limit of the process is reached."""

    code = "E_LIMIT"


class E_BUSY(SyscallError):
    """No room now; `retry_after_seconds` says when to come back.

    With the field "seq" the call was not taken; the SDK sends the same frame again by itself.
    """

    code = "E_BUSY"


class E_CONTEXT(SyscallError):
    """The prompt does not fit the model's window; the message has both counts."""

    code = "E_CONTEXT"


class E_GRAMMAR(SyscallError):
    """The schema or grammar cannot be compiled."""

    code = "E_GRAMMAR"


class E_MODEL(SyscallError):
    """The model is unknown, cannot be loaded, or its executor died."""

    code = "E_MODEL"


class E_TOOL(SyscallError):
    """The tool failed, is unknown, or refused its arguments."""

    code = "E_TOOL"


class E_IN_DOUBT(SyscallError):
    """A `once` tool was interrupted: it may have had its effect."""

    code = "E_IN_DOUBT"


class E_CANCELLED(SyscallError):
    """The call was cancelled; `partial` holds what was made so far."""

    code = "E_CANCELLED"


class E_NONDETERMINISM(SyscallError):
    """A replay, or a number that came again, asked for something else than before."""

    code = "E_NONDETERMINISM"


class E_STORAGE(SyscallError):
    """The store cannot write now."""

    code = "E_STORAGE"


class E_TIMEOUT(SyscallError):
    """The call took longer than it may."""

    code = "E_TIMEOUT"


class E_FRAME(SyscallError):
    """The byte stream is not a sequence of frames."""

    code = "E_FRAME"


class E_DECODE(SyscallError):
    """A frame is not valid msgpack of the expected shape."""

    code = "E_DECODE"


class E_SEQ(SyscallError):
    """A sequence number is out of order, or its strand has ended."""

    code = "E_SEQ"


class E_APP(SyscallError):
    """The app itself failed."""

    code = "E_APP"


class E_KERNEL(SyscallError):
    """A fault of the kernel itself."""

    code = "E_KERNEL"


ERRORS: dict[str, type[SyscallError]] = {
    error.code: error for error in SyscallError.__subclasses__()
}


def raise_reply(reply: ErrorReply) -> NoReturn:
    """Raise a wire error as the exception of the same name."""
    kind = ERRORS.get(reply.code, SyscallError)
    raise kind(
        reply.message,
        field=reply.field,
        retry_after_seconds=reply.retry_after_seconds,
        partial=reply.partial,
    )
