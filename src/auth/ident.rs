//! User name maps: `pg_ident.conf`, PgBouncer's `auth_ident_file`. Which operating-system or certificate names may log in as which user.
//!
//! Lines of `map system-name user`; `all` as the user allows every one. Regular expressions are refused with their line.

use super::hba::tokens::{fields, logical_lines};
use super::hba::{HbaError, HbaProblem};

/// A file that was read whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdentMaps(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    map: String,
    system_name: String,
    /// `None` is every user.
    user: Option<String>,
}

impl IdentMaps {
    /// Reads a file.
    pub fn parse(text: &str) -> Result<Self, HbaError> {
        let mut entries = Vec::new();
        for (line, content) in logical_lines(text) {
            let at = |problem| HbaError { line, problem };
            let fields = fields(&content).map_err(at)?;
            if fields.is_empty() {
                continue;
            }
            let one = |index: usize, what| match fields.get(index).map(Vec::as_slice) {
                Some([token]) => Ok(token),
                Some(_) => Err(at(HbaProblem::Several(what))),
                None => Err(at(HbaProblem::Missing(what))),
            };
            let map = one(0, "map name")?;
            let system_name = one(1, "system user name")?;
            let user = one(2, "database user name")?;
            for token in [system_name, user] {
                if !token.quoted && token.text.starts_with(['/', '+']) {
                    return Err(at(HbaProblem::Unsupported(format!("\"{}\"", token.text))));
                }
            }
            if let Some(extra) = fields.get(3).and_then(|field| field.first()) {
                return Err(at(HbaProblem::Option(extra.text.clone())));
            }
            entries.push(Entry {
                map: map.text.clone(),
                system_name: system_name.text.clone(),
                user: (user.quoted || user.text != "all").then(|| user.text.clone()),
            });
        }
        Ok(Self(entries))
    }

    /// Whether a client known outside as `system_name` may log in as `user`. Without a map both must be the same name.
    pub fn allows(&self, map: Option<&str>, system_name: &str, user: &str) -> bool {
        let Some(map) = map else {
            return system_name == user;
        };
        self.0.iter().any(|entry| {
            entry.map == map
                && entry.system_name == system_name
                && entry.user.as_deref().is_none_or(|allowed| allowed == user)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_allow_what_they_say() {
        let maps =
            IdentMaps::parse("# c\nweb www-data app\nweb root all\nops \"a b\" \"all\"\n").unwrap();
        assert!(maps.allows(Some("web"), "www-data", "app"));
        assert!(!maps.allows(Some("web"), "www-data", "other"));
        assert!(maps.allows(Some("web"), "root", "anyone"));
        assert!(maps.allows(Some("ops"), "a b", "all"));
        assert!(!maps.allows(Some("ops"), "a b", "app"));
        assert!(!maps.allows(Some("none"), "app", "app"));
        assert!(maps.allows(None, "app", "app"));
        assert!(!maps.allows(None, "app", "App"));
    }

    #[test]
    fn errors_name_the_line() {
        let error = |text: &str| IdentMaps::parse(text).unwrap_err().to_string();
        assert_eq!(error("\nm a"), "line 2: the database user name is missing");
        assert_eq!(
            error("m /^(.*)$ \\1"),
            "line 1: \"/^(.*)$\" is not supported"
        );
        assert_eq!(
            error("m a,b c"),
            "line 1: the system user name must be one value"
        );
        assert_eq!(error("m a b c"), "line 1: invalid option \"c\"");
    }
}
