//! The keywords of PostgreSQL 14 to 18 and their lookup by hash.
//!
//! Source: `src/include/parser/kwlist.h` of each version. A word that is a keyword in any of them is one here; where
//! versions differ, the table takes the side that makes fewer statements a proved read: the SQL/JSON constructors, `SYSTEM_USER`
//! and `MERGE_ACTION`, which older servers would look up as functions, are ordinary words here. So are `SUBSTRING` and `OVERLAY`:
//! without the words of their own syntax they call whatever function has that name.
//!
//! Knows no statement. The tables are built by the compiler; nothing is computed at start.

/// A keyword that some rule of this module asks for by name; every other one is [`Kw::Other`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[rustfmt::skip]
pub(super) enum Kw {
    Other,
    Abort, Absolute, All, Alter, Analyze, And, As, At, Atomic, Authorization, Begin, Both, By, Call, Case, Catalog,
    Chain, Character, Characteristics, Checkpoint, Close, Cluster, Comment, Commit, Committed, Conflict, Content,
    Copy, Create, Cube, Current, Cursor, Deallocate, Declare, Default, Deferrable, Delete, Discard, Distinct, Do,
    Document, Drop, End, Escape, Execute, Exists, Explain, False, Fetch, First, For, From, Function, Global, Grant,
    Group, Grouping, Groups, Having, Hold, If, Import, Insert, Into, Isolation, Join, JoinType, Key, Lateral, Level,
    Limit, Listen, Load, Local, Lock, Materialized, Merge, Move, Names, Next, No, Not, Notify, Nulls, Off, Offset,
    On, Only, Operator, Option, Order, Ordinality, Over, Partition, Passing, Path, Plans, Prepare, Prepared,
    Procedure, Program, Range, Read, Reassign, Recursive, Ref, Refresh, Reindex, Release, Repeatable, Replace, Reset,
    Return, Returning, Revoke, Role, Rollback, Rollup, Rows, Savepoint, Schema, Scroll, Security, Select, Sequences,
    Serializable, Session, Set, Sets, Share, Show, Snapshot, Start, Stdin, Stdout, Table, Tablesample, Temp, Time,
    To, Transaction, Treat, True, Truncate, Uncommitted, Unlisten, Unlogged, Update, Using, Vacuum, Value, Values,
    Varying, Verbose, Version, View, Where, Window, With, Without, Work, Write, Xml, Zone,
}

impl Kw {
    /// Can an expression begin right behind this unreserved keyword? (`gram.y` of each version, by reading.)
    pub(super) const fn precedes_expression(self) -> bool {
        matches!(
            self,
            Self::By
                | Self::Call
                | Self::Content
                | Self::Document
                | Self::Escape
                | Self::First
                | Self::Groups
                | Self::Key
                | Self::Next
                | Self::Passing
                | Self::Path
                | Self::Range
                | Self::Ref
                | Self::Return
                | Self::Rows
                | Self::Value
                | Self::Version
                | Self::Zone
        )
    }
}

/// How the grammar lets a keyword be used (the manual's appendix "SQL Key Words").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Category {
    /// Not a keyword at all.
    Name,
    /// May name anything.
    Unreserved,
    /// May name a column or table; before a parenthesis it is syntax of its own, never a call of a user's function.
    Column,
    /// May name a function or type.
    Function,
    /// Only syntax, unless it stands after `AS` or a dot.
    Reserved,
}

macro_rules! keywords {
    ($($category:ident { $($word:tt $(=> $kw:ident)?),* $(,)? })*) => {
        const WORDS: &[(&str, Kw, Category)] = &[
            $($((stringify!($word), keywords!(@kw $($kw)?), Category::$category),)*)*
        ];
    };
    (@kw) => { Kw::Other };
    (@kw $kw:ident) => { Kw::$kw };
}

