"""What a type checker knows about engines, transactions and their errors."""

from typing import assert_type

from theus import TheusEngine
from theus.errors import ConflictError, ContextError, TheusError

engine = TheusEngine({"domain": {"n": 1}})


def bump(tx: object, by: int) -> int:
    return by + 1


assert_type(engine.run(bump, 1), int)
assert_type(engine.version, int)
assert_type(engine.compare_and_swap(1, {"domain": {"n": 2}}), int)

with engine.transaction(isolation="snapshot", write_timeout_ms=100) as tx:
    tx.domain.n += 1
    tx.set(("domain", "n"), 2)
    assert_type(tx.version, int)

try:
    engine.compare_and_swap(1, {"domain": {"n": 3}})
except ConflictError as error:
    assert_type(error.expected, int)
    assert_type(error.path, tuple[object, ...] | None)
    print(error.winner and error.winner.version)
    as_old: ContextError = error
    as_any: TheusError = error

tx.set(3, 2)  # error: [arg-type]
engine.transaction(timeout=5)  # error: [call-arg]
engine.version = 5  # error: [misc]
