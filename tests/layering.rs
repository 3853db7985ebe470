//! The architecture, as a test: who may name whom under `src/`, and no process-wide mutable state.

use std::{fs, path::Path};

/// Module → the modules it may use. Lower layers first; nothing may name a module further down.
/// `app` may use all of them and is used by none.
const ALLOWED: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("config", &[]),
    ("stats", &[]),
    ("sql", &[]),
    ("sandbox", &[]),
    ("auth", &["protocol", "config"]),
    ("session", &["protocol", "auth", "sql"]),
    ("route", &["sql", "session", "config"]),
    ("net", &["protocol", "config"]),
    (
        "server",
        &[
            "net", "session", "auth", "sql", "protocol", "config", "stats",
        ],
    ),
    (
        "pool",
        &[
            "server", "route", "session", "sql", "protocol", "config", "stats",
        ],
    ),
    (
        "client",
        &[
            "pool", "server", "route", "sql", "session", "auth", "net", "protocol", "config",
            "stats",
        ],
    ),
    (
        "admin",
        &[
            "pool", "server", "route", "session", "sql", "net", "protocol", "config", "stats",
        ],
    ),
];

#[test]
fn modules_depend_downwards_only() {
    let mut wrong = Vec::new();
    for (module, allowed) in ALLOWED {
        each_source(&Path::new("src").join(module), &mut |path, text| {
            for used in crate_paths(text) {
                let known = used == "app" || ALLOWED.iter().any(|(m, _)| *m == used);
                if used != *module && known && !allowed.contains(&used) {
                    wrong.push(format!("{path}: `{module}` must not use `crate::{used}`"));
                }
            }
        });
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_documented_table_is_this_one() {
    let page = fs::read_to_string("docs/ARCHITECTURE.md").expect("the page is there");
    let rows: Vec<&str> = page.lines().filter(|l| l.starts_with("| `")).collect();
    for (module, allowed) in ALLOWED {
        let names: Vec<_> = allowed.iter().map(|name| format!("`{name}`")).collect();
        let uses = if names.is_empty() {
            "-".to_owned()
        } else {
            names.join(", ")
        };
        let row = format!("| `{module}` | {uses} | ");
        let found = rows.iter().any(|line| line.starts_with(&row));
        assert!(found, "docs/ARCHITECTURE.md has no row {row}");
    }
}

#[test]
fn no_global_state() {
    let mut wrong = Vec::new();
    each_source(Path::new("src"), &mut |path, text| {
        for line in text.lines().map(str::trim_start) {
            let is_static = line.starts_with("static ")
                || (line.starts_with("pub") && line.contains(" static "));
            let mutable = [
                "Mutex", "RwLock", "Atomic", "Lazy", "Once", "ArcSwap", "DashMap",
            ];
            if is_static && mutable.iter().any(|t| line.contains(t)) {
                wrong.push(format!("{path}: {line}"));
            }
        }
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// First segments of every `crate::x` path and `use crate::{x::…, y}` group in `text`.
fn crate_paths(text: &str) -> Vec<&str> {
    let ident = |s: &str| {
        s.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(s.len())
    };
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + 7..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(&rest[..ident(rest)]);
            continue;
        };
        let (mut depth, mut start) = (0, true);
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && c.is_alphanumeric() => {
                    found.push(&group[i..i + ident(&group[i..])]);
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn each_source(dir: &Path, visit: &mut dyn FnMut(&str, &str)) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for path in entries.flatten().map(|e| e.path()) {
        if path.is_dir() {
            each_source(&path, visit);
        } else if path.extension().is_some_and(|e| e == "rs") {
            visit(
                &path.display().to_string(),
                &fs::read_to_string(&path).expect("sources are UTF-8"),
            );
        }
    }
}
