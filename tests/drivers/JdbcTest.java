// PostgreSQL's JDBC driver against PostgreSQL or a pooler in front of it: what an application may expect.
//
// prepareThreshold=1 makes the driver name its statements (S_1, S_2 ... on every connection) at their first use and
// ask for binary results at once. Checks whose state holds a server use at most two connections at a time.
//
// Usage: java -cp /usr/share/java/postgresql.jar JdbcTest.java postgres://user:password@host:port/database
// While hunting, ONLY=name runs one check and KEEP_GOING=1 all of them, whatever fails.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.CallableStatement;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.Random;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.copy.CopyOut;

public final class JdbcTest {
    static final String SCHEMA = "drv_jdbc";
    static final int CLIENTS = 12; // Must exceed the pool that the tests run through.
    static final int ROUNDS = 40;
    static final int WATCHDOG_SECONDS = 150;

    static String url;
    static final Properties login = new Properties();
    static volatile String running = "start-up";
    static int failed;

    interface Check { void run() throws Exception; }

    interface Client { void run(int number) throws Exception; }

    // ---- the checks ----------------------------------------------------------------------------------------

    static void setUp() throws Exception {
        try (Connection c = connect()) {
            run(c, "drop schema if exists " + SCHEMA + " cascade");
            run(c, "create schema " + SCHEMA);
            run(c, "create table " + SCHEMA + ".item (id serial primary key, tag text not null, n int unique)");
        }
    }

    static void everyRowCarriesTheTagOfTheClientThatAsked() throws Exception {
        inThreads(CLIENTS, number -> {
            String tag = "jdbc-" + number;
            Random dice = new Random(number);
            try (Connection c = connect()) {
                PreparedStatement rows = c.prepareStatement("select ?::text, g from generate_series(1, ?) g");
                for (int round = 0; round < ROUNDS; round++) {
                    int count = 1 + dice.nextInt(200);
                    rows.setString(1, tag);
                    rows.setInt(2, count);
                    ResultSet found = rows.executeQuery();
                    for (int g = 1; g <= count; g++) {
                        same(found.next(), true, "rows");
                        same(found.getString(1), tag, "tag");
                        same(found.getInt(2), g, "row number");
                    }
                    same(found.next(), false, "rows beyond the last");
                    if (round % 4 == 0) {
                        c.setAutoCommit(false);
                        Object pid = one(c, "select pg_backend_pid()");
                        same(one(c, "select ?::text", tag), tag, "tag within the transaction");
                        same(one(c, "select pg_backend_pid()"), pid, "server within the transaction");
                        if (round % 8 == 0) c.commit(); else c.rollback();
                        c.setAutoCommit(true);
                    }
                    if (round % 5 == 0) fails("22012", () -> one(c, "select 1 / ?::int", 0));
                }
            }
        });
    }

    static void equalStatementNamesOfDifferentClientsStayApart() throws Exception {
        inThreads(CLIENTS, number -> {
            try (Connection c = connect()) {
                PreparedStatement mine = c.prepareStatement("select ?::int * 1000 + " + number); // S_1 everywhere.
                for (int n = 0; n < ROUNDS; n++) {
                    mine.setInt(1, n);
                    same(one(mine), n * 1000 + number, "own statement");
                }
                mine.setNull(1, Types.INTEGER); // Other parameter types: another server statement of the same text.
                same(one(mine), null, "NULL parameter");
                mine.setObject(1, "7", Types.OTHER);
                same(one(mine), 7000 + number, "untyped parameter");
            }
        });
    }

    static void everyQueryMode() throws Exception {
        for (String mode : List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything")) {
            inThreads(CLIENTS, number -> {
                try (Connection c = connect("preferQueryMode", mode, "preparedStatementCacheQueries", "3",
                        "ApplicationName", "mode " + number)) {
                    for (int n = 0; n < ROUNDS; n++) {
                        int k = n % 7; // More than the driver keeps: it closes those it evicts.
                        same(one(c, "select ?::int + " + (number * 100 + k), 1), number * 100 + k + 1, mode);
                        same(one(c, "show application_name"), "mode " + number, "application_name");
                    }
                    fails("42601", () -> run(c, "selekt 1"));
                    same(one(c, "select 'alive'"), "alive", "after an error");
                }
            });
        }
    }

