#include "status.h"

const char *
theus_status_text(theus_status status)
{
    switch (status) {
#define STATUS_CASE(name, number, text) \
    case THEUS_##name:                  \
        return text;
        THEUS_STATUS_LIST(STATUS_CASE)
#undef STATUS_CASE
    }
    return "unknown status";
}
