"""One worker interpreter, as its pool has it: what runs in it is in resident.py."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from theus._theus import InterpreterWorker

if TYPE_CHECKING:
    from theus.pools.residents import Residents

__all__ = ["Resident", "worker_path"]


class Resident:
    """One worker, as its pool has it."""

    def __init__(self, crew: Residents, number: int) -> None:
        self.worker = InterpreterWorker(crew.tasks, crew.answers)
        self.failed: BaseException | None = None
        self.late: int | None = None
        """The task that it was interrupted in."""
        self.late_since = 0.0
        self.thread = threading.Thread(
            target=self.live, args=(crew,), name=f"{crew.name}-{number}", daemon=True
        )

    def live(self, crew: Residents) -> None:
        try:
            self.worker.run(worker_path(), crew.setup)
        except BaseException as error:  # no memory, no thread state
            self.failed = error
        crew.call_watcher(0.0)

    def interrupt(self, number: int) -> None:
        """Has Python raise KeyboardInterrupt in that task, as soon as it can. No lock is held: the
        thread for it has to begin before start() comes back."""
        # Of its own: it waits for as long as C code keeps the GIL of the worker.
        threading.Thread(
            target=self.worker.interrupt, args=(number,), name="theus-interrupt", daemon=True
        ).start()


def worker_path() -> bytes:
    """sys.path, as InterpreterWorker.run() takes it."""
    path = "\n".join(entry for entry in sys.path if "\n" not in entry)
    return path.encode("utf-8", "surrogatepass")
