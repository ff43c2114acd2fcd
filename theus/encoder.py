"""The JSON encoder that older programs pass as `json.dumps(..., cls=TheusEncoder)`."""

from __future__ import annotations

import json
from typing import Any

from theus.interop import json_default

__all__ = ["TheusEncoder"]


class TheusEncoder(json.JSONEncoder):
    """Takes what `theus.json_default` takes, and objects with a `to_dict()`."""

    def default(self, o: Any) -> Any:
        to_dict = getattr(o, "to_dict", None)
        try:
            return json_default(o)
        except TypeError:
            if not callable(to_dict):
                raise
        return to_dict()
