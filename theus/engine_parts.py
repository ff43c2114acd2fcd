"""What an engine makes when it is first asked for it, and ends: its workers and its arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from theus._types import PoolKind
from theus.errors import ClosedError
from theus.history import EngineHistory

if TYPE_CHECKING:
    from theus.engine import TheusEngine
    from theus.heavy import ManagedAllocator
    from theus.parallel_map import ParallelMap
    from theus.pools import Pool
    from theus.workers import Workers

__all__ = ["EngineParts"]

R = TypeVar("R")


class EngineParts(EngineHistory):
    """The part of `theus.TheusEngine` that loads more of the package when it is used."""

    _pool: tuple[PoolKind | None, int | None]  # what the caller has chosen, as is the next
    _shm_backend: Any

    @property
    def workers(self) -> Workers:
        """The pools of this engine: see `theus.workers`."""
        made = self.__dict__.get("_workers")
        if made is None:
            from theus.workers import Workers

            # Of two threads that come here at once, one is given the other's.
            made = self.__dict__.setdefault("_workers", Workers(*self._pool))
            if self.closed:
                made.close()
        return cast("Workers", made)

    def get_pool(self, kind: PoolKind | str | None = None) -> Pool:
        """The pool of a kind, made if need be; None: the one that takes any function.

        It has `submit` and `map`, as `concurrent.futures` has them, and ends with the engine. Which
        pool runs a process is for `theus.workers` to say. Raises ClosedError when the engine is
        closed, NotImplementedError for a kind that this system does not have.
        """
        from theus.workers import check_pool

        check_pool(kind, None)
        workers = self.workers
        return workers.pool(workers.kind_for_anything() if kind is None else kind)

    def map_parallel(
        self,
        fn: Callable[[Any], R],
        items: Iterable[Any],
        /,
        *,
        chunk: int | None = None,
        ordered: bool = True,
        progress: Callable[[int, int | None], object] | None = None,
    ) -> ParallelMap[R]:
        """fn(item) for each item, by workers of the kind that suits it: iterate over it, with `for`
        or `async for`.

        Items are taken as results are, so both may be endless. `chunk` of them are one task (None:
        by their number, if it is known, else one); `ordered=False` gives results as they are
        done. `progress(taken, total)` is called for each result, where they are taken; `total` is
        None where the items do not tell. See `theus.parallel_map`.

        Raises ProcessError for a process, SendError for a function that cannot travel, ClosedError;
        the iteration raises what the function raises, and ends.
        """
        from theus.parallel_map import ParallelMap

        return ParallelMap(self.workers, fn, items, chunk, ordered, progress)

    @property
    def heavy(self) -> ManagedAllocator:
        """Arrays in shared memory: `engine.heavy.alloc(key, shape, dtype)`. See `theus.heavy`.

        Made when it is first asked for, which loads NumPy. Its arrays are freed when the engine
        is closed; views of them stay good.
        """
        made = self.__dict__.get("_heavy")
        if made is None:
            if not self.closed:
                from theus.heavy import ManagedAllocator

                # Of two threads that come here at once, one is given the other's.
                made = self.__dict__.setdefault(
                    "_heavy",
                    ManagedAllocator(engine=cast("TheusEngine", self), backend=self._shm_backend),
                )
            if self.closed:  # perhaps meanwhile, by a thread that has not seen it
                self.__dict__.pop("_heavy", None)
                if made is not None:
                    made.shutdown()
                raise ClosedError
        return cast("ManagedAllocator", made)

    def close(self) -> None:
        """Refuses new transactions, drops the history, ends every wait and the workers, frees the
        shared arrays.

        States, views and arrays that are held stay good. May be called again.
        """
        try:
            super().close()
        finally:  # also where a listener raises
            if (workers := self.__dict__.get("_workers")) is not None:
                workers.close()
            if (heavy := self.__dict__.get("_heavy")) is not None:
                heavy.shutdown()
