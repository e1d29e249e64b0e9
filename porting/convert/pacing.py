"""How much is in hand at a time, and when what is written goes to the disk."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# So much is written before it is brought to the disk and let go of; the work does not wait for that.
_SYNC_BYTES = 64 << 20


class Budget:
    """Lets work begin as long as all that is in hand stays within a number of bytes."""

    def __init__(self, limit: int) -> None:
        """Take the number of bytes."""
        self._limit, self._taken = limit, 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, nbytes: int) -> Iterator[None]:
        """Wait until there is room for `nbytes`, or nothing else is in hand."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + nbytes <= self._limit)
            self._taken += nbytes
        try:
            yield
        finally:
            with self._changed:
                self._taken -= nbytes
                self._changed.notify_all()


class Syncer:
    """Brings to the disk what is written while the rest is made, and out of the system's cache.

    A large model would otherwise push everything else out of it. And a page that the system has to find first
    takes longer than one it has just had back: on virtual machines, which give free memory away, ten times.
    """

    def __init__(self, descriptors: Sequence[int]) -> None:
        """Take the files that are written."""
        self._descriptors = descriptors
        self._unsynced = 0
        self._wanted, self._over = threading.Semaphore(0), False
        self._thread = threading.Thread(target=self._run, name="sync", daemon=True)

    def wrote(self, nbytes: int) -> None:
        """So many bytes more are on their way."""
        self._unsynced += nbytes  # two threads may lose one of their counts: it is about when, not whether
        if self._unsynced >= _SYNC_BYTES:
            self._unsynced = 0
            self._wanted.release()

    def __enter__(self) -> Syncer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._wanted.release()
        self._thread.join()

    def _run(self) -> None:
        while self._wanted.acquire() and not self._over:
            for descriptor in self._descriptors:
                try:
                    os.fsync(descriptor)
                    if hasattr(os, "posix_fadvise"):  # not on macOS
                        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                except OSError:
                    return  # the final sync says what is wrong
