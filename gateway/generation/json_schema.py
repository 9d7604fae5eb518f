"""JSON schemas as they are enforced: checked, and rewritten into what the grammar compiler takes whole.

What cannot be enforced is refused, never dropped. Annotations pass, and so do unknown keywords and those formats that
are not enforced: to the specification (Draft 2020-12, and 7 before it) they are annotations too. The order of an
object's properties is that of the schema, and its text is compact, with a space after "," and ":" at most: a model
that may write any white space may write it for ever.
"""

from __future__ import annotations

import json
import math
from bisect import bisect, bisect_left
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from gateway.generation.json_disjoint import all_disjoint
from gateway.generation.json_finite import is_finite
from shared.errors import InvalidRequest

SCHEMA_BYTES_LIMIT = 256 * 1024
DEPTH_LIMIT = 64
TARGETS_LIMIT = 256
"""How many schemas may be referred to. With the depth it bounds how deep the compiler recurses: see grammars.py."""
PROPERTIES_LIMIT = 1000
PATTERN_PROPERTIES_LIMIT = 64
"""In all of a schema: their number counts twice, each pattern is compared with each."""
STRING_LIMIT = 4096
"""Characters of a pattern, a name or a string that is wanted literally: the cost of a token grows with it."""
MULTIPLE_LIMIT = 2000
"""The automaton of a multiple has as many states."""
COMPARISONS_LIMIT = 5000
"""Of two schemas of a `oneOf`, in all of a schema."""
WHOLE_LIMIT = 2**53
"""Up to here a double, which the compiler computes with, is exact."""

_DIALECTS = ("draft-06/schema", "draft-07/schema", "draft/2019-09/schema", "draft/2020-12/schema")
_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
_NOT_ENFORCED = frozenset(
    {
        *("not", "if", "then", "else", "dependentSchemas", "dependencies"),
        *("uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems"),
        *("propertyNames", "dependentRequired", "unevaluatedProperties"),
        *("$dynamicRef", "$recursiveRef", "divisibleBy", "disallow", "extends"),
    }
)
_NO_CONSTRAINT: Mapping[str, object] = {"uniqueItems": False, "unevaluatedItems": True, "unevaluatedProperties": True}
_ONE_SCHEMA = ("additionalProperties", "items")
_SCHEMAS = ("prefixItems", "anyOf", "oneOf", "allOf")
_NAMED_SCHEMAS = ("properties", "patternProperties")
_COUNTS = ("minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength")
_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}

_MARGIN = 1e-6
"""By which exclusive bounds move: of `exclusiveMinimum: 0` and `maximum: 0.5`, say, the compiler makes [0, 0.5]."""

# The compiler takes the 29th of February in any year, and the year 0.
_LEAP = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
_REAL_DAY = f"^(?:{_YEAR}-(?:0[13-9]|1[0-2]|02-(?:[01][0-9]|2[0-8]))|{_LEAP}-02-29)"

Place = tuple[str | int, ...]


def enforceable(schema: object, param: str) -> str:
    """The schema's text for the compiler. Raises InvalidRequest, which names `param` and the keyword at fault."""
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{param} must be a JSON schema, which is an object", param, "invalid_json_schema")
    try:
        size = len(json.dumps(schema))
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"{param} is no JSON, or nested too deep", param, "invalid_json_schema") from error
    if size > SCHEMA_BYTES_LIMIT:
        reason = f"{param} has {size:,} bytes: a JSON schema may have {SCHEMA_BYTES_LIMIT:,}"
        raise InvalidRequest(reason, param, "invalid_json_schema")
    return json.dumps({"x-guidance": _COMPACT, **_Rewriting(schema, param).whole()})


