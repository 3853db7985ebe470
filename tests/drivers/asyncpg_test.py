"""asyncpg against PostgreSQL or a pooler in front of it: what an application may expect of a connection.

asyncpg prepares every statement under a name that counts from 1 on every connection, speaks binary only, and resets
a connection that goes back to its own pool (RESET ALL, CLOSE ALL, UNLISTEN *, pg_advisory_unlock_all). Checks whose
state holds a server use at most two connections at a time.
"""

import asyncio
import datetime
import decimal
import io
import random
import uuid

import asyncpg

from checks import CLIENTS, ROUNDS, check, database_url, run, same

URL = database_url()
SCHEMA = "drv_asyncpg"


class connected:
    """`async with connected() as c`; several connections with `connected(2)`."""

    def __init__(self, count=1, **settings):
        self.count, self.settings = count, settings

    async def __aenter__(self):
        self.connections = [await asyncpg.connect(URL, **self.settings) for _ in range(self.count)]
        return self.connections if self.count > 1 else self.connections[0]

    async def __aexit__(self, kind, *_):
        for c in self.connections:
            if kind is None:
                await c.close()
            else:
                c.terminate()  # A polite end may hang where something has gone wrong.


class raises:
    """`async with raises(Error) as caught`; `caught.error` is what was raised."""

    def __init__(self, error):
        self.wanted = error

    async def __aenter__(self):
        return self

    async def __aexit__(self, kind, error, _):
        if error is None:
            raise AssertionError(f"{self.wanted.__name__} was not raised")
        self.error = error
        return isinstance(error, self.wanted)


async def together(client, count=CLIENTS):
    await asyncio.gather(*(client(n) for n in range(count)))


async def show(c, setting):
    return await c.fetchval("select current_setting($1, true)", setting)


@check
async def set_up():
    async with connected() as c:
        await c.execute(f"drop schema if exists {SCHEMA} cascade; create schema {SCHEMA}")
        await c.execute(f"create table {SCHEMA}.item (id serial primary key, tag text not null, n int unique)")


@check
async def every_row_carries_the_tag_of_the_client_that_asked():
    async def client(number):
        tag, dice = f"asyncpg-{number}", random.Random(number)
        async with connected() as c:
            for _ in range(ROUNDS):
                rows = dice.randrange(1, 200)
                found = await c.fetch("select $1::text, g from generate_series(1, $2::int) g", tag, rows)
                same([tuple(r) for r in found], [(tag, g) for g in range(1, rows + 1)], "tagged rows")
                if dice.random() < 0.3:
                    async with c.transaction():
                        pid = await c.fetchval("select pg_backend_pid()")
                        same(await c.fetchval("select $1::text", tag), tag, "tag within the transaction")
                        same(await c.fetchval("select pg_backend_pid()"), pid, "server within the transaction")
                if dice.random() < 0.3:
                    async with raises(asyncpg.DivisionByZeroError):
                        await c.fetchval("select 1 / $1::int", 0)

    await together(client)


@check
async def equal_statement_names_of_different_clients_stay_apart():
    async def client(number):
        async with connected() as c:
            statement = await c.prepare(f"select $1::int * 1000 + {number}")
            for n in range(ROUNDS):
                same(await statement.fetchval(n), n * 1000 + number, "own statement")
                async with c.transaction():
                    same(await statement.fetchval(n), n * 1000 + number, "own statement in a transaction")

    await together(client)


@check
async def statements_come_and_go():
    async def client(number):
        async with connected(statement_cache_size=3) as c:  # asyncpg closes those it evicts.
            for n in range(60):
                k = n % 9
                same(await c.fetchval(f"select $1::int + {number * 100 + k}", 1), number * 100 + k + 1, "evicted")
        async with connected(statement_cache_size=0) as c:  # Unnamed statements only.
            for n in range(20):
                same(await c.fetchval(f"select $1::int + {number}", n), n + number, "unnamed statement")

    await together(client)


@check
async def types_that_the_driver_looks_up():
    async def client(number):
        async with connected() as c:
            row = await c.fetchrow(f"select row(1, 'x')::{SCHEMA}.pair as p, array['a', 'b']::{SCHEMA}.mood[] as m")
            same((tuple(row["p"]), row["m"]), ((1, "x"), ["a", "b"]), "composite and enum")

    async with connected() as c:
        await c.execute(f"create type {SCHEMA}.pair as (n int, t text)")
        await c.execute(f"create type {SCHEMA}.mood as enum ('a', 'b')")
    await together(client)


