"""What a process sees: the `ctx` that is its first argument.

    ctx.domain, ctx.global_     the roots of the state; any other root by its name, too
    ctx["domain"]               the same; also roots that are no names
    ctx.input                   what the caller passed, by parameter name
    ctx.local                   a dict of the process's own, gone when it returns
    ctx.state                   the snapshot that the run began with
    ctx.transaction             the transaction (EFFECT only)
    ctx.outbox, ctx.signal      what is sent with the commit (EFFECT only): `theus.outbox`,
                                `theus.signals`
    ctx.log, ctx.now, ctx.random  `theus.helpers`

A root that has one of these names is reached by item: ctx["log"].

Containers come as drafts that carry the contract with them. Whatever is not declared is
refused where it is asked for: by item, attribute, iteration, `get`, `pop`, `in`, `==`,
`copy`, pickle, by path through the transaction, and so on. What is true of a container as a
whole (its length, its key set) may be read if each of its keys may be asked for: `domain`,
`domain.*`, `domain.*.name`.

EFFECT   reads its inputs and outputs, writes its outputs.
PURE     reads its inputs. Where everything from a place down is declared, it gets the
         frozen value itself. Each read is logged in the transaction, so a PURE run is as
         serializable as any other.
GUIDE    reads everything, as PURE does its inputs.

A process that a body runs joins its transaction, and may do what both of them declare: reads
and writes of the one are refused as those of the other, at the line, and the error names the one
that lacks the declaration.

A write that was refused fails the run, also if the body swallows the exception. And
whatever the body did, the commit publishes nothing that is not in the outputs: that is
checked on the list of operations when the body can write no more.

A guard is no prison. A process is Python in your own process: it can reach the engine and
begin a transaction of its own, change this package's modules for later runs, or write to
memory with `ctypes`. What it does through its context, or to the transaction that it runs
in, cannot commit what is not declared.
"""

from __future__ import annotations

from theus._theus import Context

__all__ = ["Context"]
