"""Was that run of transactions what it claims to be? Two independent ways to ask.

    from theus.testing import Recorder, check_history

    recorder = Recorder(engine)
    ...                                   # recorder.run(fn), recorder.execute(process), in any
                                          # threads and tasks
    report = check_history(recorder.take())
    assert report.ok, report

`check_history` is a white box: it knows the engine's version numbers, so it replays every
transaction in their order, in linear time, and says which one broke what. `check_appends` is a
black box: it looks only at lists that grew and who read what, infers the order, and names the
anomaly. It can be asked about any store, and so is an oracle that shares no assumption with the
first one.

`leak_check` is about something else: did a piece of program give back its shared memory?

Nothing here is needed to run an engine; `import theus` does not load it. No test framework is
needed either.
"""

from theus.testing.appends import (
    Append,
    AppendReport,
    AppendTransaction,
    Cycle,
    Read,
    check_appends,
)
from theus.testing.history import Anomaly, Attempt, History, Report, Step, Violation
from theus.testing.instances import Fields, RecordingInstance
from theus.testing.leaks import LeakError, leak_check
from theus.testing.processes import RecordingContext
from theus.testing.recorder import Recorder
from theus.testing.recording import RecordingMap, RecordingTransaction
from theus.testing.replay import check_history

__all__ = [
    "Anomaly",
    "Append",
    "AppendReport",
    "AppendTransaction",
    "Attempt",
    "Cycle",
    "Fields",
    "History",
    "LeakError",
    "Read",
    "Recorder",
    "RecordingInstance",
    "RecordingContext",
    "RecordingMap",
    "RecordingTransaction",
    "Report",
    "Step",
    "Violation",
    "check_appends",
    "check_history",
    "leak_check",
]