@check
async def commit_rollback_and_savepoints():
    async with connected(2) as (c, other):
        async def count():
            return await other.fetchval(f"select count(*) from {SCHEMA}.item where tag like 'tx%'")

        transaction = c.transaction()
        await transaction.start()
        await c.execute(f"insert into {SCHEMA}.item (tag) values ($1)", "tx rolled back")
        same(await count(), 0, "uncommitted row")
        await transaction.rollback()
        async with c.transaction():
            await c.execute(f"insert into {SCHEMA}.item (tag, n) values ('tx kept', 1)")
            async with raises(asyncpg.UniqueViolationError):
                async with c.transaction():
                    await c.execute(f"insert into {SCHEMA}.item (tag) values ('tx undone')")
                    await c.execute(f"insert into {SCHEMA}.item (tag, n) values ('tx twice', 1)")
            await c.execute(f"insert into {SCHEMA}.item (tag) values ('tx kept too')")
        same(await count(), 2, "committed rows")
        async with raises(asyncpg.InFailedSQLTransactionError):
            async with c.transaction():
                async with raises(asyncpg.UndefinedTableError):
                    await c.fetch("select * from no_such_table")
                await c.fetch("select 1")
        async with raises(asyncpg.ReadOnlySQLTransactionError):
            async with c.transaction(isolation="serializable", readonly=True, deferrable=True):
                await c.execute(f"insert into {SCHEMA}.item (tag) values ('ro')")
        same(await show(c, "transaction_isolation"), "read committed", "isolation afterwards")


@check
async def settings_follow_their_client_and_no_other():
    async def client(number):
        start = {"application_name": f"app {number}", "statement_timeout": str(100_000 + number)}
        async with connected(server_settings=start) as c:
            await c.execute(f"set drv.own = 'value-{number}'")
            await c.fetchval("select set_config('work_mem', $1, false)", f"{1000 + number}kB")
            wanted = (f"app {number}", f"value-{number}", f"{1000 + number}kB", 100_000 + number)
            for n in range(ROUNDS):
                row = await c.fetchrow(
                    "select current_setting('application_name'), current_setting('drv.own'),"
                    " current_setting('work_mem'),"
                    " (extract(epoch from current_setting('statement_timeout')::interval) * 1000)::int"
                )
                same(tuple(row), wanted, "settings")
                if n % 4 == 0:
                    async with raises(ZeroDivisionError):
                        async with c.transaction():
                            await c.execute("set drv.own = 'undone'")
                            same(await show(c, "drv.own"), "undone", "set in the transaction")
                            raise ZeroDivisionError
            same(c.get_settings().application_name, f"app {number}", "ParameterStatus")
            await c.execute("reset all")
            row = await c.fetchrow("select current_setting('application_name'), current_setting('drv.own')")
            same(tuple(row), (f"app {number}", ""), "RESET ALL goes back to the startup packet's settings")

    await together(client)
    async with connected() as c:
        same(await show(c, "drv.own") or "", "", "a new client's custom setting")
        same(await show(c, "statement_timeout"), "0", "a new client's statement_timeout")


@check
async def search_path_decides_what_an_equal_text_means():
    async with connected() as c:
        for n in range(CLIENTS):
            await c.execute(f"create schema {SCHEMA}_{n}; create table {SCHEMA}_{n}.who as select {n} as me")

    async def client(number):
        path = f"{SCHEMA}_{number}"
        async with connected(server_settings={"search_path": path} if number % 2 else {}) as c:
            if number % 2 == 0:
                await c.execute(f"set search_path to {path}")
            for _ in range(ROUNDS):
                same(await c.fetchval("select me from who where me >= $1", 0), number, "table by search_path")

    try:
        await together(client)
    finally:
        async with connected() as c:
            for n in range(CLIENTS):
                await c.execute(f"drop schema {SCHEMA}_{n} cascade")


