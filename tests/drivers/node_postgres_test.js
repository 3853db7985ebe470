// node-postgres against PostgreSQL or a pooler in front of it: what an application may expect of a connection.
//
// node-postgres lets the application choose the names of prepared statements, so the clients here use equal names
// for different texts. It queues queries on one connection, or (`pipeline: true`) sends each with its own Sync
// before the answers of those before it have come. Checks whose state holds a server use at most two connections
// at a time.
//
// Usage: node node_postgres_test.js postgres://user:password@host:port/database   (or DATABASE_URL)
// While hunting, ONLY=name runs one check and KEEP_GOING=1 all of them, whatever fails.
'use strict';

const assert = require('node:assert/strict');
const net = require('node:net');
const path = require('node:path');
const { once } = require('node:events');
const { pipeline: streamed } = require('node:stream/promises');
const { Readable, Writable } = require('node:stream');

module.paths.push(path.join(__dirname, '../../target/drivers/node/node_modules'));
const pg = require('pg');
const Cursor = require('pg-cursor');
const copy = require('pg-copy-streams');

const URL_OF_DATABASE = process.argv[2] || process.env.DATABASE_URL;
const SCHEMA = 'drv_node';
const CLIENTS = 12; // Must exceed the pool that the tests run through.
const ROUNDS = 40;
const WATCHDOG_SECONDS = 150;

process.noDeprecation = true; // Queueing several queries on one client is what some checks are about.

if (!URL_OF_DATABASE) {
  console.error('usage: node node_postgres_test.js postgres://user:password@host:port/database');
  process.exit(1);
}

const checks = [];
const check = (name, run) => checks.push({ name, run });
const range = (count) => Array.from({ length: count }, (_, n) => n);
const together = (work, count = CLIENTS) => Promise.all(range(count).map(work));

// `connected(config, async (client, ...) => ...)`: as many clients as `count`, ended whatever happens.
async function connected({ count = 1, ...config }, work) {
  const clients = range(count).map(() => new pg.Client({ connectionString: URL_OF_DATABASE, ...config }));
  try {
    for (const client of clients) await client.connect();
    await work(...clients);
    for (const client of clients) await client.end();
  } catch (error) {
    for (const client of clients) client.connection.stream.destroy();
    throw error;
  }
}

const value = async (client, text, values) => Object.values((await client.query(text, values)).rows[0])[0];
const show = (client, setting) => value(client, 'select current_setting($1, true)', [setting]);
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function fails(promise, code, what) {
  const error = await promise.then(
    () => assert.fail(`${what || 'it'} was expected to fail with ${code}`),
    (caught) => caught,
  );
  assert.equal(error.code, code, `${what || ''} SQLSTATE of ${error.stack}`);
}

// node-postgres has no call to cancel a running query but its own queue's, so this is CancelRequest by hand.
async function cancel(client) {
  const socket = net.connect(client.port, client.host);
  const request = Buffer.alloc(16);
  [16, 80877102, client.processID, client.secretKey].forEach((word, n) => request.writeInt32BE(word, n * 4));
  socket.resume();
  socket.on('error', () => {}); // The server may end it by a reset.
  socket.write(request);
  await once(socket, 'close');
}

check('set up', () =>
  connected({}, async (c) => {
    await c.query(`drop schema if exists ${SCHEMA} cascade; create schema ${SCHEMA}`);
    await c.query(`create table ${SCHEMA}.item (id serial primary key, tag text not null, n int unique)`);
  }));

