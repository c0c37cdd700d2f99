"""The contract as a document: checking values against it and making values from it. Only what
openapi.json uses of JSON Schema; standard library only, as the other tests here."""

import math


def resolve(doc, schema):
    while "$ref" in schema:
        node = doc
        for part in schema["$ref"].removeprefix("#/").split("/"):
            node = node[part]
        schema = node
    return schema


TYPES = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "integer": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "number": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "null": lambda v: v is None,
}


def faults(doc, schema, value, where="$"):
    """Every way in which value is not what schema says."""
    schema = resolve(doc, schema)
    if "anyOf" in schema:
        if not any(not list(faults(doc, s, value)) for s in schema["anyOf"]):
            yield f"{where}: fits none of {len(schema['anyOf'])}"
    for part in schema.get("allOf", []):
        yield from faults(doc, part, value, where)
    if "oneOf" in schema:
        n = sum(not list(faults(doc, s, value)) for s in schema["oneOf"])
        if n != 1:
            yield f"{where}: fits {n} where exactly one must"
    kinds = schema.get("type")
    if kinds:
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not any(TYPES[k](value) for k in kinds):
            yield f"{where}: {value!r:.60} is not {' or '.join(kinds)}"
            return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r:.60} is none of {schema['enum']}"
    if TYPES["number"](value):
        if value < schema.get("minimum", -math.inf) or value > schema.get("maximum", math.inf):
            yield f"{where}: {value} is out of range"
    if isinstance(value, str) and len(value) < schema.get("minLength", 0):
        yield f"{where}: too short"
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
            yield f"{where}: {len(value)} elements"
        for i, item in enumerate(value):
            yield from faults(doc, schema.get("items", {}), item, f"{where}[{i}]")
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for name in schema.get("required", []):
            if name not in value:
                yield f"{where}: no {name}"
        for name, item in value.items():
            if name in properties:
                yield from faults(doc, properties[name], item, f"{where}.{name}")
            elif schema.get("additionalProperties") is False:
                yield f"{where}: unknown {name}"


TEXTS = ["a", "The capital of France is", "caf\u00e9 \U0001f600", " ", "\n\n", "<|im_end|>", "main",
         "base", "blocks.0.hook_resid_pre", "blocks.1.attn.hook_z", "last", "x" * 700, "\ud800", "\x00"]
NUMBERS = [0, 1, -1, 2, 3, 7, 255, 299, 300, 2**31, 2**53, 2**63, 0.5, -0.0, 1e300, 1e-320]


def make(doc, schema, rng, depth=0):
    """A value that schema mostly allows."""
    schema = resolve(doc, schema)
    if "anyOf" in schema:
        return make(doc, rng.choice(schema["anyOf"]), rng, depth)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        wanted = set(schema.get("required", []))
        groups = [[n for s in group["oneOf"] for n in s["required"]] for group in schema.get("allOf", [])]
        chosen = None
        while chosen is None or any(len(chosen & set(g)) != 1 for g in groups):  # groups may share a name
            chosen = {rng.choice(g) for g in groups}
        wanted |= chosen
        skip = {n for g in groups for n in g} - wanted
        for name in schema.get("properties", {}):
            if name not in skip and rng.random() < (0.4 if depth < 3 else 0.1):
                wanted.add(name)
        return {n: make(doc, schema["properties"][n], rng, depth + 1) for n in sorted(wanted)
                if n in schema.get("properties", {})}
    if kind == "array":
        n = max(schema.get("minItems", 0), rng.randrange(3))
        return [make(doc, schema["items"], rng, depth + 1) for _ in range(n)]
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "string":
        return rng.choice(TEXTS[:-2])
    low, high = schema.get("minimum", -4), schema.get("maximum", 300)
    value = rng.randint(int(low), int(min(high, low + 40)))
    return value if kind == "integer" else min(value + rng.choice([0, 0.25]), high)


def spoil(value, rng):
    """One fault somewhere inside."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name, how = rng.choice(sorted(value)), rng.random()
        if how < 0.5:
            return {**value, name: spoil(value[name], rng)}
        if how < 0.7:
            return {n: v for n, v in value.items() if n != name}
        return {**value, name + "x": value[name]}
    if isinstance(value, list) and value and rng.random() < 0.6:
        i = rng.randrange(len(value))
        return value[:i] + [spoil(value[i], rng)] + value[i + 1:]
    return rng.choice([None, True, [], {}, "", [[]], {"a": 1}, rng.choice(TEXTS), rng.choice(NUMBERS)])