@check
async def the_drivers_own_pool_resets_what_it_hands_out():
    pool = await asyncpg.create_pool(URL, min_size=2, max_size=6)

    async def client(number):
        for n in range(10):
            async with pool.acquire() as c:
                same(await show(c, "drv.own") or "", "", "setting of the previous user")
                await c.execute(f"set drv.own = 'pool-{number}'")
                same(await c.fetchval("select $1::int", n), n, "row")
                same(await show(c, "drv.own"), f"pool-{number}", "own setting")

    await together(client)
    await pool.close()


@check
async def many_rows_in_one_call():
    async def client(number):
        async with connected() as c:
            rows = [(f"many-{number}", (number + 1) * 10_000 + n) for n in range(500)]
            await c.executemany(f"insert into {SCHEMA}.item (tag, n) values ($1, $2)", rows)
            query = f"select count(*) from {SCHEMA}.item where tag = $1"
            same(await c.fetchval(query, f"many-{number}"), 500, "rows")
            async with raises(asyncpg.UniqueViolationError):  # One bad row in a stream of Bind and Execute.
                bad = [(f"bad-{number}", (number + 1) * 10_000 + 900 + n) for n in range(50)] + rows[:1] + rows
                await c.executemany(f"insert into {SCHEMA}.item (tag, n) values ($1, $2)", bad)
            same(await c.fetchval(query, f"bad-{number}"), 0, "rows of the failed call")
            found = await c.fetchmany("select $1::text || $2::int::text", [(f"t{number}-", n) for n in range(50)])
            same([r[0] for r in found], [f"t{number}-{n}" for n in range(50)], "fetchmany")

    await together(client)