    static void commitRollbackAndSavepoints() throws Exception {
        try (Connection c = connect(); Connection other = connect()) {
            String insert = "insert into " + SCHEMA + ".item (tag, n) values (?, ?)";
            Counting count = () -> one(other, "select count(*)::int from " + SCHEMA + ".item where tag like 'tx%'");
            c.setAutoCommit(false);
            update(c, insert, "tx rolled back", null);
            same(count.now(), 0, "uncommitted row");
            c.rollback();
            update(c, insert, "tx kept", 1);
            Savepoint here = c.setSavepoint("here");
            update(c, insert, "tx undone", null);
            fails("23505", () -> update(c, insert, "tx twice", 1));
            fails("25P02", () -> one(c, "select 1"));
            c.rollback(here);
            update(c, insert, "tx kept too", null);
            c.commit();
            same(count.now(), 2, "committed rows");
            c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            c.setReadOnly(true);
            same(one(c, "show transaction_isolation"), "serializable", "isolation");
            fails("25006", () -> update(c, insert, "ro", null));
            c.rollback();
            same(one(other, "show transaction_isolation"), "read committed", "another client's isolation");
            same(update(other, insert, "rw", null), 1, "another client writes");
        }
    }

    interface Counting { Object now() throws Exception; }

    static void autosaveHealsAFailedStatement() throws Exception {
        try (Connection c = connect("autosave", "always")) { // A savepoint before each statement, in one batch.
            c.setAutoCommit(false);
            for (int n = 0; n < 10; n++) {
                same(one(c, "select ?::int", n), n, "row");
                fails("22012", () -> one(c, "select 1 / ?::int", 0));
                same(one(c, "select ?::int + 1", n), n + 1, "row after the error");
            }
            c.commit();
        }
    }

    static void settingsFollowTheirClientAndNoOther() throws Exception {
        inThreads(CLIENTS, number -> {
            try (Connection c = connect("ApplicationName", "app " + number,
                    "options", "-c statement_timeout=" + (100_000 + number))) {
                run(c, "set drv.own = 'value-" + number + "'");
                for (int n = 0; n < ROUNDS; n++) {
                    same(one(c, "select current_setting('application_name') || '|' || current_setting('drv.own')"
                            + " || '|' || extract(epoch from current_setting('statement_timeout')::interval) * 1000 = ?",
                            "app " + number + "|value-" + number + "|" + (100_000 + number) + ".000000"),
                            true, "settings");
                    if (n % 5 == 0) {
                        c.setAutoCommit(false);
                        run(c, "set drv.own = 'undone'");
                        same(one(c, "show drv.own"), "undone", "set in the transaction");
                        c.rollback();
                        c.setAutoCommit(true);
                    }
                }
                c.setClientInfo("ApplicationName", "renamed " + number);
                same(one(c, "show application_name"), "renamed " + number, "setClientInfo");
                same(c.unwrap(PGConnection.class).getParameterStatus("application_name"), "renamed " + number,
                        "ParameterStatus");
            }
        });
        try (Connection c = connect()) {
            same(one(c, "select coalesce(current_setting('drv.own', true), '')"), "", "a new client's setting");
            same(one(c, "show statement_timeout"), "0", "a new client's statement_timeout");
        }
    }

    static void searchPathDecidesWhatAnEqualTextMeans() throws Exception {
        try (Connection c = connect()) {
            for (int n = 0; n < CLIENTS; n++) {
                run(c, "create schema " + SCHEMA + "_" + n);
                run(c, "create table " + SCHEMA + "_" + n + ".who as select " + n + " as me");
            }
        }
        inThreads(CLIENTS, number -> {
            try (Connection c = number % 2 == 0 ? connect() : connect("currentSchema", SCHEMA + "_" + number)) {
                if (number % 2 == 0) c.setSchema(SCHEMA + "_" + number);
                PreparedStatement who = c.prepareStatement("select me from who where me >= ?");
                who.setInt(1, 0);
                for (int n = 0; n < ROUNDS; n++) same(one(who), number, "table by search_path");
            }
        });
        try (Connection c = connect()) {
            for (int n = 0; n < CLIENTS; n++) run(c, "drop schema " + SCHEMA + "_" + n + " cascade");
        }
    }

