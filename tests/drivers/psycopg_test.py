"""psycopg 3 against PostgreSQL or a pooler in front of it: what an application may expect of a connection.

Statements are prepared on first use (prepare_threshold=0), so every check exercises named statements too, and
every connection uses the same names (_pg3_0, _pg3_1 ...) for different texts. Checks that need session state which
holds a server (LISTEN, temporary tables, locks, cursors) use at most two connections at a time.
"""

import asyncio
import os
import random
import threading
import time

import psycopg
from psycopg import errors, pq, sql
from psycopg.types.json import Jsonb

from checks import CLIENTS, ROUNDS, check, database_url, in_threads, raises, run, same

URL = database_url()
SCHEMA = "drv_psycopg"
ROLE = f"{SCHEMA}_{os.getpid()}"  # Roles are the whole cluster's.


def connect(**settings):
    settings = {"autocommit": True, "prepare_threshold": 0, **settings}
    return psycopg.connect(URL, **settings)


def one(connection, query, *parameters, **options):
    return connection.execute(query, parameters or None, **options).fetchone()[0]


def show(connection, setting):
    return one(connection, "select current_setting(%s, true)", setting)


def forget_statements(connection):
    """Tell the driver what it does not know: that its prepared statements are gone."""
    connection._prepared._names.clear()
    connection._prepared._counts.clear()


@check
def set_up():
    with connect() as c:
        c.execute(f"drop schema if exists {SCHEMA} cascade")
        c.execute(f"create schema {SCHEMA}")
        c.execute(f"create table {SCHEMA}.item (id serial primary key, tag text not null, n int unique)")


@check
def every_row_carries_the_tag_of_the_client_that_asked():
    def client(number):
        tag, dice = f"psycopg-{number}", random.Random(number)
        with connect() as c:
            for _ in range(ROUNDS):
                rows = dice.randrange(1, 200)
                query = "select %s::text, g from generate_series(1, %s::int) g"
                binary = dice.random() < 0.5
                with c.cursor(binary=binary) as cursor:
                    found = cursor.execute(query, (tag, rows)).fetchall()
                same(found, [(tag, g) for g in range(1, rows + 1)], "tagged rows")
                if dice.random() < 0.3:
                    with c.transaction():
                        pid = one(c, "select pg_backend_pid()")
                        same(one(c, "select %s::text", tag), tag, "tag within the transaction")
                        same(one(c, "select pg_backend_pid()"), pid, "server within the transaction")
                if dice.random() < 0.3:
                    error = raises(errors.DivisionByZero, lambda: c.execute("select 1 / %s::int", (0,)))
                    same(error.sqlstate, "22012", "SQLSTATE")

    in_threads(client)


@check
def equal_statement_names_of_different_clients_stay_apart():
    def client(number):
        with connect() as c:
            for _ in range(ROUNDS):
                # The first statement is _pg3_0 on every connection, and its text differs.
                same(one(c, f"select %s::int * 1000 + {number}", 7), 7000 + number, "own statement")

    in_threads(client)


@check
def statements_survive_their_transactions():
    with connect(autocommit=False) as c:
        for round_number in range(10):
            same(one(c, "select %s::int + 1", round_number), round_number + 1, "prepared in a transaction")
            c.rollback() if round_number % 3 else c.commit()
            same(one(c, "select %s::text || 'x'", "é"), "éx", "second statement")
            c.commit()


@check
def more_statements_than_the_driver_keeps():
    def client(number):
        with connect() as c:
            c.prepared_max = 3  # The driver closes the statements it evicts.
            for n in range(40):
                k = n % 9
                same(one(c, f"select %s::int + {number * 100 + k}", 1), number * 100 + k + 1, "evicted statement")

    in_threads(client)


@check
def deallocate_all_and_discard_all():
    with connect() as c:
        for command in ("deallocate all", "discard all"):
            same(one(c, "select %s::int", 5), 5, "before")
            c.execute(command, prepare=False)
            with connect() as other:
                same(one(other, "select %s::int", 6), 6, "another client's statement")
            forget_statements(c)
            same(one(c, "select %s::int", 7), 7, "after")