@check
async def copy_in_and_out():
    async def client(number):
        tag, table = f"copy-{number}", f"copy_{number}"
        async with connected() as c:
            await c.execute(f"create table {SCHEMA}.{table} (tag text, n int, b bytea)")
            rows = [(tag, n, None if n % 3 else b"\x00\\\n") for n in range(3000)]
            await c.copy_records_to_table(table, schema_name=SCHEMA, records=rows)
            text = io.BytesIO("".join(f"{tag}\t{n}\t\\N\n" for n in range(3000, 4000)).encode())
            await c.copy_to_table(table, schema_name=SCHEMA, source=text)
            out = io.BytesIO()
            await c.copy_from_query(f"select tag, n from {SCHEMA}.{table} where n >= $1 order by n", 10, output=out)
            same(out.getvalue().decode(), "".join(f"{tag}\t{n}\n" for n in range(10, 4000)), "rows copied out")

    await together(client, CLIENTS // 2)


@check
async def copy_aborted_by_either_side():
    async with connected() as c:
        await c.execute(f"create table {SCHEMA}.copy_abort (n int)")

        async def gives_up():
            yield b"1\n"
            raise KeyError("the client has had enough")

        async def bad_data():
            yield b"1\nnot a number\n"
            for n in range(2000):
                yield f"{n}\n".encode() * 10

        class Full(Exception):
            pass

        async def full(data):
            raise Full

        for _ in range(3):
            async with raises(KeyError):
                await c.copy_to_table("copy_abort", schema_name=SCHEMA, source=gives_up())
            async with raises(asyncpg.InvalidTextRepresentationError):
                await c.copy_to_table("copy_abort", schema_name=SCHEMA, source=bad_data())
            async with raises(asyncpg.UndefinedTableError):
                await c.copy_to_table("no_such_table", source=io.BytesIO(b"1\n"))
            async with raises(Full):
                await c.copy_from_query("select repeat('x', 1000) from generate_series(1, 20000)", output=full)
            same(await c.fetchval(f"select count(*) from {SCHEMA}.copy_abort"), 0, "rows after aborted COPYs")


@check
async def cancel_stops_its_own_query_only():
    async with connected(2) as (victim, bystander):
        for n in range(4):
            slow = asyncio.ensure_future(bystander.fetchval("select 'done' from pg_sleep(0.4)"))
            async with raises(asyncio.TimeoutError):
                await victim.fetchval("select pg_sleep(20)", timeout=0.1)
            same(await victim.fetchval("select $1::int", n), n, "after the cancel")
            task = asyncio.ensure_future(victim.execute("select pg_sleep(20)"))
            await asyncio.sleep(0.05)
            task.cancel()
            async with raises(asyncio.CancelledError):
                await task
            same(await victim.fetchval("select $1::int", n), n, "after the cancelled task")
            same(await slow, "done", "bystander's query")


@check
async def cancels_never_hit_the_next_query_of_another_client():
    stop = asyncio.Event()

    async def worker(number):
        n = 0
        async with connected() as c:
            while not stop.is_set():
                n += 1
                same(await c.fetchval("select $1::text", f"w{number}-{n}"), f"w{number}-{n}", "worker's row")

    async def canceller(_):
        try:
            async with connected() as c:
                for n in range(60):
                    try:
                        query = "select $1::int from pg_sleep(0.004)"
                        same(await c.fetchval(query, n, timeout=0.001 * (n % 9 + 1)), n, "canceller's own row")
                    except asyncio.TimeoutError:
                        pass
        finally:
            stop.set()

    await together(lambda n: canceller(n) if n < 2 else worker(n), 8)


@check
async def statement_timeout_stops_only_its_own_client():
    async with connected(2) as (hasty, patient):
        await hasty.execute("set statement_timeout = '50ms'")
        for _ in range(3):
            async with raises(asyncpg.QueryCanceledError):
                await hasty.execute("select pg_sleep(10)")
            same(await patient.fetchval("select 'calm' from pg_sleep(0.15)"), "calm", "patient client")


@check
async def statements_at_sql_level():
    async def client(number):
        async with connected() as c:
            await c.execute(f"prepare mine (int) as select $1 + {number * 1000}")
            for n in range(ROUNDS):
                same(await c.fetchval(f"execute mine({n})"), n + number * 1000, "EXECUTE")
            await c.execute("deallocate mine")
            async with raises(asyncpg.InvalidSQLStatementNameError):
                await c.execute("execute mine(1)")

    await together(client)


@check
async def listen_and_notify():
    async with connected(2) as (listener, sender):
        heard = asyncio.Queue()
        channel = f"{SCHEMA}_channel"

        def hear(_connection, _pid, heard_on, payload):
            heard.put_nowait((heard_on, payload))

        await listener.add_listener(channel, hear)
        for n in range(5):
            await sender.execute("select pg_notify($1, $2)", channel, f"hello {n}")
            same(await asyncio.wait_for(heard.get(), 20), (channel, f"hello {n}"), "notification")
            same(await listener.fetchval("select $1::int", n), n, "a query between notifications")
        async with sender.transaction():
            await sender.execute(f"notify {channel}, 'at commit'")
            same(heard.empty(), True, "no notification before the commit")
        same(await asyncio.wait_for(heard.get(), 20), (channel, "at commit"), "notification")
        await listener.remove_listener(channel, hear)
        await sender.execute(f"notify {channel}, 'nobody'")
        same(await listener.fetchval("select 1"), 1, "after UNLISTEN")
        same(heard.empty(), True, "no notification after UNLISTEN")


@check
async def advisory_locks_are_held_by_the_session():
    key = 0x6173796E
    async with connected(2) as (holder, rival):
        await holder.execute("select pg_advisory_lock($1)", key)
        for _ in range(3):
            same(await holder.fetchval("select 1"), 1, "a transaction while the lock is held")
            same(await rival.fetchval("select pg_try_advisory_lock($1)", key), False, "rival's try")
        await holder.reset()  # Unlocks all.
        same(await rival.fetchval("select pg_try_advisory_lock($1)", key), True, "rival's try after the reset")
        same(await rival.fetchval("select pg_advisory_unlock($1)", key), True, "unlock")


@check
async def temporary_tables_belong_to_one_client():
    async with connected(2) as (a, b):
        await a.execute("create temp table scratch as select 'a'::text as owner")
        async with raises(asyncpg.UndefinedTableError):
            await b.fetch("select * from scratch")
        await b.execute("create temp table scratch (owner text, extra int); insert into scratch values ('b', 1)")
        for _ in range(5):
            same(tuple(await a.fetchrow("select * from scratch")), ("a",), "a's table")
            same(tuple(await b.fetchrow("select * from scratch")), ("b", 1), "b's table")
    async with connected() as c:
        async with raises(asyncpg.UndefinedTableError):
            await c.fetch("select * from scratch")


@check
async def cursors_with_and_without_hold():
    async with connected(2) as (c, other):
        await c.execute("declare held cursor with hold for select g from generate_series(1, 100) g")
        for n in range(1, 6):
            same(await c.fetchval("fetch held"), n, "held cursor between transactions")
            async with raises(asyncpg.InvalidCursorNameError):
                await other.fetchval("fetch held")
        await c.execute("close held")

    async def client(number):
        async with connected() as mine, mine.transaction():
            found = []
            query = "select $1::int * 1000 + g from generate_series(1, 100) g"
            async for row in mine.cursor(query, number, prefetch=7):  # Execute with a row limit; PortalSuspended.
                found.append(row[0])
            same(found, [number * 1000 + g for g in range(1, 101)], "rows of a portal read in pieces")

    await together(client)


@check
async def a_table_that_changes_under_a_prepared_statement():
    table = f"{SCHEMA}.shape"
    async with connected(4) as clients:
        await clients[0].execute(f"create table {table} (a int); insert into {table} values (1)")
        # Slow enough that the clients meet on different servers.
        query = f"select t.* from {table} t, pg_sleep(0.02) where a = $1"

        async def row(c):
            return tuple(await c.fetchrow(query, 1))

        for n in range(3):
            wide = (1,) + (None,) * n
            for _ in range(2):
                same(await asyncio.gather(*map(row, clients)), [wide] * 4, "rows before ALTER TABLE")
            await clients[0].execute(f"alter table {table} add column c{n} int")
            # PostgreSQL answers 0A000, upon which asyncpg prepares anew, once. A pooler must not answer the
            # renewed Parse with an old statement, on whichever server; and a row of the new shape without the
            # 0A000 would not fit the description that asyncpg has.
            for _ in range(2):
                same(await asyncio.gather(*map(row, clients)), [wide + (None,)] * 4, "rows after ALTER TABLE")


@check
async def values_of_eight_megabytes():
    async def client(number):
        text, blob = f"{number}:é" * (2**21), bytes([number]) * (8 * 2**20)
        async with connected() as c:
            same(await c.fetchval("select $1::text", text), text, "8 MB of text")
            same(await c.fetchval("select $1::bytea", blob), blob, "8 MB of bytes")

    await together(client, 5)


@check
async def many_parameters():
    async with connected() as c:
        for count in (1000, 32767):  # asyncpg's own limit.
            marks = ",".join(f"${n}::int" for n in range(1, count + 1))
            found = await c.fetchval(f"select sum(v) from unnest(array[{marks}]) v", *range(count))
            same(found, count * (count - 1) // 2, "sum of the parameters")


@check
async def nulls_types_and_unicode():
    values = {
        "text": "naïve \U0001f418 \u202e\u0301", "bool": True, "int2": -32768, "int8": 2**62, "float8": 1.5,
        "bytea": b"\x00\xff", "int4[]": [1, None, 3], "uuid": uuid.UUID(int=7), "numeric": decimal.Decimal("1e-20"),
        "timestamptz": datetime.datetime(2024, 2, 29, tzinfo=datetime.timezone.utc), "jsonb": '{"k": null}',
        "interval": datetime.timedelta(days=3, seconds=1), "varchar": "",
    }
    async with connected() as c:
        for kind, value in values.items():
            same(await c.fetchval(f"select $1::{kind}", value), value, kind)
            same(await c.fetchval(f"select $1::{kind}", None), None, f"NULL {kind}")


@check
async def a_client_that_leaves_in_a_transaction():
    for _ in range(6):
        async with connected() as gone:
            await gone.execute(f"begin; insert into {SCHEMA}.item (tag) values ('abandoned'); set drv.own = 'left'")
            gone.terminate()
    async with connected() as c:
        same(await show(c, "drv.own") or "", "", "setting of a client that has gone")
        async with c.transaction():
            await c.execute(f"lock table {SCHEMA}.item in access exclusive mode")
            same(await c.fetchval(f"select count(*) from {SCHEMA}.item where tag = 'abandoned'"), 0, "abandoned rows")


@check
async def clean_up():
    async with connected() as c:
        await c.execute(f"drop schema {SCHEMA} cascade")


if __name__ == "__main__":
    run("asyncpg", lambda each: asyncio.run(each()))