    static void batches() throws Exception {
        for (String rewrite : List.of("false", "true")) {
            inThreads(CLIENTS, number -> {
                try (Connection c = connect("reWriteBatchedInserts", rewrite)) {
                    String tag = "batch-" + rewrite + "-" + number;
                    PreparedStatement insert = c.prepareStatement("insert into " + SCHEMA + ".item (tag) values (?)");
                    for (int n = 0; n < 300; n++) {
                        insert.setString(1, tag);
                        insert.addBatch();
                    }
                    same(insert.executeBatch().length, 300, "results of the batch");
                    insert.setString(1, tag + " bad");
                    insert.addBatch();
                    insert.setString(1, null);
                    insert.addBatch();
                    insert.setString(1, tag + " behind");
                    insert.addBatch();
                    try {
                        insert.executeBatch();
                        throw new AssertionError("a NULL was accepted in the batch");
                    } catch (BatchUpdateException error) {
                        same(error.getSQLState(), "23502", "SQLSTATE of the batch");
                    }
                    String count = "select count(*)::int from " + SCHEMA + ".item where split_part(tag, ' ', 1) = ?";
                    same(one(c, count, tag), 300, "rows after the failed batch");
                    Statement mixed = c.createStatement();
                    mixed.addBatch("update " + SCHEMA + ".item set n = null where tag = '" + tag + "'");
                    mixed.addBatch("delete from " + SCHEMA + ".item where tag = '" + tag + "'");
                    same(Arrays.toString(mixed.executeBatch()), "[300, 300]", "mixed batch");
                }
            });
        }
    }

    static void generatedKeysAndCallables() throws Exception {
        try (Connection c = connect()) {
            PreparedStatement insert = c.prepareStatement(
                    "insert into " + SCHEMA + ".item (tag) values (?)", Statement.RETURN_GENERATED_KEYS);
            insert.setString(1, "keyed");
            same(insert.executeUpdate(), 1, "rows");
            ResultSet keys = insert.getGeneratedKeys();
            same(keys.next() && keys.getInt("id") > 0, true, "generated key");
            CallableStatement call = c.prepareCall("{? = call upper(?)}");
            call.registerOutParameter(1, Types.VARCHAR);
            call.setString(2, "e");
            call.execute();
            same(call.getString(1), "E", "function called");
        }
    }

    static void copyInAndOut() throws Exception {
        inThreads(CLIENTS / 2, number -> {
            try (Connection c = connect()) {
                String table = SCHEMA + ".copy_" + number;
                run(c, "create table " + table + " (tag text, n int)");
                StringBuilder lines = new StringBuilder();
                for (int n = 0; n < 4000; n++) lines.append("copy-" + number + "\t" + n + "\n");
                byte[] bytes = lines.toString().getBytes(StandardCharsets.UTF_8);
                CopyManager copy = c.unwrap(PGConnection.class).getCopyAPI();
                same(copy.copyIn("copy " + table + " from stdin", new ByteArrayInputStream(bytes)), 4000L, "rows in");
                ByteArrayOutputStream out = new ByteArrayOutputStream();
                copy.copyOut("copy (select tag, n from " + table + " order by n) to stdout", out);
                same(Arrays.equals(out.toByteArray(), bytes), true, "rows copied out");
                same(one(c, "select count(*)::int from " + table), 4000, "rows counted");
            }
        });
    }