check('every row carries the tag of the client that asked', () =>
  together((number) =>
    connected({}, async (c) => {
      const tag = `node-${number}`;
      for (const n of range(ROUNDS)) {
        const rows = 1 + ((n * 37 + number * 11) % 150);
        const text = 'select $1::text as tag, g from generate_series(1, $2::int) g';
        const found = await c.query({ text, values: [tag, rows], rowMode: 'array' });
        assert.deepEqual(found.rows, range(rows).map((g) => [tag, g + 1]));
        if (n % 5 === 0) {
          await c.query('begin');
          const pid = await value(c, 'select pg_backend_pid()');
          assert.equal(await value(c, 'select $1::text', [tag]), tag);
          assert.equal(await value(c, 'select pg_backend_pid()'), pid, 'server within the transaction');
          await c.query(n % 2 ? 'commit' : 'rollback');
        }
        if (n % 7 === 0) await fails(c.query('select 1 / $1::int', [0]), '22012');
      }
    })));

check('equal statement names of different clients stay apart', () =>
  together((number) =>
    connected({}, async (c) => {
      for (const n of range(ROUNDS)) {
        const mine = { name: 'mine', text: `select $1::int * 1000 + ${number} as v`, values: [n] };
        assert.equal((await c.query(mine)).rows[0].v, n * 1000 + number);
        if (n % 4 === 0) {
          await c.query('begin');
          assert.equal((await c.query(mine)).rows[0].v, n * 1000 + number, 'in a transaction');
          await c.query(n % 8 ? 'commit' : 'rollback');
        }
        const other = { name: `other ${n % 7}`, text: `select $1::text || '${number}-${n % 7}' as v`, values: ['x'] };
        assert.equal((await c.query(other)).rows[0].v, `x${number}-${n % 7}`);
      }
    })));

check('a failed Parse of a named statement can be sent again', () =>
  connected({}, async (c) => {
    const query = { name: 'late', text: `select count(*)::int as v from ${SCHEMA}.late`, values: [] };
    await fails(c.query(query), '42P01');
    await c.query(`create table ${SCHEMA}.late (n int)`);
    assert.equal((await c.query(query)).rows[0].v, 0);
  }));

check('queued queries are answered in their order', () =>
  together((number) =>
    connected({}, async (c) => {
      const answers = await Promise.allSettled(
        range(100).map((n) => {
          if (n % 10 === 7) return c.query('select 1 / $1::int', [0]);
          if (n % 10 === 8) return c.query(`selekt ${n}`);
          if (n % 3 === 0) return c.query({ name: `q${n % 4}`, text: `select $1::text || ${n % 4} as v`, values: [`${number}-${n}-`] });
          return c.query(`select '${number}-${n}' as v`);
        }),
      );
      answers.forEach((answer, n) => expectQueued(answer, n, number));
    })));

function expectQueued(answer, n, number) {
  if (n % 10 === 7) return assert.equal(answer.reason?.code, '22012', `query ${n}`);
  if (n % 10 === 8) return assert.equal(answer.reason?.code, '42601', `query ${n}`);
  const wanted = n % 3 === 0 ? `${number}-${n}-${n % 4}` : `${number}-${n}`;
  return assert.equal(answer.value?.rows[0].v, wanted, `query ${n}: ${answer.reason}`);
}

check('pipelined queries are answered in their order', () =>
  together((number) =>
    connected({ pipeline: true }, async (c) => {
      for (const round of range(4)) {
        const answers = await Promise.allSettled(
          range(100).map((n) => {
            if (n % 10 === 7) return c.query('select 1 / $1::int', [0]);
            if (n % 10 === 8) return c.query(`selekt ${n}`);
            if (n % 3 === 0) return c.query({ name: `q${n % 4}`, text: `select $1::text || ${n % 4} as v`, values: [`${number}-${n}-`] });
            return c.query(`select '${number}-${n}' as v`);
          }),
        );
        answers.forEach((answer, n) => expectQueued(answer, n, number));
        const [, first, second] = await Promise.all([
          c.query('begin'),
          c.query("select set_config('drv.own', $1, true) as v", [`r${round}`]),
          c.query("select current_setting('drv.own') as v"),
          c.query('commit'),
        ]);
        assert.deepEqual([first.rows[0].v, second.rows[0].v], [`r${round}`, `r${round}`], 'pipelined transaction');
      }
    })));