#[rustfmt::skip]
keywords! {
    Reserved {
        all => All, analyse => Analyze, analyze => Analyze, and => And, any, array, as => As, asc, asymmetric,
        both => Both, case => Case, cast, check, collate, column, constraint, create => Create, current_catalog,
        current_date, current_role, current_time, current_timestamp, current_user, default => Default,
        deferrable => Deferrable, desc, distinct => Distinct, do => Do, else, end => End, except, false => False,
        fetch => Fetch, for => For, foreign, from => From, grant => Grant, group => Group, having => Having, in,
        initially, intersect, into => Into, lateral => Lateral, leading, limit => Limit, localtime, localtimestamp,
        not => Not, null, offset => Offset, on => On, only => Only, or, order => Order, placing, primary, references,
        returning => Returning, select => Select, session_user, some, symmetric, table => Table, then,
        to => To, trailing, true => True, union, unique, user, using => Using, variadic, when, where => Where,
        window => Window, with => With,
    }
    Column {
        between, bigint, bit => Character, boolean, char => Character, character => Character, coalesce, dec, decimal, exists => Exists, extract, float,
        greatest, grouping => Grouping, inout, int, integer, interval, least, national, nchar => Character, none, normalize, nullif,
        numeric, out, position, precision, real, row, setof, smallint, time => Time, timestamp,
        treat => Treat, trim, values => Values, varchar, xmlattributes, xmlconcat, xmlelement, xmlexists, xmlforest,
        xmlnamespaces, xmlparse, xmlpi, xmlroot, xmlserialize, xmltable,
    }
    Function {
        authorization => Authorization, binary, collation, concurrently, cross => JoinType, current_schema, freeze, full => JoinType, ilike,
        inner => JoinType, is, isnull, join => Join, left => JoinType, like, natural => JoinType, notnull, outer => JoinType, overlaps, right => JoinType, similar,
        tablesample => Tablesample, verbose => Verbose,
    }
    Unreserved {
        abort => Abort, absent, absolute => Absolute, access, action, add, admin, after, aggregate, also,
        alter => Alter, always, asensitive, assertion, assignment, at => At, atomic => Atomic, attach, attribute,
        backward, before, begin => Begin, breadth, by => By, cache, call => Call, called, cascade, cascaded,
        catalog => Catalog, chain => Chain, characteristics => Characteristics, checkpoint => Checkpoint, class,
        close => Close, cluster => Cluster, columns, comment => Comment, comments, commit => Commit,
        committed => Committed, compression, conditional, configuration, conflict => Conflict, connection, constraints,
        content => Content, continue, conversion, copy => Copy, cost, csv, cube => Cube, current => Current, cursor => Cursor,
        cycle, data, database, day, deallocate => Deallocate, declare => Declare, defaults, deferred, definer,
        delete => Delete, delimiter, delimiters, depends, depth, detach, dictionary, disable, discard => Discard,
        document => Document, domain, double, drop => Drop, each, empty, enable, encoding, encrypted, enforced, enum, error,
        escape => Escape, event, exclude, excluding, exclusive, execute => Execute, explain => Explain, expression, extension,
        external, family, filter, finalize, first => First, following, force, format, forward, function => Function,
        functions, generated, global => Global, granted, groups => Groups, handler, header, hold => Hold, hour, identity,
        if => If, immediate, immutable, implicit, import => Import, include, including, increment, indent, index,
        indexes, inherit, inherits, inline, input, insensitive, insert => Insert, instead, invoker,
        isolation => Isolation, keep, key => Key, keys, label, language, large, last, leakproof, level => Level,
        listen => Listen, load => Load, local => Local, location, lock => Lock, locked, logged, mapping, match,
        matched, materialized => Materialized, maxvalue, merge => Merge, method, minute, minvalue, mode, month,
        move => Move, name, names => Names, nested, new, next => Next, nfc, nfd, nfkc, nfkd, no => No, normalized,
        nothing, notify => Notify, nowait, nulls => Nulls, object, objects, of, off => Off, oids, old, omit,
        operator => Operator, option => Option, options, ordinality => Ordinality, others, over => Over, overriding,
        owned, owner, parallel, parameter, parser, partial, partition => Partition, passing => Passing, password, path => Path, period, plan,
        plans => Plans, policy, preceding, prepare => Prepare, prepared => Prepared, preserve, prior, privileges,
        procedural, procedure => Procedure, procedures, program => Program, publication, quote, quotes, range => Range,
        read => Read, reassign => Reassign, recheck, recursive => Recursive, ref => Ref, referencing, refresh => Refresh,
        reindex => Reindex, relative, release => Release, rename, repeatable => Repeatable, replace => Replace,
        replica, reset => Reset, restart, restrict, return => Return, returns, revoke => Revoke, role => Role,
        rollback => Rollback, rollup => Rollup, routine, routines, rows => Rows, rule, savepoint => Savepoint, scalar,
        schema => Schema, schemas, scroll => Scroll, search, second, security => Security, sequence,
        sequences => Sequences, serializable => Serializable, server, session => Session, set => Set, sets => Sets,
        share => Share, show => Show, simple, skip, snapshot => Snapshot, source, sql, stable, standalone,
        start => Start, statement, statistics, stdin => Stdin, stdout => Stdout, storage, stored, strict, string,
        strip, subscription, support, sysid, system, tables, tablespace, target, temp => Temp, template,
        temporary => Temp, text, ties, transaction => Transaction, transform, trigger, truncate => Truncate, trusted,
        type, types, uescape, unbounded, uncommitted => Uncommitted, unconditional, unencrypted, unknown,
        unlisten => Unlisten, unlogged => Unlogged, until, update => Update, vacuum => Vacuum, valid, validate,
        validator, value => Value, varying => Varying, version => Version, view => View, views, virtual, volatile, whitespace, within,
        without => Without, work => Work, wrapper, write => Write, xml => Xml, year, yes, zone => Zone,
    }
}