    static void copyAbortedByEitherSide() throws Exception {
        try (Connection c = connect()) {
            String table = SCHEMA + ".copy_abort";
            run(c, "create table " + table + " (n int)");
            CopyManager copy = c.unwrap(PGConnection.class).getCopyAPI();
            for (int round = 0; round < 3; round++) {
                InputStream tired = new InputStream() {
                    int left = 20;

                    @Override public int read() {
                        throw new AssertionError("the driver reads pieces");
                    }

                    @Override public int read(byte[] piece, int at, int length) throws IOException {
                        if (left-- == 0) throw new IOException("the client has had enough");
                        for (int n = 0; n < length; n++) piece[at + n] = (byte) (n % 2 == 0 ? '1' : '\n');
                        return length;
                    }
                };
                try {
                    copy.copyIn("copy " + table + " from stdin", tired);
                    throw new AssertionError("the copy was not aborted");
                } catch (IOException expected) {
                    same(expected.getMessage(), "the client has had enough", "error");
                }
                same(one(c, "select count(*)::int from " + table), 0, "rows after CopyFail");
                byte[] bad = ("1\nnot a number\n" + "2\n".repeat(200_000)).getBytes(StandardCharsets.UTF_8);
                fails("22P02", () -> copy.copyIn("copy " + table + " from stdin", new ByteArrayInputStream(bad)));
                same(one(c, "select count(*)::int from " + table), 0, "rows after bad data");
                CopyOut out = copy.copyOut("copy (select repeat('x', 1000) from generate_series(1, 200000)) to stdout");
                for (int n = 0; n < 10; n++) same(out.readFromCopy().length, 1001, "line");
                c.unwrap(PGConnection.class).cancelQuery();
                fails("57014", () -> {
                    while (out.readFromCopy() != null) continue; // What was under way before the cancel.
                });
                same(one(c, "select ?::text", "alive"), "alive", "after an abandoned COPY TO");
            }
        }
    }

    static void cancelStopsItsOwnQueryOnly() throws Exception {
        try (Connection victim = connect(); Connection bystander = connect()) {
            ExecutorService threads = Executors.newCachedThreadPool();
            for (int n = 0; n < 3; n++) {
                Future<Object> calm = threads.submit(() -> one(bystander, "select 'done' from pg_sleep(0.4)"));
                Statement slow = victim.createStatement();
                Future<?> stopper = threads.submit(() -> {
                    Thread.sleep(100);
                    slow.cancel();
                    return null;
                });
                fails("57014", () -> slow.execute("select pg_sleep(20)"));
                stopper.get();
                same(one(victim, "select ?::int", n), n, "after the cancel");
                Statement hasty = victim.createStatement();
                hasty.setQueryTimeout(1); // The driver's own timer sends a cancel.
                fails("57014", () -> hasty.execute("select pg_sleep(20)"));
                same(one(victim, "select ?::int", n), n, "after the timeout");
                same(calm.get(), "done", "bystander's query");
            }
            threads.shutdown();
        }
    }

    static void cancelsNeverHitTheNextQueryOfAnotherClient() throws Exception {
        AtomicBoolean stop = new AtomicBoolean();
        inThreads(8, number -> {
            try (Connection c = connect()) {
                if (number > 0) {
                    for (int n = 0; !stop.get(); n++) same(one(c, "select ?::int", n), n, "worker's row");
                    return;
                }
                for (int n = 0; n < 60; n++) {
                    PreparedStatement mine = c.prepareStatement("select ?::int from pg_sleep(0.001)");
                    mine.setInt(1, n);
                    try {
                        same(one(mine), n, "canceller's own row");
                    } catch (SQLException error) {
                        same(error.getSQLState(), "57014", "canceller's error");
                    }
                    c.unwrap(PGConnection.class).cancelQuery();
                }
            } finally {
                if (number == 0) stop.set(true);
            }
        });
    }

    static void statementsAtSqlLevel() throws Exception {
        inThreads(CLIENTS, number -> {
            try (Connection c = connect()) {
                run(c, "prepare mine (int) as select $1 + " + number * 1000);
                for (int n = 0; n < ROUNDS; n++) same(one(c, "execute mine(" + n + ")"), n + number * 1000, "EXECUTE");
                fails("42P05", () -> run(c, "prepare mine as select 1"));
                run(c, "deallocate mine");
                fails("26000", () -> run(c, "execute mine(1)"));
            }
        });
    }

