"""Plain values from the operator's own YAML files (prices, catalogues); flows have a stricter reader."""

from __future__ import annotations

from typing import Any


def load_plain_yaml(data: bytes) -> Any:
    """The document's value. Raises ValueError whose text is what is wrong with it."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(data)
    except (YAMLError, ValueError) as error:
        raise ValueError(str(getattr(error, "problem", "") or "not YAML")) from None
