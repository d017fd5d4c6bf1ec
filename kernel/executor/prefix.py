"""A page's name: a digest of everything that its keys and values depend on.

`name(page) = BLAKE2b(name of the page before, token ids in the page)`, and the first page follows
a root that digests the model's fingerprint, its adapter and the tenant's salt. So equal names mean
equal content: shared prefixes, forks, turns and preempted sequences all find pages by the same
lookup, and tenants cannot learn from timing what others have asked.
"""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

_NAME_BYTES = 16


def make_root(fingerprint: str, tenant: str, adapter: str = "") -> bytes:
    """The name that the first pages follow of what a tenant says to a model with an adapter."""
    salts = (blake2b(one.encode(), digest_size=_NAME_BYTES).digest() for one in (tenant, adapter))
    return blake2b(b"".join(salts) + fingerprint.encode(), digest_size=_NAME_BYTES).digest()


def extend_names(
    names: list[bytes], root: bytes, tokens: Sequence[int], *, page_size: int, num_tokens: int
) -> None:
    """Append to `names` until it covers all full pages of the first `num_tokens` tokens."""
    for index in range(len(names), num_tokens // page_size):
        ids = array("q", tokens[index * page_size : (index + 1) * page_size])
        before = names[-1] if names else root
        names.append(blake2b(before + ids.tobytes(), digest_size=_NAME_BYTES).digest())