    static void discardAllAndDeallocateAll() throws Exception {
        try (Connection c = connect(); Connection other = connect()) {
            for (String command : List.of("deallocate all", "discard all")) {
                same(one(c, "select ?::int", 5), 5, "before");
                same(one(other, "select ?::int", 5), 5, "another client before");
                run(c, command); // The driver sees the command tag and forgets its statements.
                same(one(c, "select ?::int", 6), 6, "after");
                same(one(other, "select ?::int", 6), 6, "another client after");
            }
        }
    }

    static void listenAndNotify() throws Exception {
        try (Connection listener = connect(); Connection sender = connect()) {
            run(listener, "listen " + SCHEMA + "_channel");
            PGConnection ears = listener.unwrap(PGConnection.class);
            for (int n = 0; n < 5; n++) {
                one(sender, "select pg_notify(?, ?)::text", SCHEMA + "_channel", "hello " + n);
                PGNotification[] heard = ears.getNotifications(20_000);
                same(heard == null ? 0 : heard.length, 1, "notifications");
                same(heard[0].getName() + ": " + heard[0].getParameter(), SCHEMA + "_channel: hello " + n, "heard");
                same(one(listener, "select ?::int", n), n, "a query between notifications");
            }
            run(listener, "unlisten *");
            run(sender, "notify " + SCHEMA + "_channel, 'nobody'");
            one(listener, "select 1");
            PGNotification[] heard = ears.getNotifications();
            same(heard == null ? 0 : heard.length, 0, "notifications after UNLISTEN");
        }
    }

    static void advisoryLocksAreHeldByTheSession() throws Exception {
        long key = 0x6a646263;
        try (Connection holder = connect(); Connection rival = connect()) {
            one(holder, "select pg_advisory_lock(?)::text", key);
            for (int n = 0; n < 3; n++) {
                same(one(holder, "select 1"), 1, "a transaction while the lock is held");
                same(one(rival, "select pg_try_advisory_lock(?)", key), false, "rival's try");
            }
            same(one(holder, "select pg_advisory_unlock(?)", key), true, "unlock");
            same(one(rival, "select pg_try_advisory_lock(?)", key), true, "rival's try after the unlock");
            same(one(rival, "select pg_advisory_unlock(?)", key), true, "unlock by the rival");
        }
    }

    static void temporaryTablesBelongToOneClient() throws Exception {
        try (Connection a = connect(); Connection b = connect()) {
            run(a, "create temp table scratch as select 'a'::text as owner");
            fails("42P01", () -> one(b, "select owner from scratch"));
            run(b, "create temp table scratch (extra int, owner text)");
            run(b, "insert into scratch values (1, 'b')");
            for (int n = 0; n < 5; n++) {
                same(one(a, "select owner from scratch"), "a", "a's table");
                same(one(b, "select owner from scratch"), "b", "b's table");
            }
        }
    }

    static void cursorsWithAndWithoutHold() throws Exception {
        try (Connection c = connect(); Connection other = connect()) {
            run(c, "declare held cursor with hold for select g from generate_series(1, 100) g");
            for (int n = 1; n < 6; n++) {
                same(one(c, "fetch held"), n, "held cursor between transactions");
                fails("34000", () -> one(other, "fetch held"));
            }
            run(c, "close held");
        }
        inThreads(CLIENTS, number -> {
            try (Connection c = connect()) {
                c.setAutoCommit(false);
                PreparedStatement walk = c.prepareStatement("select ? * 1000 + g from generate_series(1, 100) g");
                walk.setFetchSize(7); // A named portal, read in pieces by Execute with a limit.
                for (int round = 0; round < 3; round++) {
                    walk.setInt(1, number);
                    ResultSet found = walk.executeQuery();
                    for (int g = 1; g <= 100; g++) {
                        same(found.next(), true, "rows");
                        same(found.getInt(1), number * 1000 + g, "row of a portal");
                        if (g % 30 == 0) same(one(c, "select ?::int", g), g, "another query while it is open");
                    }
                }
                c.commit();
            }
        });
    }

