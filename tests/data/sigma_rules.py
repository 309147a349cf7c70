"""Converts the Sigma rules of a directory for several engines, and runs them on events.

    sigma_rules.py RULES EVENTS

Prints one JSON object: for each rule its Lucene query, and which events match its SQL query, by kind and
state. An array counts as its first element: the rules look at no array.
"""

import json
import pathlib
import sqlite3
import sys

from sigma.backends.elasticsearch import LuceneBackend
from sigma.backends.sqlite import sqliteBackend
from sigma.collection import SigmaCollection


def leaves(value, name=""):
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        if value:
            yield from leaves(value[0], name)
    else:
        yield name, value


def table(events):
    columns = sorted({name for event in events for name in event})
    logs = sqlite3.connect(":memory:")
    # SQLite takes 2000 columns; the names come from our own documents.
    logs.execute(f"CREATE TABLE logs ({', '.join(f'`{name}`' for name in columns)})")
    places = ", ".join("?" for _ in columns)
    for event in events:
        logs.execute(f"INSERT INTO logs VALUES ({places})", [event.get(name) for name in columns])
    logs.row_factory = sqlite3.Row
    return logs


def main():
    rules, events = map(pathlib.Path, sys.argv[1:])
    lines = events.read_text().splitlines()
    logs = table([dict(leaves(json.loads(line))) for line in lines])
    told = {}
    for file in sorted(rules.glob("*.yml")):
        rule = SigmaCollection.from_yaml(file.read_text())
        (lucene,), (sql,) = LuceneBackend().convert(rule), sqliteBackend().convert(rule)
        matches = [
            [row["portwatch.finding.kind"], row["portwatch.finding.state"]]
            for row in logs.execute(sql.replace("<TABLE_NAME>", "logs"))
        ]
        told[file.stem] = {"lucene": lucene, "matches": matches}
    print(json.dumps(told))


main()
