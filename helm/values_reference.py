"""`VALUES.md`: every value of the chart in a table for people, made from its schema."""

import json
import re
from typing import Any

Schema = dict[str, Any]


def generate_reference(schema: Schema) -> str:
    """A table of every value, for people."""
    lines = [
        "# Values",
        "",
        "Made by `make chart` from `values.yaml` and from what the service itself checks; do not edit. A key that is",
        "not here is refused. Keys with snake_case are Fettle's own words, as in `models.yaml` and `FETTLE_*`.",
        "",
        "| value | type | default | |",
        "|---|---|---|---|",
    ]
    lines += [f"| `{path}` | {kind} | {default} | {text} |" for path, kind, default, text in _rows(schema, schema, "")]
    return "\n".join(lines) + "\n"


def _rows(schema: Schema, root: Schema, path: str) -> list[tuple[str, str, str, str]]:
    rows = []
    for name, field in schema["properties"].items():
        place = f"{path}{name}"
        target = _target(field, root)
        inner = target if "properties" in target else _target(target.get("items") or {}, root)
        is_ours = "properties" in inner and not _is_kubernetes(field) and not _is_kubernetes(target.get("items") or {})
        text = re.sub(r"\s+", " ", field.get("description", "")).replace("|", "\\|")
        if not is_ours:
            rows.append((place, _kind(field, root), _default(field), text))
            continue
        rows.append((place, "list" if inner is not target else "map", _default(field), text))
        if place != "models[].serving":  # told at serving.defaults
            rows += _rows(inner, root, f"{place}[]." if inner is not target else f"{place}.")
    return rows


def _target(field: Schema, root: Schema) -> Schema:
    pointer = field.get("$ref")
    if pointer is None:
        choices = [choice for choice in field.get("anyOf", []) if choice.get("type") != "null"]
        return _target(choices[0], root) if len(choices) == 1 else field
    part: Any = root
    for word in pointer.removeprefix("#/").split("/"):
        part = part[word]
    return dict(part)


def _is_kubernetes(field: Schema) -> bool:
    return "/io.k8s." in str(field.get("$ref", ""))


def _kind(field: Schema, root: Schema) -> str:
    if _is_kubernetes(field):
        return f"Kubernetes' {field['$ref'].rpartition('.')[2]}"
    target = _target(field, root)
    if "enum" in target:
        return " or ".join(f"`{choice}`" for choice in target["enum"])
    if target.get("type") == "array":
        return f"list of {_kind(target.get('items') or {}, root)}"
    kind = target.get("type") or [choice.get("type", "map") for choice in target.get("anyOf", [])]
    kind = " or ".join(kind) if isinstance(kind, list) else kind
    return kind.replace("object", "map")


def _default(field: Schema) -> str:
    default = field.get("default")
    return "" if default in (None, "", [], {}) else f"`{json.dumps(default, ensure_ascii=False)}`".replace("|", "\\|")