    static void aTableThatChangesUnderAPreparedStatement() throws Exception {
        String table = SCHEMA + ".shape";
        Connection[] clients = {connect(), connect(), connect(), connect()};
        run(clients[0], "create table " + table + " (a int)");
        run(clients[0], "insert into " + table + " values (1)");
        // Slow enough that the clients meet on different servers.
        String query = "select t.* from " + table + " t, pg_sleep(0.02) where a = ?";
        PreparedStatement[] statements = new PreparedStatement[clients.length];
        for (int n = 0; n < clients.length; n++) statements[n] = clients[n].prepareStatement(query);
        for (int n = 0; n < 3; n++) {
            int width = n + 1;
            for (int repeat = 0; repeat < 2; repeat++) inThreads(4, k -> same(width(statements[k]), width, "columns"));
            run(clients[0], "alter table " + table + " add column c" + n + " int");
            // PostgreSQL answers 0A000 where the statement was prepared, upon which the driver prepares anew, once.
            for (int repeat = 0; repeat < 2; repeat++) {
                inThreads(4, k -> same(width(statements[k]), width + 1, "columns after ALTER TABLE"));
            }
        }
        for (Connection c : clients) c.close();
    }

    static int width(PreparedStatement statement) throws SQLException {
        statement.setInt(1, 1);
        try (ResultSet found = statement.executeQuery()) {
            same(found.next(), true, "the row");
            int width = found.getMetaData().getColumnCount();
            for (int n = 1; n <= width; n++) same(found.getObject(n), n == 1 ? 1 : null, "column " + n);
            return width;
        }
    }

    static void valuesOfEightMegabytes() throws Exception {
        inThreads(5, number -> {
            try (Connection c = connect()) {
                String text = (number + ":é").repeat(1 << 21);
                byte[] bytes = new byte[8 << 20];
                Arrays.fill(bytes, (byte) number);
                same(text.equals(one(c, "select ?::text", text)), true, "8 MB of text");
                same(Arrays.equals(bytes, (byte[]) one(c, "select ?::bytea", bytes)), true, "8 MB of bytes");
                same(text.equals(one(c, "select '" + text + "'")), true, "8 MB of query");
            }
        });
    }

    static void manyParameters() throws Exception {
        try (Connection c = connect()) {
            int count = 32767; // The driver's own limit.
            String marks = "?,".repeat(count - 1) + "?";
            PreparedStatement sum = c.prepareStatement("select sum(v)::int from unnest(array[" + marks + "]) v");
            for (int round = 0; round < 2; round++) {
                for (int n = 0; n < count; n++) sum.setInt(n + 1, n);
                same(one(sum), 536821761, "sum of the parameters");
            }
        }
    }

    static void nullsTypesAndUnicode() throws Exception {
        Map<String, Object> values = new LinkedHashMap<>();
        values.put("text", "na\u00efve \ud83d\udc18 \u202e\u0301");
        values.put("bool", true);
        values.put("int4", Integer.MIN_VALUE);
        values.put("int8", 1L << 62);
        values.put("float8", 1.5);
        values.put("numeric", new java.math.BigDecimal("1234567890.000000001"));
        values.put("uuid", new java.util.UUID(0, 7));
        values.put("varchar", "");
        try (Connection text = connect("binaryTransfer", "false"); Connection binary = connect("prepareThreshold", "-1")) {
            for (Connection c : List.of(text, binary)) {
                for (Map.Entry<String, Object> each : values.entrySet()) {
                    same(one(c, "select ?::" + each.getKey(), each.getValue()), each.getValue(), each.getKey());
                    same(one(c, "select ?::" + each.getKey(), (Object) null), null, "NULL " + each.getKey());
                }
                Array array = c.createArrayOf("int4", new Integer[] {1, null, 3});
                Object found = ((Array) one(c, "select ?::int4[]", array)).getArray();
                same(Arrays.asList((Integer[]) found), Arrays.asList(1, null, 3), "array");
            }
        }
    }