@check
def equal_names_of_statements_at_sql_level():
    def client(number):
        with connect(prepare_threshold=None) as c:
            c.execute(f"prepare mine (int) as select $1 + {number * 1000}")
            for n in range(ROUNDS):
                same(one(c, f"execute mine({n})"), n + number * 1000, "EXECUTE")
                if n % 5 == 0:
                    with c.transaction():
                        same(one(c, f"execute mine({n})"), n + number * 1000, "EXECUTE in a transaction")
            raises(errors.DuplicatePreparedStatement, lambda: c.execute("prepare mine as select 1"))
            c.execute("deallocate mine")
            raises(errors.InvalidSqlStatementName, lambda: c.execute("execute mine(1)"))

    in_threads(client)


@check
def commit_rollback_and_savepoints():
    with connect(autocommit=False) as c, connect() as other:
        count = lambda: one(other, f"select count(*) from {SCHEMA}.item where tag like 'tx%%'")
        c.execute(f"insert into {SCHEMA}.item (tag) values (%s)", ("tx rolled back",))
        same(count(), 0, "uncommitted row")
        c.rollback()
        with c.transaction():
            c.execute(f"insert into {SCHEMA}.item (tag, n) values (%s, 1)", ("tx kept",))
            with raises_unique():
                with c.transaction():  # A savepoint.
                    c.execute(f"insert into {SCHEMA}.item (tag) values (%s)", ("tx undone",))
                    c.execute(f"insert into {SCHEMA}.item (tag, n) values (%s, 1)", ("tx twice",))
            c.execute(f"insert into {SCHEMA}.item (tag) values (%s)", ("tx kept too",))
        same(count(), 2, "committed rows")
        raises(errors.UndefinedTable, lambda: c.execute("select * from no_such_table"))
        raises(errors.InFailedSqlTransaction, lambda: c.execute("select 1"))
        same(c.info.transaction_status, pq.TransactionStatus.INERROR, "status")
        c.rollback()
        same(one(c, "select 1"), 1, "after the rollback")


class raises_unique:
    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        assert kind is errors.UniqueViolation, f"a unique violation was expected, not {error!r}"
        return True


@check
def transaction_modes():
    with connect(autocommit=False) as c, connect() as other:
        c.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        c.read_only = True
        same(show(c, "transaction_isolation"), "serializable", "isolation")
        same(show(other, "transaction_isolation"), "read committed", "isolation of another client")
        raises(errors.ReadOnlySqlTransaction, lambda: c.execute(f"insert into {SCHEMA}.item (tag) values ('ro')"))
        c.rollback()
        c.read_only = None
        c.execute("set session characteristics as transaction read only")
        c.commit()
        raises(errors.ReadOnlySqlTransaction, lambda: c.execute(f"insert into {SCHEMA}.item (tag) values ('ro')"))
        c.rollback()
        other.execute(f"insert into {SCHEMA}.item (tag) values ('rw')")


@check
def settings_follow_their_client_and_no_other():
    def client(number):
        with connect() as c:
            mine = f"value-{number}"
            c.execute(f"set application_name = 'app {number}'")
            c.execute("select set_config('drv.own', %s, false)", (mine,))
            c.execute(f"set statement_timeout = {100_000 + number}")
            c.execute(f"set timezone to 'Etc/GMT+{number}'")
            for n in range(ROUNDS):
                row = c.execute(
                    "select current_setting('application_name'), current_setting('drv.own'),"
                    " (extract(epoch from current_setting('statement_timeout')::interval) * 1000)::int,"
                    " current_setting('timezone')"
                ).fetchone()
                same(row, (f"app {number}", mine, 100_000 + number, f"Etc/GMT+{number}"), "settings")
                if n % 4 == 0:
                    with c.transaction(force_rollback=True):
                        c.execute("set drv.own = 'undone'")
                        same(show(c, "drv.own"), "undone", "set in the transaction")
                if n % 4 == 1:
                    with c.transaction():
                        c.execute("set local drv.own = 'local'")
                        with c.transaction(force_rollback=True):
                            c.execute("set drv.own = 'savepoint'")
                        same(show(c, "drv.own"), "local", "back at the savepoint")
            same(c.info.parameter_status("application_name"), f"app {number}", "ParameterStatus")
            c.execute("reset application_name")
            c.execute("reset all")
            same(show(c, "statement_timeout"), "0", "after RESET ALL")
            same(show(c, "drv.own") or "", "", "after RESET ALL")

    in_threads(client)
    with connect() as c:
        same(show(c, "drv.own") or "", "", "a new client's custom setting")
        same(show(c, "statement_timeout"), "0", "a new client's statement_timeout")