check('commit, rollback and savepoints', () =>
  connected({ count: 2 }, async (c, other) => {
    const count = () => value(other, `select count(*)::int from ${SCHEMA}.item where tag like 'tx%'`);
    const insert = `insert into ${SCHEMA}.item (tag, n) values ($1, $2)`;
    await c.query('begin');
    await c.query(insert, ['tx rolled back', null]);
    assert.equal(await count(), 0);
    await c.query('rollback');
    await c.query('begin');
    await c.query(insert, ['tx kept', 1]);
    await c.query('savepoint here');
    await c.query(insert, ['tx undone', null]);
    await fails(c.query(insert, ['tx twice', 1]), '23505');
    await fails(c.query('select 1'), '25P02');
    await c.query('rollback to savepoint here');
    await c.query(insert, ['tx kept too', null]);
    await c.query('commit');
    assert.equal(await count(), 2);
    assert.equal((await c.query('rollback')).command, 'ROLLBACK', 'ROLLBACK outside a transaction only warns');
  }));

check('settings follow their client and no other', async () => {
  await together((number) =>
    connected({ application_name: `app ${number}`, statement_timeout: 100000 + number }, async (c) => {
      await c.query(`set drv.own = 'value-${number}'; set datestyle to ${number % 2 ? 'german' : 'iso'}`);
      for (const n of range(ROUNDS)) {
        const text = `select current_setting('application_name') a, current_setting('drv.own') b,
          (extract(epoch from current_setting('statement_timeout')::interval) * 1000)::int c, date '2024-02-29'::text d`;
        assert.deepEqual(Object.values((await c.query(text)).rows[0]), [
          `app ${number}`, `value-${number}`, 100000 + number, number % 2 ? '29.02.2024' : '2024-02-29',
        ]);
        if (n % 5 === 0) {
          await c.query(`begin; set drv.own = 'undone'`);
          assert.equal(await show(c, 'drv.own'), 'undone');
          await c.query('rollback');
        }
      }
      await c.query('reset drv.own');
      assert.equal(await show(c, 'drv.own') || '', '');
    }));
  await connected({}, async (c) => {
    assert.equal((await show(c, 'drv.own')) || '', '', "a new client's custom setting");
    assert.equal(await show(c, 'statement_timeout'), '0', "a new client's statement_timeout");
  });
});

check('search_path decides what an equal text and name mean', async () => {
  await connected({}, (c) =>
    c.query(range(CLIENTS).map((n) => `create schema ${SCHEMA}_${n}; create table ${SCHEMA}_${n}.who as select ${n} as me`).join(';')));
  await together((number) =>
    connected(number % 2 ? { options: `-c search_path=${SCHEMA}_${number}` } : {}, async (c) => {
      if (number % 2 === 0) await c.query(`set search_path to ${SCHEMA}_${number}`);
      const query = { name: 'who', text: 'select me from who where me >= $1', values: [0] };
      for (const _ of range(ROUNDS)) assert.equal((await c.query(query)).rows[0].me, number);
    }));
  await connected({}, (c) => c.query(range(CLIENTS).map((n) => `drop schema ${SCHEMA}_${n} cascade`).join(';')));
});

check('statement_timeout stops only its own client', () =>
  connected({ count: 2 }, async (hasty, patient) => {
    await hasty.query("set statement_timeout = '50ms'");
    for (const _ of range(3)) {
      await fails(hasty.query('select pg_sleep(10)'), '57014');
      assert.equal(await value(patient, "select 'calm' from pg_sleep(0.15)"), 'calm');
    }
  }));

check('cancel stops its own query only', () =>
  connected({ count: 2 }, async (victim, bystander) => {
    for (const n of range(4)) {
      const calm = value(bystander, "select 'done' from pg_sleep(0.4)");
      const stopped = fails(victim.query('select pg_sleep(20)'), '57014');
      await sleep(100);
      await cancel(victim);
      await stopped;
      await cancel(victim); // Idle: stops nothing.
      assert.equal(await value(victim, 'select $1::int', [n]), n, 'after the cancel');
      assert.equal(await calm, 'done', "bystander's query");
    }
  }));

