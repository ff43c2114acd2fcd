"""What a type checker knows about messages, signals, helpers and contributions."""

from datetime import datetime
from random import Random
from typing import Any, assert_type

from theus import OutboxMsg, OutboxReport, TheusEngine, Transaction, process
from theus.context import Context
from theus.signals import Signal

engine = TheusEngine({"domain": {"total": 0}})


@process(
    outputs=["domain.total", "domain.log", "signal.done"],
    merge={"domain.total": "sum", "domain.log": lambda old, value: old + value},
)
def work(ctx: Context, number: int) -> tuple[int, list[int], None]:
    ctx.outbox.add("mail", {"number": number})
    ctx.outbox.add(OutboxMsg("mail"))
    ctx.outbox.add("mail")  # error: [call-overload]
    ctx.outbox.add(5, 5)  # error: [call-overload]
    ctx.signal.send("done", [number])
    ctx.signal.send("done")  # error: [call-arg]
    ctx.log.info("number %d", number)
    assert_type(ctx.now, datetime)
    assert_type(ctx.random, Random)
    assert_type(ctx.local, dict[str, Any])
    return 1, [number], None


@process(outputs=["domain.total"], merge={"domain.total": 5})  # error: [dict-item]
def no_rule(ctx: Context) -> int:
    return 1


def body(tx: Transaction) -> int:
    tx.outbox.add("mail", None)
    return len(tx.outbox)


def handler(message: OutboxMsg) -> bool:
    assert_type(message.topic, str)
    assert_type(message.id, str | None)
    return True


def no_handler(text: str) -> None:
    pass


assert_type(engine.process_outbox(handler), OutboxReport)
assert_type(engine.process_outbox().failed[0].error, Exception)
engine.attach_worker(handler)
engine.process_outbox(no_handler)  # error: [arg-type]

with engine.signals("done") as signals:
    for signal in signals:
        assert_type(signal, Signal)
        assert_type(signal.version, int)

for topic, payload in engine.records()[0][0].outbox:
    assert_type(topic, str)
    assert_type(payload, Any)