/// The length of the longest word that can be [`Packed`]; no keyword is longer.
const LONGEST: usize = 24;

/// A word of letters, digits, `_`, `$` and bytes beyond ASCII as three numbers, the same for upper and lower
/// case. Of two words of which one is a keyword they are equal only if the words are: what else the case bit
/// makes alike is in no keyword.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Packed([u64; 3]);

const CASE_BITS: u64 = 0x2020_2020_2020_2020;

impl Packed {
    /// Of a keyword.
    const fn of(word: &[u8]) -> Self {
        assert!(word.len() <= LONGEST, "a keyword is too long");
        let mut numbers = [0; 3];
        let mut i = 0;
        while i < word.len() {
            numbers[i / 8] |= ((word[i] | 0x20) as u64) << (i % 8 * 8);
            i += 1;
        }
        Self(numbers)
    }

    /// Of the word at the beginning of `text`, eight bytes at a time wherever as many are there.
    #[inline]
    fn at_start(text: &[u8], length: usize) -> Self {
        let mut numbers = [0; 3];
        let mut left = length;
        for (number, place) in numbers.iter_mut().zip([0, 8, 16]) {
            *number = load(text.get(place..).unwrap_or_default(), left);
            left = left.saturating_sub(8);
            if left == 0 {
                break;
            }
        }
        Self(numbers)
    }

    #[inline]
    const fn hash(self) -> u64 {
        let [a, b, c] = self.0;
        a ^ b.rotate_left(29) ^ c.rotate_left(43)
    }
}

/// The first `length` bytes, or eight if that is more.
#[inline]
fn load(text: &[u8], length: usize) -> u64 {
    let all = text.first_chunk().map_or_else(
        || {
            text.iter()
                .rev()
                .fold(0, |all, byte| all << 8 | u64::from(*byte))
        },
        |chunk| u64::from_le_bytes(*chunk),
    );
    let wanted = if length < 8 {
        (1 << (8 * length)) - 1
    } else {
        u64::MAX
    };
    (all | CASE_BITS) & wanted
}

/// A name's hash.
pub(super) const fn hash(bytes: &[u8]) -> u64 {
    let mut hash = 0_u64;
    let mut i = 0;
    while i < bytes.len() {
        hash = hash.rotate_left(5) ^ bytes[i] as u64;
        i += 1;
    }
    hash
}

/// An open-addressed index over a list of words: each slot holds a word's position + 1 and 6 bits of its hash, so that
/// a miss is decided without touching the list. At most 1023 words; `SLOTS` is a power of two above their number.
pub(super) struct Index<const SLOTS: usize>([u16; SLOTS]);