    static void severalStatementsInOne() throws Exception {
        try (Connection c = connect()) {
            Statement several = c.createStatement();
            List<Integer> found = new ArrayList<>();
            boolean rows = several.execute("select 1; select 2; create temp table t1 (n int); drop table t1; select 3");
            while (rows || several.getUpdateCount() != -1) {
                if (rows) {
                    ResultSet set = several.getResultSet();
                    set.next();
                    found.add(set.getInt(1));
                }
                rows = several.getMoreResults();
            }
            same(found, List.of(1, 2, 3), "results");
            fails("22012", () -> run(c, "insert into " + SCHEMA + ".item (tag) values ('multi'); select 1/0"));
            same(one(c, "select count(*)::int from " + SCHEMA + ".item where tag = 'multi'"), 0, "undone implicitly");
        }
    }

    static void aClientThatLeavesInATransaction() throws Exception {
        for (int n = 0; n < 6; n++) {
            Connection gone = connect();
            gone.setAutoCommit(false);
            run(gone, "insert into " + SCHEMA + ".item (tag) values ('abandoned')");
            run(gone, "set drv.own = 'left'");
            gone.abort(Runnable::run);
        }
        try (Connection c = connect()) {
            same(one(c, "select coalesce(current_setting('drv.own', true), '')"), "", "setting of one that has gone");
            c.setAutoCommit(false);
            run(c, "lock table " + SCHEMA + ".item in access exclusive mode");
            same(one(c, "select count(*)::int from " + SCHEMA + ".item where tag = 'abandoned'"), 0, "abandoned rows");
            c.commit();
        }
    }

    static void cleanUp() throws Exception {
        try (Connection c = connect()) {
            run(c, "drop schema " + SCHEMA + " cascade");
        }
    }

    // ---- what the checks are written in --------------------------------------------------------------------

    static Connection connect(String... settings) throws SQLException {
        Properties all = new Properties();
        all.putAll(login);
        all.setProperty("prepareThreshold", "1");
        for (int n = 0; n < settings.length; n += 2) all.setProperty(settings[n], settings[n + 1]);
        return DriverManager.getConnection(url, all);
    }

    static void run(Connection c, String sql) throws SQLException {
        try (Statement statement = c.createStatement()) {
            statement.execute(sql);
        }
    }

    static int update(Connection c, String sql, Object... parameters) throws SQLException {
        try (PreparedStatement statement = c.prepareStatement(sql)) {
            for (int n = 0; n < parameters.length; n++) statement.setObject(n + 1, parameters[n]);
            return statement.executeUpdate();
        }
    }

    /** The only value of the only row. */
    static Object one(Connection c, String sql, Object... parameters) throws SQLException {
        try (PreparedStatement statement = c.prepareStatement(sql)) {
            for (int n = 0; n < parameters.length; n++) statement.setObject(n + 1, parameters[n]);
            return one(statement);
        }
    }

    static Object one(PreparedStatement statement) throws SQLException {
        try (ResultSet found = statement.executeQuery()) {
            same(found.next(), true, "a row");
            Object value = found.getObject(1);
            same(found.next(), false, "a second row");
            return value;
        }
    }

    static void same(Object found, Object wanted, String what) {
        if (!Objects.equals(found, wanted)) throw new AssertionError(what + ": got " + found + ", wanted " + wanted);
    }

    static void fails(String sqlState, Check act) throws Exception {
        try {
            act.run();
        } catch (SQLException error) {
            if (!sqlState.equals(error.getSQLState())) throw error;
            return;
        }
        throw new AssertionError("it was expected to fail with " + sqlState);
    }