@check
def search_path_decides_what_an_equal_text_means():
    with connect() as c:
        for n in range(CLIENTS):
            c.execute(f"create schema {SCHEMA}_{n}")
            c.execute(f"create table {SCHEMA}_{n}.who as select {n} as me")

    def client(number):
        # Half of them say it in the startup packet.
        if number % 2:
            options = {"options": f"-c search_path={SCHEMA}_{number}"}
        else:
            options = {}
        with connect(**options) as c:
            if not options:
                c.execute(sql.SQL("set search_path to {}").format(sql.Identifier(f"{SCHEMA}_{number}")))
            for _ in range(ROUNDS):
                same(one(c, "select me from who where me >= %s::int", 0), number, "table by search_path")

    try:
        in_threads(client)
    finally:
        with connect() as c:
            for n in range(CLIENTS):
                c.execute(f"drop schema {SCHEMA}_{n} cascade")


@check
def roles_follow_their_client():
    with connect() as admin:
        admin.execute(f"drop role if exists {ROLE}")
        admin.execute(f"create role {ROLE}")
        own = one(admin, "select current_user::text")
        try:
            with connect() as c:
                c.execute(f"set role {ROLE}")
                for _ in range(5):
                    same(one(c, "select current_user::text"), ROLE, "role")
                    same(one(admin, "select current_user::text"), own, "another client's role")
                raises(errors.InsufficientPrivilege, lambda: c.execute(f"select * from {SCHEMA}.item"))
                c.execute("reset role")
                same(one(c, "select current_user::text"), own, "after RESET ROLE")
                c.execute(f"set session authorization {ROLE}")
                same(one(admin, "select session_user::text"), own, "another client's session user")
                same(one(c, "select session_user::text"), ROLE, "session user")
        finally:
            admin.execute(f"drop role {ROLE}")


@check
def client_encoding_follows_its_client():
    with connect() as latin, connect() as utf8:
        latin.execute("set client_encoding to 'latin1'")
        for _ in range(5):
            same(one(latin, "select 'é'::text || %s::text", "ü"), "éü", "latin1")
            same(one(utf8, "select 'é→'::text || %s::text", "ü€"), "é→ü€", "utf8")
        same(latin.info.encoding, "iso8859-1", "encoding as the client sees it")
        same(utf8.info.encoding, "utf-8", "encoding as the client sees it")


@check
def statement_timeout_stops_only_its_own_client():
    with connect() as hasty, connect() as patient:
        hasty.execute("set statement_timeout = '50ms'")
        for _ in range(3):
            raises(errors.QueryCanceled, lambda: hasty.execute("select pg_sleep(10)"))
            same(one(patient, "select 'calm' from pg_sleep(0.15)"), "calm", "patient client")


