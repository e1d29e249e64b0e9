"""As many open files as a conversion needs: a checkpoint of T5X is a file for each variable."""

from __future__ import annotations

import resource

from porting.errors import OutputError

# What else a process has open: sources, directories, libraries.
_OTHERS = 256


def allow_open_files(count: int) -> None:
    """See to it that this process may have `count` files open besides others.

    Raises:
        OutputError: the system does not let it.
    """
    needed = count + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OutputError(
            f"{count} files are written at once, and this system allows {hard} open files.",
            remedy="Raise the limit: ulimit -Hn, or LimitNOFILE of the service.",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