impl<const SLOTS: usize> Index<SLOTS> {
    pub(super) const EMPTY: Self = Self([0; SLOTS]);

    /// Adds the word at `position` of the caller's list, with its hash. Only for tables built by the compiler.
    pub(super) const fn with(mut self, position: usize, hash: u64) -> Self {
        assert!(position < 1023, "an index holds 1023 words");
        let (mut slot, tag) = Self::place(hash);
        while self.0[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        #[expect(clippy::cast_possible_truncation, reason = "checked above")]
        {
            self.0[slot] = tag | (position as u16 + 1);
        }
        self
    }

    /// The position for which `is` holds, among those whose words may have this hash.
    #[inline]
    pub(super) fn find(&self, hash: u64, mut is: impl FnMut(usize) -> bool) -> Option<usize> {
        let (mut slot, tag) = Self::place(hash);
        loop {
            let entry = self.0[slot];
            if entry == 0 {
                return None;
            }
            let position = usize::from(entry & 0x3ff) - 1;
            if entry & 0xfc00 == tag && is(position) {
                return Some(position);
            }
            slot = (slot + 1) % SLOTS;
        }
    }

    const fn place(hash: u64) -> (usize, u16) {
        let spread = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (
            (spread >> 40) as usize % SLOTS,
            (spread >> 48) as u16 & 0xfc00,
        )
    }
}

static PACKED: [Packed; WORDS.len()] = {
    let mut packed = [Packed([0; 3]); WORDS.len()];
    let mut i = 0;
    while i < WORDS.len() {
        packed[i] = Packed::of(WORDS[i].0.as_bytes());
        i += 1;
    }
    packed
};

static INDEX: Index<2048> = {
    let mut index = Index::EMPTY;
    let mut i = 0;
    while i < WORDS.len() {
        index = index.with(i, PACKED[i].hash());
        i += 1;
    }
    index
};

/// What the grammar makes of the unquoted word of that length at the beginning of `text`.
#[inline]
pub(super) fn keyword(text: &[u8], length: usize) -> (Kw, Category) {
    if length > LONGEST {
        return (Kw::Other, Category::Name);
    }
    let packed = Packed::at_start(text, length);
    match INDEX.find(packed.hash(), |i| PACKED[i] == packed) {
        Some(i) => (WORDS[i].1, WORDS[i].2),
        None => (Kw::Other, Category::Name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(word: &str, behind: &str) -> (Kw, Category) {
        keyword(format!("{word}{behind}").as_bytes(), word.len())
    }

    #[test]
    fn every_keyword_is_found_in_any_case_and_place() {
        for &(word, kw, category) in WORDS {
            for spelled in [word.to_owned(), word.to_ascii_uppercase()] {
                for behind in ["", " ", "(1)", " and much more of it"] {
                    assert_eq!(found(&spelled, behind), (kw, category), "{spelled}");
                }
            }
        }
    }

    #[test]
    fn other_words_are_names() {
        for word in [
            "",
            "users",
            "selects",
            "selec",
            "s\u{e9}lect",
            "\u{17f}elect",
            "updat\u{212a}",
            "a_word_that_is_longer_than_any_keyword",
        ] {
            for behind in ["", " ", "t", " and much more of it"] {
                assert_eq!(found(word, behind).1, Category::Name, "{word}");
            }
        }
    }

    /// Whatever can stand in a word, in place of whatever stands in a keyword.
    #[test]
    fn no_word_is_taken_for_another() {
        let may_stand = |byte: &u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii()
        };
        for &(word, ..) in WORDS {
            for at in 0..word.len() {
                let mut other = word.as_bytes().to_vec();
                for byte in (0..=255).filter(may_stand) {
                    other[at] = byte;
                    let is =
                        |it: &&(&str, Kw, Category)| it.0.as_bytes().eq_ignore_ascii_case(&other);
                    let expected = WORDS.iter().find(is).map(|it| (it.1, it.2));
                    let expected = expected.unwrap_or((Kw::Other, Category::Name));
                    assert_eq!(
                        keyword(&other, other.len()),
                        expected,
                        "{}",
                        other.escape_ascii()
                    );
                }
            }
        }
    }
}