@check
def copy_in_and_out():
    def client(number):
        tag = f"copy-{number}"
        with connect() as c:
            table = f"{SCHEMA}.copy_{number}"
            c.execute(f"create table {table} (tag text, n int, b bytea)")
            with c.cursor().copy(f"copy {table} from stdin") as copy:
                for n in range(2000):
                    copy.write_row((tag, n, None if n % 3 else b"\x00\\\n"))
            with c.cursor().copy(f"copy {table} from stdin (format binary)") as copy:
                copy.set_types(("text", "int4", "bytea"))
                for n in range(2000, 4000):
                    copy.write_row((tag, n, b"\xff" * 50))
            with c.cursor().copy(f"copy (select tag, n from {table} order by n) to stdout") as copy:
                copy.set_types(("text", "int4"))
                same(list(copy.rows()), [(tag, n) for n in range(4000)], "rows copied out")
            with c.cursor().copy(f"copy (select n, tag from {table} order by n) to stdout (format binary)") as copy:
                copy.set_types(("int4", "text"))
                same(list(copy.rows()), [(n, tag) for n in range(4000)], "rows copied out in binary")
            same(one(c, f"select count(*) from {table} where tag = %s", tag), 4000, "rows counted")

    in_threads(client, CLIENTS // 2)


@check
def copy_aborted_by_either_side():
    table = f"{SCHEMA}.copy_abort"
    with connect() as c:
        c.execute(f"create table {table} (n int)")
        for _ in range(3):
            def give_up():
                with c.cursor().copy(f"copy {table} from stdin") as copy:
                    for n in range(500):
                        copy.write_row((n,))
                    raise KeyError("the client has had enough")

            raises(KeyError, give_up)
            same(one(c, f"select count(*) from {table}"), 0, "rows after CopyFail")

            def bad_data():
                with c.cursor().copy(f"copy {table} from stdin") as copy:
                    copy.write("1\nnot a number\n")
                    for n in range(20_000):  # The server has given up long before this ends.
                        copy.write(f"{n}\n")

            raises(errors.InvalidTextRepresentation, bad_data)
            same(one(c, f"select count(*) from {table}"), 0, "rows after bad data")
            raises(errors.UndefinedTable, lambda: c.cursor().copy("copy no_such_table from stdin").__enter__())
            same(one(c, "select 'alive'"), "alive", "after COPY to nowhere")

            def had_enough():
                query = "copy (select repeat('x', 1000) from generate_series(1, 100000)) to stdout"
                with c.cursor().copy(query) as copy:
                    for _ in range(10):
                        copy.read()
                    raise KeyError("psycopg cancels the COPY and drains what is under way")

            raises(KeyError, had_enough)
            same(one(c, "select %s::text", "alive"), "alive", "after an abandoned COPY TO")
            with c.transaction(force_rollback=True):
                with c.cursor().copy(f"copy {table} from stdin") as copy:
                    copy.write_row((1,))
            same(one(c, f"select count(*) from {table}"), 0, "rows after ROLLBACK of COPY")


@check
def pipelines_answer_in_order():
    def client(number):
        tag = f"pipe-{number}"
        with connect() as c:
            for _ in range(5):
                with c.pipeline() as pipeline:
                    cursors = [c.execute("select %s::text, %s::int", (tag, n)) for n in range(60)]
                    pipeline.sync()
                    more = [c.execute(f"select %s::text, {n}, {number}", (tag,)) for n in range(10)]
                    same([k.fetchone() for k in cursors], [(tag, n) for n in range(60)], "pipeline")
                    same([k.fetchone() for k in more], [(tag, n, number) for n in range(10)], "second half")
                with c.pipeline(), c.transaction():
                    c.execute("set local drv.own = 'piped'")
                    cursor = c.execute("select current_setting('drv.own')")
                same(cursor.fetchone()[0], "piped", "transaction in a pipeline")

    in_threads(client)


SYNC = "sync"


def by_libpq(connection, requests):
    """Send `requests` in libpq's pipeline mode before any answer is read, and hand back the answers in order.

    A request is SYNC, ("prepare", name, query) or ("run", name or query, parameters). An answer is SYNC, "done",
    the only value of the only row, "error <SQLSTATE>", or "skipped".
    """
    c = connection.pgconn
    c.enter_pipeline_mode()
    for request in requests:
        if request == SYNC:
            c.pipeline_sync()
            continue
        kind, what, rest = request
        if kind == "prepare":
            c.send_prepare(what.encode(), rest.encode())
        elif " " in what:
            c.send_query_params(what.encode(), [p.encode() for p in rest])
        else:
            c.send_query_prepared(what.encode(), [p.encode() for p in rest])
    answers = []
    for request in requests:
        result = c.get_result()
        answers.append(_answer(result))
        if request != SYNC:
            same(c.get_result(), None, "end of one request's results")
    c.exit_pipeline_mode()
    return answers


def _answer(result):
    if result.status == pq.ExecStatus.FATAL_ERROR:
        return f"error {result.error_field(pq.DiagnosticField.SQLSTATE).decode()}"
    if result.status == pq.ExecStatus.TUPLES_OK:
        return result.get_value(0, 0).decode()
    known = {"PIPELINE_SYNC": SYNC, "PIPELINE_ABORTED": "skipped", "COMMAND_OK": "done"}
    return known[pq.ExecStatus(result.status).name]


@check
def an_error_in_a_pipeline_spoils_its_own_batch_only():
    def client(number):
        tag = f"pipe-error-{number}"
        with connect() as c:
            for n in range(10):
                answers = by_libpq(c, [
                    ("run", "select $1::text", [f"{tag} before"]), SYNC,
                    ("run", "select $1::text", [f"{tag} first"]),
                    ("run", "select 1 / $1::int", ["0"]),
                    ("run", "select $1::text", [f"{tag} never"]), SYNC,
                    ("run", "select $1::text", [f"{tag} {n}"]), SYNC, SYNC,
                ])
                same(answers, [
                    f"{tag} before", SYNC, f"{tag} first", "error 22012", "skipped", SYNC, f"{tag} {n}", SYNC, SYNC,
                ], "answers")

    in_threads(client)


@check
def failed_and_skipped_parses_in_a_pipeline():
    def client(number):
        with connect() as c:
            answers = by_libpq(c, [
                ("prepare", "good", f"select $1::int + {number * 1000}"),
                ("prepare", "bad", "selekt 1"),
                ("prepare", "skipped", "select 1"),
                ("run", "good", ["1"]), SYNC,
                ("run", "good", ["2"]), SYNC,
                ("run", "skipped", []), SYNC,
                ("run", "bad", []), SYNC,
                ("prepare", "good", "select 1"), SYNC,
                ("prepare", "skipped", f"select {number}"), ("run", "skipped", []), ("run", "good", ["3"]), SYNC,
            ])
            same(answers, [
                "done", "error 42601", "skipped", "skipped", SYNC,
                str(number * 1000 + 2), SYNC,
                "error 26000", SYNC,
                "error 26000", SYNC,
                "error 42P05", SYNC,
                "done", str(number), str(number * 1000 + 3), SYNC,
            ], "answers")

    in_threads(client)


@check
def transactions_in_a_pipeline():
    with connect() as c:
        answers = by_libpq(c, [
            ("run", "begin ", []), ("run", "select set_config('drv.own', 'kept', false)", []), ("run", "commit ", []),
            ("run", "begin ", []), ("run", "select set_config('drv.own', 'lost', false)", []), SYNC,
            ("run", "selekt 1", []), SYNC,
            ("run", "select 1 ", []), SYNC,
            ("run", "rollback ", []), ("run", "select current_setting('drv.own')", []), SYNC,
        ])
        same(answers, [
            "done", "kept", "done", "done", "lost", SYNC, "error 42601", SYNC, "error 25P02", SYNC,
            "done", "kept", SYNC,
        ], "answers")
        same(show(c, "drv.own"), "kept", "afterwards")


@check
def cancel_stops_its_own_query_only():
    with connect() as victim, connect() as bystander:
        for _ in range(3):
            slow = threading.Thread(target=lambda: results.append(one(bystander, "select 'done' from pg_sleep(0.5)")))
            results = []
            slow.start()
            timer = threading.Timer(0.1, victim.cancel_safe)
            timer.start()
            started = time.monotonic()
            error = raises(errors.QueryCanceled, lambda: victim.execute("select pg_sleep(20)"))
            assert time.monotonic() - started < 15, "the query ran on although it was cancelled"
            same(error.sqlstate, "57014", "SQLSTATE")
            timer.join()
            slow.join()
            same(results, ["done"], "bystander's query")
            victim.cancel_safe()  # Idle: stops nothing.
            same(one(victim, "select %s::text", "alive"), "alive", "after the cancel")


@check
def cancels_never_hit_the_next_query_of_another_client():
    stop = threading.Event()
    tags = []

    def worker(number):
        with connect() as c:
            n = 0
            while not stop.is_set():
                n += 1
                same(one(c, "select %s::text || %s::text", "w", f"{number}-{n}"), f"w{number}-{n}", "worker")
            tags.append(number)

    def canceller(_):
        try:
            with connect() as c:
                for n in range(60):
                    try:
                        same(one(c, "select %s::int from pg_sleep(0.001)", n), n, "canceller's own row")
                    except errors.QueryCanceled:
                        pass
                    c.cancel_safe()
        finally:
            stop.set()

    in_threads(lambda n: canceller(n) if n == 0 else worker(n), 8)
    same(len(tags), 7, "workers that went on")


@check
def listen_and_notify():
    with connect() as listener, connect() as sender:
        listener.execute(f"listen {SCHEMA}_channel")
        for n in range(5):
            sender.execute("select pg_notify(%s, %s)", (f"{SCHEMA}_channel", f"hello {n}"))
            got = next(listener.notifies(timeout=20), None)  # While the connection is idle.
            assert got is not None, "the notification did not arrive"
            same((got.channel, got.payload), (f"{SCHEMA}_channel", f"hello {n}"), "notification")
            same(one(listener, "select %s::int", n), n, "a query between notifications")
        listener.execute("unlisten *")
        sender.execute(f"notify {SCHEMA}_channel, 'nobody'")
        same(list(listener.notifies(timeout=0.2)), [], "notifications after UNLISTEN")


@check
def notices_reach_the_client_that_caused_them():
    def client(number):
        with connect() as c:
            heard = []
            c.add_notice_handler(lambda notice: heard.append(notice.message_primary))
            for n in range(ROUNDS):
                c.execute(f"do $$ begin raise notice 'from {number} {n}'; end $$")
            same(heard, [f"from {number} {n}" for n in range(ROUNDS)], "notices")

    in_threads(client)


@check
def advisory_locks_are_held_by_the_session():
    key = 0x70737963
    with connect() as holder, connect() as rival:
        for _ in range(3):
            holder.execute("select pg_advisory_lock(%s)", (key,))
            for _ in range(3):
                same(one(holder, "select 1"), 1, "a transaction while the lock is held")
                same(one(rival, "select pg_try_advisory_lock(%s)", key), False, "rival's try")
            same(one(holder, "select pg_advisory_unlock(%s)", key), True, "unlock by the holder")
            same(one(rival, "select pg_try_advisory_lock(%s)", key), True, "rival's try after the unlock")
            same(one(rival, "select pg_advisory_unlock(%s)", key), True, "unlock by the rival")
        holder.execute("select pg_advisory_lock(%s)", (key,))
        holder.close()
        rival.execute("select pg_advisory_lock(%s)", (key,))  # Waits until the closed client's lock is gone.
        rival.execute("select pg_advisory_unlock(%s)", (key,))


@check
def temporary_tables_belong_to_one_client():
    with connect() as a, connect() as b:
        a.execute("create temp table scratch as select 'a'::text as owner")
        raises(errors.UndefinedTable, lambda: b.execute("select * from scratch"))
        b.execute("create temp table scratch (owner text, extra int)")
        b.execute("insert into scratch values ('b', 1)")
        for _ in range(5):
            same(a.execute("select * from scratch").fetchall(), [("a",)], "a's table")
            same(b.execute("select * from scratch").fetchall(), [("b", 1)], "b's table")
        with a.transaction():
            a.execute("create temp table gone_at_commit (n int) on commit drop")
        a.execute("drop table scratch")
    with connect() as c:
        raises(errors.UndefinedTable, lambda: c.execute("select * from scratch"))


@check
def cursors_with_and_without_hold():
    with connect() as c, connect() as other:
        c.execute("declare held cursor with hold for select g from generate_series(1, 100) g")
        for n in range(1, 6):
            same(one(c, "fetch held"), n, "held cursor between transactions")
            raises(errors.InvalidCursorName, lambda: other.execute("fetch held"))
        c.execute("close held")
        with c.transaction():
            with c.cursor(name="walk") as walk:
                walk.itersize = 7
                walk.execute("select g from generate_series(1, 50) g")
                same([row[0] for row in walk], list(range(1, 51)), "named cursor")
        with c.cursor(name="kept", withhold=True) as kept:
            kept.execute("select g from generate_series(1, 20) g")
            same([row[0] for row in kept], list(range(1, 21)), "named cursor with hold")


@check
def a_table_that_changes_under_a_prepared_statement():
    table = f"{SCHEMA}.shape"
    with connect() as c, connect() as other:
        c.execute(f"create table {table} (a int)")
        c.execute(f"insert into {table} values (1)")
        query = f"select * from {table} where a = %s"
        for n in range(3):
            wide = tuple([1] + [None] * n)
            for client in (c, other):
                same(client.execute(query, (1,)).fetchone(), wide, "row before ALTER TABLE")
            c.execute(f"alter table {table} add column c{n} int")
            # PostgreSQL answers 0A000 where the statement was prepared; a pooler may prepare it anew
            # instead. Never a row of the old shape.
            for client in (c, other):
                try:
                    found = client.execute(query, (1,)).fetchone()
                    same(found, wide + (None,), "row after ALTER TABLE")
                except errors.FeatureNotSupported as error:
                    assert "cached plan" in str(error), error
                    client.execute("deallocate all", prepare=False)
                    forget_statements(client)
                same(client.execute(query, (1,)).fetchone(), wide + (None,), "row once prepared anew")


@check
def values_of_eight_megabytes():
    def client(number):
        text = f"{number}:é" * (2**21)
        blob = bytes([number]) * (8 * 2**20)
        with connect() as c:
            same(one(c, "select %s::text", text), text, "8 MB of text")
            same(one(c, "select %b::bytea", blob, binary=True), blob, "8 MB in binary")
            same(one(c, "select octet_length(%s)", blob), len(blob), "length of 8 MB")
            same(one(c, f"select length('{text}')", prepare=False), len(text), "8 MB of query text")

    in_threads(client, 5)


@check
def many_parameters_and_many_columns():
    with connect() as c:
        for count in (1000, 65535):
            marks = ",".join(["%s::int"] * count)
            query = f"select count(*), sum(v) from unnest(array[{marks}]) v"
            same(c.execute(query, list(range(count))).fetchone(), (count, count * (count - 1) // 2), "parameters")
        columns = ",".join(f"{n} as c{n}" for n in range(1600))
        same(c.execute(f"select {columns}").fetchone(), tuple(range(1600)), "columns")


@check
def nulls_types_and_unicode_in_both_formats():
    values = (None, True, -(2**31), 2**62, 1.5, "", "naïve \U0001f418 \u202e\u0301", b"\x00\xff", [1, None, 3], Jsonb({"k": None}))
    casts = ("text", "bool", "int4", "int8", "float8", "text", "text", "bytea", "int4[]", "jsonb")
    query = "select " + ", ".join(f"%s::{cast}" for cast in casts)
    wanted = values[:-1] + ({"k": None},)
    with connect() as c:
        for binary in (False, True, False):
            same(c.execute(query, values, binary=binary).fetchone(), wanted, f"values, binary={binary}")
            same(c.execute(query.replace("%s", "%b"), values, binary=binary).fetchone(), wanted, "binary parameters")


@check
def simple_queries_of_several_statements():
    with connect(prepare_threshold=None) as c:
        cursor = c.execute("select 1; select 2, 'two'; begin; select 3; commit")
        found = []
        while True:
            if cursor.description:
                found += cursor.fetchall()
            if not cursor.nextset():
                break
        same(found, [(1,), (2, "two"), (3,)], "results")
        raises(errors.DivisionByZero, lambda: c.execute(f"insert into {SCHEMA}.item (tag) values ('multi'); select 1/0"))
        same(one(c, f"select count(*) from {SCHEMA}.item where tag = 'multi'"), 0, "undone implicitly")
        same(c.execute("").description, None, "empty query")
        same(c.execute("/* nothing */ ;").description, None, "empty query")


@check
def a_client_that_leaves_in_a_transaction():
    for _ in range(6):
        gone = connect()
        gone.execute("begin")
        gone.execute(f"insert into {SCHEMA}.item (tag) values ('abandoned')")
        gone.execute("set drv.own = 'abandoned'")
        gone.pgconn.finish()
    with connect() as c:
        same(show(c, "drv.own") or "", "", "setting of a client that has gone")
        with c.transaction():
            c.execute(f"lock table {SCHEMA}.item in access exclusive mode")  # Waits until they are rolled back.
            same(one(c, f"select count(*) from {SCHEMA}.item where tag = 'abandoned'"), 0, "abandoned rows")


@check
def asynchronous_connections():
    async def client(number):
        tag = f"async-{number}"
        async with await psycopg.AsyncConnection.connect(URL, autocommit=True, prepare_threshold=0) as c:
            for n in range(ROUNDS):
                cursor = await c.execute("select %s::text, %s::int", (tag, n))
                same(await cursor.fetchone(), (tag, n), "asynchronous row")
            async with c.pipeline():
                cursors = [await c.execute("select %s::text, %s::int", (tag, n)) for n in range(30)]
                same([await k.fetchone() for k in cursors], [(tag, n) for n in range(30)], "pipeline")

    async def all_of_them():
        await asyncio.gather(*(client(n) for n in range(CLIENTS)))

    asyncio.run(all_of_them())


@check
def newest_protocol():
    # libpq 18 asks for protocol 3.2; whoever does not speak it answers with what it speaks.
    assert pq.version() >= 180000, "a psycopg with libpq 18 is wanted; run scripts/ensure-drivers.sh"
    with connect(max_protocol_version="latest") as c:
        same(one(c, "select %s::text", "newest"), "newest", "a query by the newest protocol")
        threading.Timer(0.1, c.cancel_safe).start()
        raises(errors.QueryCanceled, lambda: c.execute("select pg_sleep(20)"))


@check
def clean_up():
    with connect() as c:
        c.execute(f"drop schema {SCHEMA} cascade")


if __name__ == "__main__":
    run("psycopg", lambda each: each())