class _Rewriting:
    """One schema on its way to the compiler. Each schema that is referred to becomes an entry of `$defs`."""

    def __init__(self, root: dict[str, Any], param: str) -> None:
        self._root = root
        self._param = param
        self._targets: list[Place] = []  # of references: schemas that become entries of `$defs`
        self._one_ofs: list[dict[str, Any]] = []
        self._bounded: list[dict[str, Any]] = []
        self._compared = 0
        self._multiple = 1
        self._decimals = 0
        self._pattern_properties = 0

    def whole(self) -> dict[str, Any]:
        self._check_dialect()
        schema = self._schema(self._root, ())
        definitions: dict[str, Any] = {}
        for number, target in enumerate(self._targets):  # grows meanwhile
            definitions[str(number)] = self._schema(self._at(target, target), target)
        for holder in self._one_ofs:
            self._ease_one_of(holder, definitions)
        self._move_exclusive_bounds()
        if not is_finite(schema, definitions):
            raise self._refusal((), "fits no finite JSON: it requires itself within itself, or what cannot be")
        return {**schema, "$defs": definitions}

    def _check_dialect(self) -> None:
        dialect = self._root.get("$schema")
        if dialect is not None and not str(dialect).rstrip("#").endswith(_DIALECTS):
            raise self._refusal(("$schema",), "is another dialect: write Draft 2020-12, or 7, or leave `$schema` out")

    def _schema(self, schema: object, place: Place) -> Any:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise self._refusal(place, "must be a schema: an object, true or false")
        if len(place) > DEPTH_LIMIT:
            raise self._refusal(place, f"is nested deeper than {DEPTH_LIMIT} levels")
        if place and isinstance(schema.get("$id"), str) and not schema["$id"].startswith("#"):
            raise self._refusal((*place, "$id"), "is not taken inside of a schema: refer by `$ref` from its root")
        rewritten: dict[str, Any] = {}
        for keyword, value in _as_2020(schema).items():
            for name, meant in self._keyword(keyword, value, schema, (*place, keyword)):
                rewritten[name] = [*rewritten.get(name, []), *meant] if name == "allOf" else meant
        if "oneOf" in rewritten:
            self._one_ofs.append(rewritten)
        if rewritten.keys() & _BOUNDS and rewritten.get("type") != "integer":
            self._bounded.append(rewritten)
        return rewritten

    def _keyword(self, keyword: str, value: Any, schema: dict[str, Any], place: Place) -> list[tuple[str, Any]]:
        """What stands for a keyword and its value: keywords and values."""
        if keyword in _NOT_ENFORCED:
            if _NO_CONSTRAINT.get(keyword) is value:
                return []
            raise self._refusal(place, f"cannot be enforced: leave `{keyword}` out")
        if keyword == "format":
            return self._format(value, schema)
        if keyword == "minProperties":
            self._check_least_properties(value, schema, place)
        rewrite = self._rewrites().get(keyword)
        return [(keyword, rewrite(value, place))] if rewrite else []

    def _rewrites(self) -> Mapping[str, Callable[[Any, Place], Any]]:
        return {
            **dict.fromkeys(_ONE_SCHEMA, self._schema),
            **dict.fromkeys(_SCHEMAS, self._list),
            **dict.fromkeys(_NAMED_SCHEMAS, self._named),
            **dict.fromkeys(_COUNTS, self._count),
            **dict.fromkeys(_BOUNDS, self._number),
            "multipleOf": self._multiple_of,
            "$ref": self._reference,
            "type": self._type,
            "required": self._required,
            "pattern": self._string,
            "const": self._literal,
            "enum": self._enum,
        }

    def _list(self, schemas: Any, place: Place) -> list[Any]:
        if not isinstance(schemas, list) or not schemas:
            raise self._refusal(place, "must be a list of schemas, and not empty")
        return [self._schema(each, (*place, number)) for number, each in enumerate(schemas)]

    def _named(self, schemas: Any, place: Place) -> dict[str, Any]:
        if not isinstance(schemas, dict):
            raise self._refusal(place, "must be an object of schemas")
        if len(schemas) > PROPERTIES_LIMIT:
            raise self._refusal(place, f"has {len(schemas)} entries: at most {PROPERTIES_LIMIT} are taken")
        if place[-1] == "patternProperties":
            self._pattern_properties += len(schemas)
            if self._pattern_properties > PATTERN_PROPERTIES_LIMIT:
                raise self._refusal(place, f"brings more than {PATTERN_PROPERTIES_LIMIT} in all: use fewer patterns")
        return {self._string(name, place): self._schema(each, (*place, name)) for name, each in schemas.items()}

    def _ease_one_of(self, holder: dict[str, Any], definitions: Mapping[str, Any]) -> None:
        """Exactly one of what excludes each other is any of it; the compiler knows that of fewer cases."""
        number = len(holder["oneOf"])
        self._compared += number * (number - 1) // 2
        if "anyOf" in holder or self._compared > COMPARISONS_LIMIT or not all_disjoint(holder["oneOf"], definitions):
            return
        keywords = list(holder.items())  # their order is that of the properties which they bring
        holder.clear()
        holder.update(("anyOf" if keyword == "oneOf" else keyword, value) for keyword, value in keywords)

    def _move_exclusive_bounds(self) -> None:
        """Make those whole ones inclusive that have a fraction near them, which need not stand in the same schema."""
        bounds = [(each, keyword, each[keyword]) for each in self._bounded for keyword in _BOUNDS if keyword in each]
        fractions = sorted({value for _, _, value in bounds if value != int(value)})
        for holder, keyword, value in bounds:
            near = fractions[bisect(fractions, value - 1) : bisect_left(fractions, value + 1)]
            if "exclusive" not in keyword or value != int(value) or not near:
                continue
            margin = max(_MARGIN, abs(value) * 1e-12)  # enough for a double to show it
            moved = {"minimum": value + margin} if keyword == "exclusiveMinimum" else {"maximum": value - margin}
            del holder[keyword]
            holder["allOf"] = [*holder.get("allOf", []), moved]

    def _format(self, value: Any, schema: dict[str, Any]) -> list[tuple[str, Any]]:
        types = schema.get("type", "string")
        if value not in _FORMATS or (types != "string" and "string" not in (types if isinstance(types, list) else ())):
            return []
        dated = [("allOf", [{"pattern": _REAL_DAY}])] if value in ("date", "date-time") else []
        return [("format", value), *dated]

    def _type(self, value: Any, place: Place) -> Any:
        types = [value] if isinstance(value, str) else value
        if not isinstance(types, list) or not types or not all(each in _TYPES for each in types):
            raise self._refusal(place, f"must be one or several of {', '.join(_TYPES)}")
        return value

    def _required(self, value: Any, place: Place) -> list[str]:
        if not isinstance(value, list) or len(value) > PROPERTIES_LIMIT:
            raise self._refusal(place, f"must be a list of at most {PROPERTIES_LIMIT} names")
        return [self._string(name, place) for name in value]

    def _string(self, value: Any, place: Place) -> str:
        if not isinstance(value, str) or len(value) > STRING_LIMIT:
            raise self._refusal(place, f"must be, or consist of, strings of at most {STRING_LIMIT:,} characters")
        return value

    def _count(self, value: Any, place: Place) -> int:
        if self._number(value, place) < 0 or value != int(value):
            raise self._refusal(place, "must be a whole number, at least 0")
        return min(int(value), 2**31)

    def _check_least_properties(self, value: Any, schema: dict[str, Any], place: Place) -> None:
        """Names beyond those in `properties` may come twice, and would be counted twice."""
        required = self._required(schema.get("required", []), place)
        if self._count(value, place) > max(1, len(required)):
            raise self._refusal(place, "cannot be enforced above 1: say by `required` which properties there must be")

    def _number(self, value: Any, place: Place) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._refusal(place, "must be a number")
        if not abs(value) <= WHOLE_LIMIT:  # nor is what is no number
            raise self._refusal(place, "has a number beyond 2**53, up to which numbers are exact")
        return value

    def _multiple_of(self, value: Any, place: Place) -> Any:
        if self._number(value, place) <= 0:
            raise self._refusal(place, "must be above 0")
        step = Decimal(str(value)).normalize()
        decimals = max(self._decimals, -int(step.as_tuple().exponent))
        scaled = int(step.scaleb(decimals))
        self._multiple = math.lcm(self._multiple * 10 ** (decimals - self._decimals), scaled)
        self._decimals = decimals
        if self._multiple // math.gcd(self._multiple, 10**decimals) > MULTIPLE_LIMIT:
            raise self._refusal(place, f"makes multiples of more than {MULTIPLE_LIMIT} in all, which cost too much")
        return value

    def _enum(self, values: Any, place: Place) -> list[Any]:
        if not isinstance(values, list) or not values:
            raise self._refusal(place, "must be a list of values, and not empty")
        return [self._literal(value, (*place, number)) for number, value in enumerate(values)]

    def _literal(self, value: Any, place: Place) -> Any:
        """A value that is wanted as it is."""
        if len(place) > DEPTH_LIMIT:
            raise self._refusal(place, f"is nested deeper than {DEPTH_LIMIT} levels")
        match value:
            case dict():
                for name, each in value.items():
                    self._literal(each, (*place, self._string(name, place)))
            case list():
                for number, each in enumerate(value):
                    self._literal(each, (*place, number))
            case str():
                self._string(value, place)
            case int() | float() if not isinstance(value, bool):
                self._number(value, place)
        return value

    def _reference(self, value: Any, place: Place) -> str:
        if not isinstance(value, str) or (value != "#" and not value.startswith("#/")):
            raise self._refusal(place, 'must be "#" or begin with "#/": nothing else is looked up')
        target = tuple(unquote(part).replace("~1", "/").replace("~0", "~") for part in value.split("/")[1:])
        self._at(target, place)
        if target not in self._targets:
            if len(self._targets) == TARGETS_LIMIT:
                raise self._refusal(place, f"is one of more than {TARGETS_LIMIT} schemas that are referred to")
            self._targets.append(target)
        return f"#/$defs/{self._targets.index(target)}"

    def _at(self, target: Place, asked: Place) -> Any:
        """What lies there in the schema as it came; a reference at `asked` wants it."""
        found: Any = self._root
        try:
            for part in target:
                found = found[int(part)] if isinstance(found, list) else found[part]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise self._refusal(asked, "leads to nothing in this schema") from error
        return found

    def _refusal(self, place: Place, reason: str) -> InvalidRequest:
        pointer = "".join(f"/{part}" for part in place)
        where = f" at {pointer if len(pointer) < 100 else '…' + pointer[-100:]}" if place else ""
        return InvalidRequest(f"{self._param}: the JSON schema{where} {reason}", self._param, "invalid_json_schema")


def _as_2020(schema: dict[str, Any]) -> dict[str, Any]:
    """Tuples, which Draft 2019-09 and those before it wrote as a list in `items`."""
    if not isinstance(schema.get("items"), list):
        return {keyword: value for keyword, value in schema.items() if keyword != "additionalItems"}
    names = {"items": "prefixItems", "additionalItems": "items"}
    return {names.get(keyword, keyword): value for keyword, value in schema.items()}