    static void inThreads(int count, Client client) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(count);
        List<Future<?>> all = new ArrayList<>();
        for (int n = 0; n < count; n++) {
            int number = n;
            all.add(threads.submit(() -> {
                client.run(number);
                return null;
            }));
        }
        threads.shutdown();
        for (Future<?> each : all) each.get();
    }

    static void check(Map<String, Check> checks) {
        String only = System.getenv("ONLY");
        checks.forEach((name, check) -> {
            if (only != null && !only.equals(name)) return;
            running = name;
            long started = System.nanoTime();
            try {
                check.run();
            } catch (Throwable error) {
                error.printStackTrace();
                System.err.println("FAILED jdbc: " + name);
                failed++;
                if (System.getenv("KEEP_GOING") == null) System.exit(1);
                return;
            }
            System.out.println("ok jdbc: " + name + " (" + (System.nanoTime() - started) / 1_000_000 + " ms)");
        });
    }

    static void watch() {
        Thread watchdog = new Thread(() -> {
            try {
                Thread.sleep(WATCHDOG_SECONDS * 1000L);
            } catch (InterruptedException never) {
                return;
            }
            Thread.getAllStackTraces().forEach((thread, frames) -> {
                System.err.println(thread);
                for (StackTraceElement frame : frames) System.err.println("    at " + frame);
            });
            System.err.println("FAILED jdbc: " + running + " hangs (watchdog, " + WATCHDOG_SECONDS + " s)");
            Runtime.getRuntime().halt(1);
        });
        watchdog.setDaemon(true);
        watchdog.start();
    }

    public static void main(String[] arguments) throws Exception {
        String given = arguments.length > 0 ? arguments[0] : System.getenv("DATABASE_URL");
        if (given == null) {
            System.err.println("usage: JdbcTest.java postgres://user:password@host:port/database");
            System.exit(1);
        }
        URI uri = URI.create(given);
        url = "jdbc:postgresql://" + uri.getHost() + ":" + uri.getPort() + uri.getPath();
        String[] user = uri.getUserInfo().split(":", 2);
        login.setProperty("user", user[0]);
        if (user.length > 1) login.setProperty("password", user[1]);

        watch();
        Map<String, Check> checks = new LinkedHashMap<>();
        checks.put("set up", JdbcTest::setUp);
        checks.put("every row carries the tag of the client that asked", JdbcTest::everyRowCarriesTheTagOfTheClientThatAsked);
        checks.put("equal statement names of different clients stay apart", JdbcTest::equalStatementNamesOfDifferentClientsStayApart);
        checks.put("every query mode", JdbcTest::everyQueryMode);
        checks.put("commit, rollback and savepoints", JdbcTest::commitRollbackAndSavepoints);
        checks.put("autosave heals a failed statement", JdbcTest::autosaveHealsAFailedStatement);
        checks.put("settings follow their client and no other", JdbcTest::settingsFollowTheirClientAndNoOther);
        checks.put("search_path decides what an equal text means", JdbcTest::searchPathDecidesWhatAnEqualTextMeans);
        checks.put("batches", JdbcTest::batches);
        checks.put("generated keys and callables", JdbcTest::generatedKeysAndCallables);
        checks.put("COPY in and out", JdbcTest::copyInAndOut);
        checks.put("COPY aborted by either side", JdbcTest::copyAbortedByEitherSide);
        checks.put("cancel stops its own query only", JdbcTest::cancelStopsItsOwnQueryOnly);
        checks.put("cancels never hit the next query of another client", JdbcTest::cancelsNeverHitTheNextQueryOfAnotherClient);
        checks.put("statements at SQL level", JdbcTest::statementsAtSqlLevel);
        checks.put("DEALLOCATE ALL and DISCARD ALL", JdbcTest::discardAllAndDeallocateAll);
        checks.put("LISTEN and NOTIFY", JdbcTest::listenAndNotify);
        checks.put("advisory locks are held by the session", JdbcTest::advisoryLocksAreHeldByTheSession);
        checks.put("temporary tables belong to one client", JdbcTest::temporaryTablesBelongToOneClient);
        checks.put("cursors with and without hold", JdbcTest::cursorsWithAndWithoutHold);
        checks.put("a table that changes under a prepared statement", JdbcTest::aTableThatChangesUnderAPreparedStatement);
        checks.put("values of eight megabytes", JdbcTest::valuesOfEightMegabytes);
        checks.put("many parameters", JdbcTest::manyParameters);
        checks.put("NULLs, types and unicode", JdbcTest::nullsTypesAndUnicode);
        checks.put("several statements in one", JdbcTest::severalStatementsInOne);
        checks.put("a client that leaves in a transaction", JdbcTest::aClientThatLeavesInATransaction);
        checks.put("clean up", JdbcTest::cleanUp);
        check(checks);
        if (failed > 0) System.exit(1);
        System.out.println("jdbc: " + checks.size() + " checks passed");
        System.exit(0);
    }
}