check('statements at SQL level', () =>
  together((number) =>
    connected({}, async (c) => {
      await c.query(`prepare mine (int) as select $1 + ${number * 1000} as v`);
      for (const n of range(ROUNDS)) assert.equal(await value(c, `execute mine(${n})`), n + number * 1000);
      await fails(c.query('prepare mine as select 1'), '42P05');
      await c.query('deallocate mine');
      await fails(c.query('execute mine(1)'), '26000');
    })));

check('COPY in and out', () =>
  together((number) =>
    connected({}, async (c) => {
      const table = `${SCHEMA}.copy_${number}`;
      await c.query(`create table ${table} (tag text, n int)`);
      const lines = range(3000).map((n) => `copy-${number}\t${n}\n`);
      await streamed(Readable.from(lines), c.query(copy.from(`copy ${table} from stdin`)));
      let text = '';
      const sink = new Writable({ write: (chunk, _, done) => { text += chunk; done(); } });
      await streamed(c.query(copy.to(`copy (select tag, n from ${table} order by n) to stdout`)), sink);
      assert.ok(text === lines.join(''), 'rows copied out');
      assert.equal(await value(c, `select count(*)::int from ${table}`), 3000);
    }), CLIENTS / 2));

check('COPY aborted by either side', () =>
  connected({}, async (c) => {
    const table = `${SCHEMA}.copy_abort`;
    await c.query(`create table ${table} (n int)`);
    for (const _ of range(3)) {
      async function* tired() {
        yield '1\n2\n';
        throw Object.assign(new Error('the client has had enough'), { code: 'tired' });
      }
      await fails(streamed(Readable.from(tired()), c.query(copy.from(`copy ${table} from stdin`))), 'tired');
      assert.equal(await value(c, `select count(*)::int from ${table}`), 0, 'rows after CopyFail');
      const bad = Readable.from(['1\n', 'not a number\n', ...range(1000).map((n) => `${n}\n`)]);
      await fails(streamed(bad, c.query(copy.from(`copy ${table} from stdin`))), '22P02');
      await fails(streamed(Readable.from(['1\n']), c.query(copy.from('copy no_such_table from stdin'))), '42P01');
      assert.equal(await value(c, `select count(*)::int from ${table}`), 0, 'rows after failures');
    }
  }));

check('LISTEN and NOTIFY', () =>
  connected({ count: 2 }, async (listener, sender) => {
    const channel = `${SCHEMA}_channel`;
    await listener.query(`listen ${channel}`);
    for (const n of range(5)) {
      const heard = once(listener, 'notification');
      await sender.query('select pg_notify($1, $2)', [channel, `hello ${n}`]);
      const [message] = await heard;
      assert.deepEqual([message.channel, message.payload], [channel, `hello ${n}`]);
      assert.equal(await value(listener, 'select $1::int', [n]), n);
    }
    await listener.query(`unlisten ${channel}`);
    listener.on('notification', () => assert.fail('a notification after UNLISTEN'));
    await sender.query(`notify ${channel}, 'nobody'`);
    await value(listener, 'select 1');
  }));

check('notices reach the client that caused them', () =>
  together((number) =>
    connected({}, async (c) => {
      const heard = [];
      c.on('notice', (notice) => heard.push(notice.message));
      for (const n of range(ROUNDS)) await c.query(`do $$ begin raise notice 'from ${number} ${n}'; end $$`);
      assert.deepEqual(heard, range(ROUNDS).map((n) => `from ${number} ${n}`));
    })));

