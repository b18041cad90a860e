"""Plain values from the operator's own YAML files (prices, catalogues); flows have a stricter reader."""

from __future__ import annotations

from typing import Any


def load_plain_yaml(data: bytes) -> Any:
    """The document's value, of UTF-8. Raises ValueError whose text is what is wrong with it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 (byte {error.start + 1})") from None
    except (YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{getattr(error, 'problem', '') or 'not YAML'}{line}") from None
