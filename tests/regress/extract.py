#!/usr/bin/env python3
"""Cuts PostgreSQL's regression SQL into statements and lets libpg_query (pglast) say what each one is.

usage: extract.py DIRECTORY-WITH-SQL-FILES > statements.jsonl

One JSON object a line: `file`, `line`, `text`, `kind` and `functions`. `kind` is "read" for what cannot write but through
the functions it calls, "other" for everything else; `functions` lists those calls as [schema or null, name]. What the
grammar refuses is left out: PostgreSQL would not run it. Knows nothing of pgweir's own rules.
"""

import json
import pathlib
import re
import sys

import pglast
from pglast import ast, visitors

sys.setrecursionlimit(20_000)

PSQL_VARIABLE = re.compile(r"""(?<![:\w]):(?:'(\w+)'|"(\w+)"|([A-Za-z_]\w*))""")


def statements(script):
    """Yields (line, text) for each statement, as psql would send them: meta-commands and COPY data taken out."""
    text, start, line, i, depth, atomic = [], None, 1, 0, 0, 0
    words = []

    def finished():
        return "".join(text).strip()

    while i < len(script):
        c = script[i]
        if c == "\n":
            line += 1
        token = token_at(script, i)
        if c == "\\" and token == "\\":
            end = script.find("\n", i)
            end = len(script) if end < 0 else end
            command = script[i:end]
            if command.startswith("\\;"):
                text.append(";")
                i += 2
                continue
            sends = re.match(r"\\(g\w*|crosstabview|watch|bind)\b", command)
            if sends and finished():
                yield start, finished()
                text, start, depth, atomic, words = [], None, 0, 0, []
            i = end
            continue
        if start is None and not c.isspace():
            start = line
        line += token.count("\n") - (c == "\n")
        i += len(token)
        if token == "(":
            depth += 1
        elif token == ")":
            depth -= 1
        elif re.fullmatch(r"[A-Za-z_]\w*", token):
            word = token.lower()
            words.append(word)
            if words[0] == "create" and set(words[1:4]) & {"function", "procedure"}:
                atomic += word in ("begin", "case")
                atomic -= word == "end" and atomic > 0
        if token == ";" and depth <= 0 and not atomic:
            whole = finished()
            if whole:
                yield start, whole
                if re.match(r"copy\b.*\bfrom\s+stdin\b", whole, re.I | re.S):
                    end = script.find("\n\\.", i)
                    if end >= 0:
                        line += script.count("\n", i, end + 3)
                        i = end + 3
            text, start, depth, words = [], None, 0, []
            continue
        text.append(token)
    if finished():
        yield start, finished()


TOKEN = re.compile(
    r"""
      --[^\n]*
    | (?:[eE])'(?:[^'\\]|\\.|'')*'
    | '(?:[^']|'')*'
    | "(?:[^"]|"")*"
    | (\$(?:[A-Za-z_\x80-\uffff][\w\x80-\uffff]*)?\$).*?\1
    | [A-Za-z_\x80-\uffff][\w$\x80-\uffff]*
    | \d+
    """,
    re.X | re.S,
)


def token_at(script, i):
    if script.startswith("/*", i):
        depth, j = 0, i
        while j < len(script):
            if script.startswith("/*", j):
                depth, j = depth + 1, j + 2
            elif script.startswith("*/", j):
                depth, j = depth - 1, j + 2
                if depth == 0:
                    return script[i:j]
            else:
                j += 1
        return script[i:]
    found = TOKEN.match(script, i)
    return found.group() if found else script[i]


def without_variables(text):
    """Gives psql's variables some value."""

    def value(found):
        literal, name, bare = found.groups()
        return f"'{literal}'" if literal else f'"{name}"' if name else bare

    return PSQL_VARIABLE.sub(value, text)


class Look(visitors.Visitor):
    """Collects the calls of a statement, and whether something in it writes or locks."""

    def __init__(self):
        super().__init__()
        self.functions = []
        self.writes = False

    def visit_FuncCall(self, _ancestors, node):
        names = [part.sval for part in node.funcname]
        self.functions.append([names[-2] if len(names) > 1 else None, names[-1]])

    def visit_SelectStmt(self, _ancestors, node):
        if node.intoClause or node.lockingClause:
            self.writes = True

    def writing(self, _ancestors, _node):
        self.writes = True

    visit_InsertStmt = visit_UpdateStmt = visit_DeleteStmt = visit_MergeStmt = writing


def analyzes(explain):
    """Would EXPLAIN execute its statement?"""
    result = False
    for option in explain.options or ():
        if option.defname == "analyze":
            value = getattr(option.arg, "sval", None) or getattr(option.arg, "ival", None)
            result = str(value).lower() not in ("off", "false", "0")
            if option.arg is not None and hasattr(option.arg, "ival"):
                result = option.arg.ival != 0
    return result


def judge(statement):
    """(kind, functions) of one statement of the tree."""
    if isinstance(statement, ast.VariableShowStmt):
        return "show", []
    if isinstance(statement, ast.ExplainStmt):
        kind, functions = judge(statement.query)
        if not analyzes(statement) and isinstance(
            statement.query,
            (
                ast.SelectStmt,
                ast.InsertStmt,
                ast.UpdateStmt,
                ast.DeleteStmt,
                ast.MergeStmt,
                ast.CreateTableAsStmt,
            ),
        ):
            return "read", []
        return kind, functions
    if isinstance(statement, ast.CopyStmt):
        if statement.is_from or statement.filename or statement.is_program:
            return "other", []
        return judge(statement.query) if statement.query else ("read", [])
    if isinstance(statement, ast.SelectStmt):
        look = Look()
        look(statement)
        return ("other" if look.writes else "read"), look.functions
    return "other", []


def main():
    for file in sorted(pathlib.Path(sys.argv[1]).glob("*.sql")):
        script = file.read_text(encoding="utf-8", errors="surrogateescape")
        for line, text in statements(script):
            text = without_variables(text)
            try:
                parsed = pglast.parse_sql(text)
            except (pglast.parser.ParseError, RecursionError, UnicodeError):
                continue
            if not parsed:
                continue
            judged = [judge(raw.stmt) for raw in parsed]
            kinds = {kind for kind, _ in judged}
            record = {
                "file": file.name,
                "line": line,
                "text": text,
                "kind": kinds.pop() if len(kinds) == 1 else "other",
                "functions": [call for _, calls in judged for call in calls],
            }
            try:
                print(json.dumps(record))
            except UnicodeError:
                continue


main()