check('advisory locks are held by the session', () =>
  connected({ count: 2 }, async (holder, rival) => {
    const key = [0x6e6f6465];
    await holder.query('select pg_advisory_lock($1)', key);
    for (const _ of range(3)) {
      assert.equal(await value(holder, 'select 1 as v'), 1);
      assert.equal(await value(rival, 'select pg_try_advisory_lock($1)', key), false);
    }
    assert.equal(await value(holder, 'select pg_advisory_unlock($1)', key), true);
    assert.equal(await value(rival, 'select pg_try_advisory_lock($1)', key), true);
    assert.equal(await value(rival, 'select pg_advisory_unlock($1)', key), true);
  }));

check('temporary tables belong to one client', () =>
  connected({ count: 2 }, async (a, b) => {
    await a.query("create temp table scratch as select 'a'::text as owner");
    await fails(b.query('select * from scratch'), '42P01');
    await b.query("create temp table scratch (owner text, extra int); insert into scratch values ('b', 1)");
    for (const _ of range(5)) {
      assert.deepEqual((await a.query('select * from scratch')).rows, [{ owner: 'a' }]);
      assert.deepEqual((await b.query('select * from scratch')).rows, [{ owner: 'b', extra: 1 }]);
    }
  }));

check('cursors with and without hold', async () => {
  await connected({ count: 2 }, async (c, other) => {
    await c.query('declare held cursor with hold for select g from generate_series(1, 100) g');
    for (const n of range(5)) {
      assert.equal(await value(c, 'fetch held'), n + 1);
      await fails(other.query('fetch held'), '34000');
    }
    await c.query('close held');
  });
  await together((number) =>
    connected({}, async (c) => {
      // Portals read in pieces, with Flush in place of Sync: the server may not be given away in between.
      const cursor = c.query(new Cursor('select $1::int * 1000 + g as v from generate_series(1, 100) g', [number]));
      const found = [];
      for (let rows = await cursor.read(7); rows.length > 0; rows = await cursor.read(7)) found.push(...rows);
      assert.deepEqual(found.map((row) => row.v), range(100).map((g) => number * 1000 + g + 1));
      const abandoned = c.query(new Cursor('select g as v from generate_series(1, 1000) g'));
      assert.equal((await abandoned.read(1))[0].v, 1);
      await abandoned.close();
      assert.equal(await value(c, 'select $1::text', [`${number}`]), `${number}`, 'after a portal closed early');
    }));
});

check('a table that changes under a prepared statement', () =>
  connected({ count: 4 }, async (...clients) => {
    const table = `${SCHEMA}.shape`;
    await clients[0].query(`create table ${table} (a int); insert into ${table} values (1)`);
    for (const n of range(3)) {
      const text = `select t.* from ${table} t, pg_sleep(0.02) where a = $1`;
      // The name changes with each round, as an application would have it: the text does not.
      const query = () => ({ name: `shape ${n}`, text, values: [1], rowMode: 'array' });
      const wide = [1, ...range(n).map(() => null)];
      for (const found of await Promise.all(clients.map((c) => c.query(query())))) assert.deepEqual(found.rows, [wide]);
      await clients[0].query(`alter table ${table} add column c${n} int`);
      for (const client of clients) {
        // 0A000 from PostgreSQL, or a row of the new shape; never one of the old.
        const found = await client.query(query()).catch((error) => error);
        if (found instanceof Error) assert.equal(found.code, '0A000');
        else assert.deepEqual(found.rows, [[...wide, null]]);
      }
    }
  }));

check('values of eight megabytes', () =>
  together((number) =>
    connected({}, async (c) => {
      const text = `${number}:é`.repeat(2 ** 21);
      const bytes = Buffer.alloc(8 * 2 ** 20, number);
      assert.ok((await value(c, 'select $1::text', [text])) === text, '8 MB of text');
      assert.ok(bytes.equals(await value(c, 'select $1::bytea', [bytes])), '8 MB of bytes');
      assert.ok((await value(c, `select '${text}' as v`)) === text, '8 MB of query');
    }), 5));

