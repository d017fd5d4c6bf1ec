"""llmos: an operating system for LLM programs."""

from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["System", "app"]

# In a checkout the subpackages live at the repository root. Import them from there, so that
# tracebacks and breakpoints name kernel/x.py and not the src/llmos/kernel link to it.
_root = _Path(__file__).resolve().parents[2]
if (_root / "kernel" / "main.py").is_file():
    __path__.insert(0, str(_root))

if TYPE_CHECKING:
    from llmos.syscalls.client import System, app


def __getattr__(name: str) -> Any:
    """Load the SDK only for those who write `from llmos import System, app`."""
    if name in __all__:
        from llmos.syscalls import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
