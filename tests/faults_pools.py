"""The faults of what workers use, for tests/faults.py: (name, file, old, new) as there."""

from __future__ import annotations

FAULTS = [
    # ---- the mailbox
    (
        "who looks is thought to take every letter",
        "mailbox.c",
        "waiting > (box->looking ? 1u : 0u)",
        "!box->looking && waiting > 0",
    ),
    (
        "who gives up looking does not look at the list",
        "mailbox.c",
        "            look_unlocked(box);\n            continue;\n",
        "            look_unlocked(box);\n",
    ),
    (
        "who sleeps is not counted",
        "mailbox.c",
        "        box->asleep++;\n",
        "        box->asleep += box->asleep > 0;\n",
    ),
    (
        "the end of a box is told to one",
        "mailbox.c",
        "    theus_cond_broadcast(&box->front);\n",
        "    theus_cond_signal(&box->front);\n",
    ),
    (
        "the last to leave does not call the one behind",
        "mailbox.c",
        "    box->attending--;\n    call_back_locked(box);\n",
        "    box->attending--;\n",
    ),
    (
        "a letter does not call the one behind",
        "mailbox.c",
        "        theus_cond_signal(&box->front);\n    }\n    call_back_locked(box);\n",
        "        theus_cond_signal(&box->front);\n    }\n",
    ),
    (
        "two in front are counted as one",
        "mailbox.c",
        "    box->attending++;\n",
        "    box->attending = 1;\n",
    ),
    (
        "the one behind does not mind who is in front",
        "mailbox.c",
        "    while (!(called = box->first != NULL && box->attending == 0)",
        "    while (!(called = box->first != NULL)",
    ),
    (
        "a ring is heard by those who sleep already",
        "mailbox.c",
        "    box->rung_front = box->rung_back = true;\n",
        "",
    ),
    (
        "a ring is for the one behind alone",
        "mailbox.c",
        "    box->rung_front = box->rung_back = true;\n    theus_cond_signal(&box->front);\n",
        "    box->rung_back = true;\n",
    ),
    (
        "what was called back is taken",
        "mailbox.c",
        "&& !letter_goes(letter, THEUS_LETTER_TAKEN)) {",
        "&& !letter_goes(letter, THEUS_LETTER_TAKEN) && letter->kind == UINT32_MAX) {",
    ),
    (
        "what was taken is called back",
        "mailbox.c",
        "    return atomic_compare_exchange_strong_explicit("
        "&letter->place, &waits, (uint32_t)place, memory_order_acq_rel,\n"
        "                                                   memory_order_relaxed);",
        "    bool goes = atomic_load(&letter->place) == waits;\n    if (goes) {\n"
        "        atomic_store(&letter->place, (uint32_t)place);\n    }\n    return goes;",
    ),
    (
        "what is returned was taken",
        "mailbox.c",
        "    atomic_store_explicit(&letter->place, THEUS_LETTER_WAITS, memory_order_release);\n",
        "",
    ),
    (
        "an empty box keeps its last letter",
        "mailbox.c",
        "            box->last = NULL;\n",
        "",
    ),
    (
        "a box that is held gives what it has",
        "mailbox.c",
        "*letter = box->state == THEUS_BOX_HELD ? NULL : take_locked(box, &dropped);",
        "*letter = take_locked(box, &dropped);",
    ),
    (
        "a box that drains gives nothing",
        "mailbox.c",
        "*letter = box->state == THEUS_BOX_HELD ? NULL",
        "*letter = box->state != THEUS_BOX_OPEN ? NULL",
    ),
    (
        "a forked child takes down its parent's boxes",
        "mailbox.c",
        "    if (box->epoch != theus_process_epoch()) {\n        return;\n    }\n",
        "",
    ),
    (
        "only the first part of a letter is aligned",
        "mailbox.c",
        "        at += aligned(sizes[i]);\n",
        "        at += sizes[i];\n",
    ),
    # ---- kernels
    (
        "axes are joined if the output allows it",
        "kernels.c",
        "    for (int k = 0; k < layout->operands; k++) {\n"
        "        if (layout->strides[k][outer] !=",
        "    for (int k = 0; k < 1; k++) {\n        if (layout->strides[k][outer] !=",
    ),
    (
        "an axis without elements is left out",
        "kernels.c",
        "        if (layout->shape[i] == 0) {",
        "        if (layout->shape[i] < 0) {",
    ),
    (
        "a walk goes back one step too far",
        "kernels.c",
        "more ? 1 : 1 - layout->shape[i];",
        "more ? 1 : -layout->shape[i];",
    ),
    (
        "an operand that is walked through stays where it ended",
        "kernels.c",
        "            walk->p[k] += steps * layout->strides[k][i];",
        "            walk->p[k] += more || k > 0 ? steps * layout->strides[k][i] : 0;",
    ),
    (
        "one of the sums of blocks is left out",
        "kernels.c",
        "    for (int i = sum->depth - 1; i >= 0; i--) {",
        "    for (int i = sum->depth - 1; i > 0; i--) {",
    ),
    (
        "a sum that does not fit is told as it is",
        "kernels.c",
        "    sum->overflow |= __builtin_add_overflow(",
        "    (void)__builtin_add_overflow(",
    ),
    (
        "products of large numbers without a sign are negative",
        "kernels_loops.h",
        "(T)-1 > 0 && sizeof(T) == 8",
        "(T)-1 > 0 && sizeof(T) > 8",
    ),
    (
        "products of 32 bits are summed up in 64",
        "kernels_loops.h",
        "        if (sizeof(T) < 4) {",
        "        if (sizeof(T) <= 4) {",
    ),
    (
        "NaN is no extreme",
        "kernels.c",
        "#define NAME(verb) verb##_float64\n#define ADD(a, b) ((a) + (b))\n"
        "#define MUL(a, b) ((a) * (b))\n#define EQUAL(a, b) ((a) == (b))\n"
        "#define LEAST(m, a) ((a) < (m) || (a) != (a))",
        "#define NAME(verb) verb##_float64\n#define ADD(a, b) ((a) + (b))\n"
        "#define MUL(a, b) ((a) * (b))\n#define EQUAL(a, b) ((a) == (b))\n"
        "#define LEAST(m, a) ((a) < (m))",
    ),
    (
        "the least is looked for in steps, too, when the greatest is asked for",
        "kernels_loops.h",
        "m = (greatest ? GREATEST(m, X(i)) : LEAST(m, X(i)))",
        "m = LEAST(m, X(i))",
    ),
    (
        "i times i is one",
        "kernels.c",
        "(theus_complex128){a.re * b.re - a.im * b.im,",
        "(theus_complex128){a.re * b.re + a.im * b.im,",
    ),
    (
        "sums of bytes have as many bits as they",
        "kernels.c",
        "#define W uint32_t\n#define NAME(verb) verb##_uint32",
        "#define W uint16_t\n#define NAME(verb) verb##_uint32",
    ),
    (
        "steps of the second operand are not looked at",
        "kernels_loops.h",
        "        if (packed && s[2] == (int64_t)sizeof(T)) { ",
        "        if (packed && s[2] != 0) {                  ",
    ),
    (
        "what is left over of a block goes to one lane",
        "kernels_loops.h",
        "            lane[i % LANES] += X(i);",
        "            lane[0] = X(i);",
    ),
    (
        "an index before the start is refused",
        "kernels.c",
        "asked < 0 ? asked + a_length : asked;",
        "asked;",
    ),
    (
        "an index just behind the end is not refused",
        "kernels.c",
        "index < 0 || index >= a_length",
        "index < 0 || index > a_length",
    ),
]