check('many parameters', () =>
  connected({}, async (c) => {
    const marks = range(65535).map((n) => `$${n + 1}::int`).join(',');
    assert.equal(await value(c, `select sum(v)::int from unnest(array[${marks}]) v`, range(65535)), 2147385345);
  }));

check('NULLs, types and unicode, in text and binary', () =>
  connected({}, async (c) => {
    const values = [null, true, -2147483648, 1.5, '', 'naïve \u{1F418} \u202e\u0301', Buffer.from([0, 255])];
    const casts = ['text', 'bool', 'int4', 'float8', 'text', 'text', 'bytea'];
    const text = `select ${casts.map((cast, n) => `$${n + 1}::${cast} as c${n}`)}`;
    assert.deepEqual((await c.query({ text, values, rowMode: 'array' })).rows, [values]);
    // node-postgres passes binary results through UTF-8, so only what survives that can be asked for.
    const binary = { text: 'select true as b, 7::int4 as i, $1::text as t', values: ['é'], binary: true };
    assert.deepEqual((await c.query(binary)).rows, [{ b: true, i: 7, t: 'é' }]);
  }));

check('several statements in one query, and none', () =>
  connected({}, async (c) => {
    const found = await c.query("select 1 as v; select 2 as v, 'two' as w; begin; select 3 as v; commit");
    assert.deepEqual(found.map((result) => result.rows), [[{ v: 1 }], [{ v: 2, w: 'two' }], [], [{ v: 3 }], []]);
    await fails(c.query(`insert into ${SCHEMA}.item (tag) values ('multi'); select 1/0`), '22012');
    assert.equal(await value(c, `select count(*)::int from ${SCHEMA}.item where tag = 'multi'`), 0);
    assert.deepEqual((await c.query('')).rows, []);
    assert.deepEqual((await c.query({ text: '', values: [] })).rows, []);
  }));

check("the driver's own pool", async () => {
  const pool = new pg.Pool({ connectionString: URL_OF_DATABASE, max: 6 });
  await together(async (number) => {
    for (const n of range(ROUNDS)) {
      assert.equal((await pool.query('select $1::text as v', [`${number}-${n}`])).rows[0].v, `${number}-${n}`);
    }
  });
  await pool.end();
});

check('a client that leaves in a transaction', async () => {
  for (const _ of range(6)) {
    await connected({}, async (gone) => {
      await gone.query(`begin; insert into ${SCHEMA}.item (tag) values ('abandoned'); set drv.own = 'left'`);
      gone.on('error', () => {});
      gone.connection.stream.destroy();
    });
  }
  await connected({}, async (c) => {
    assert.equal((await show(c, 'drv.own')) || '', '');
    await c.query('begin');
    await c.query(`lock table ${SCHEMA}.item in access exclusive mode`);
    assert.equal(await value(c, `select count(*)::int from ${SCHEMA}.item where tag = 'abandoned'`), 0);
    await c.query('commit');
  });
});

check('clean up', () => connected({}, (c) => c.query(`drop schema ${SCHEMA} cascade`)));

async function main() {
  let running = 'start-up';
  let failed = 0;
  setTimeout(() => {
    console.error(`FAILED node-postgres: ${running} hangs (watchdog, ${WATCHDOG_SECONDS} s)`);
    process.exit(1);
  }, WATCHDOG_SECONDS * 1000).unref();
  for (const { name, run } of checks) {
    if (process.env.ONLY && process.env.ONLY !== name) continue;
    running = name;
    const started = Date.now();
    try {
      await run();
    } catch (error) {
      console.error(error);
      console.error(`FAILED node-postgres: ${name}`);
      failed += 1;
      if (!process.env.KEEP_GOING) process.exit(1);
      continue;
    }
    console.log(`ok node-postgres: ${name} (${Date.now() - started} ms)`);
  }
  if (failed > 0) process.exit(1);
  console.log(`node-postgres: ${checks.length} checks passed`);
  process.exitCode = 0;
}

// An event loop that runs dry in the middle of a check would end the process with success.
process.exitCode = 1;
main();
