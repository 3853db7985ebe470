//! How a TOML value becomes a typed setting, and how a setting shows itself.
//!
//! Knows types, not keys. Invariants: what [`Value::read`] accepts is a valid value of its type, so
//! nothing downstream validates again; [`Value::show`] is what `SHOW CONFIG` prints, in PgBouncer's
//! way (booleans 0 and 1, durations in seconds, nothing for "none").

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use toml::de::DeValue;

use super::{
    error::nearest,
    secret,
    units::{self, DURATION_FORM, SIZE_FORM},
};

/// Counts above this are mistakes; below it no multiplication of two of them overflows.
const LARGEST_COUNT: u64 = 1_000_000;

/// What a value may refer to.
pub(crate) struct Context<'a> {
    /// Relative paths start here.
    pub(crate) base_dir: &'a Path,
    /// The environment, for `${NAME}`.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
}

/// Why a value is refused.
#[derive(Debug)]
pub(crate) enum Wrong {
    Value {
        found: String,
        allowed: String,
        hint: Option<String>,
    },
    Environment(String),
}

/// A type of setting.
pub(crate) trait Value: Sized {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong>;
    fn show(&self) -> String;
}

impl Wrong {
    pub(crate) fn new(value: &DeValue<'_>, allowed: impl Into<String>) -> Self {
        Self::Value {
            found: described(value),
            allowed: allowed.into(),
            hint: None,
        }
    }

    /// Refuses a secret: says its type only.
    pub(crate) fn secret(value: &DeValue<'_>) -> Self {
        Self::Value {
            found: format!("of type {}", value.type_str()),
            allowed: "a string".to_owned(),
            hint: None,
        }
    }

    /// Refuses a word that is not one of `words`.
    pub(crate) fn word(value: &DeValue<'_>, words: &[&str]) -> Self {
        let listed: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
        let hint = value
            .as_str()
            .and_then(|text| nearest(text, words.iter().copied()));
        Self::Value {
            found: described(value),
            allowed: listed.join(", "),
            hint: hint.map(|word| format!("did you mean \"{word}\"?")),
        }
    }
}

/// A value as an error message quotes it: as written, never expanded, cut when long.
fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => {
            let shown: String = text.chars().take(60).collect();
            let more = if shown.len() < text.len() { "…" } else { "" };
            format!("\"{}{more}\"", shown.escape_debug())
        }
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A string, or a number written as one, with variables replaced.
fn scalar(value: &DeValue<'_>, context: &Context<'_>) -> Result<Option<String>, Wrong> {
    match value {
        DeValue::Integer(number) => Ok(Some(decimal(number))),
        DeValue::Float(number) => Ok(Some(number.as_str().to_owned())),
        DeValue::String(text) => secret::expand(text, context.variable)
            .map(Some)
            .map_err(Wrong::Environment),
        _ => Ok(None),
    }
}

/// A TOML integer in base ten; one that is too long stays as it is and is refused later.
fn decimal(number: &toml::de::DeInteger<'_>) -> String {
    i128::from_str_radix(number.as_str(), number.radix())
        .map_or_else(|_| number.as_str().to_owned(), |number| number.to_string())
}

fn parsed<T>(
    value: &DeValue<'_>,
    context: &Context<'_>,
    allowed: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, Wrong> {
    let text = scalar(value, context)?;
    text.and_then(|text| parse(text.trim()))
        .ok_or_else(|| Wrong::new(value, allowed))
}

/// A string with variables replaced, never trimmed.
pub(crate) fn text(value: &DeValue<'_>, context: &Context<'_>) -> Result<String, Wrong> {
    match value {
        DeValue::String(_) => scalar(value, context)?.ok_or_else(|| Wrong::new(value, "a string")),
        _ => Err(Wrong::new(value, "a string")),
    }
}

fn is_off(text: &str) -> bool {
    matches!(text, "" | "off" | "none")
}

fn count(text: &str) -> Option<u64> {
    text.parse().ok().filter(|count| *count <= LARGEST_COUNT)
}

impl Value for bool {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        if let DeValue::Boolean(truth) = value {
            return Ok(*truth);
        }
        parsed(value, context, "true or false", |text| match text {
            "true" | "on" | "yes" | "1" => Some(true),
            "false" | "off" | "no" | "0" => Some(false),
            _ => None,
        })
    }

    fn show(&self) -> String {
        u8::from(*self).to_string()
    }
}

impl Value for u16 {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        parsed(value, context, "a number from 0 to 65535", |text| {
            text.parse().ok()
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for u32 {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        parsed(value, context, "a number from 0 to 1000000", |text| {
            Self::try_from(count(text)?).ok()
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for usize {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        parsed(value, context, "a number from 0 to 1000000", |text| {
            Self::try_from(count(text)?).ok()
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A limit: 0 is none.
impl Value for Option<usize> {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        parsed(
            value,
            context,
            "a number up to 1000000, or 0 for no limit",
            |text| {
                Some(
                    usize::try_from(count(text)?)
                        .ok()
                        .filter(|count| *count > 0),
                )
            },
        )
    }

    fn show(&self) -> String {
        self.unwrap_or(0).to_string()
    }
}

/// A size in bytes.
impl Value for u64 {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        parsed(value, context, SIZE_FORM, units::parse_size)
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

/// A size in bytes, where 0 or "off" is none.
impl Value for Option<u64> {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        parsed(
            value,
            context,
            &format!("{SIZE_FORM}, or 0 for none"),
            |text| {
                if is_off(text) {
                    return Some(None);
                }
                Some(Some(units::parse_size(text)?).filter(|size| *size > 0))
            },
        )
    }

    fn show(&self) -> String {
        self.unwrap_or(0).to_string()
    }
}

impl Value for Duration {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        parsed(value, context, DURATION_FORM, units::parse_duration)
    }

    fn show(&self) -> String {
        units::seconds(*self)
    }
}

/// A duration, where 0 or "off" is none.
impl Value for Option<Duration> {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        parsed(
            value,
            context,
            &format!("{DURATION_FORM}, or 0 for none"),
            |text| {
                if is_off(text) {
                    return Some(None);
                }
                Some(Some(units::parse_duration(text)?).filter(|duration| !duration.is_zero()))
            },
        )
    }

    fn show(&self) -> String {
        units::seconds(self.unwrap_or(Duration::ZERO))
    }
}

impl Value for String {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        text(value, context)
    }

    fn show(&self) -> String {
        self.clone()
    }
}

/// A string, where the empty one is none.
impl Value for Option<String> {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        Ok(Some(text(value, context)?).filter(|text| !text.is_empty()))
    }

    fn show(&self) -> String {
        self.clone().unwrap_or_default()
    }
}

/// A list of strings, or one string with commas as in PgBouncer.
impl Value for Vec<String> {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        let allowed = "a list of strings, or one string with commas";
        match value {
            DeValue::Array(items) => {
                let items = items.iter().map(|item| match item.get_ref() {
                    DeValue::String(_) => text(item.get_ref(), context),
                    _ => Err(Wrong::new(value, allowed)),
                });
                items
                    .filter(|item| !item.as_ref().is_ok_and(String::is_empty))
                    .collect()
            }
            DeValue::String(_) => {
                let text = text(value, context)?;
                let items = text
                    .split(',')
                    .map(str::trim)
                    .filter(|item| !item.is_empty());
                Ok(items.map(str::to_owned).collect())
            }
            _ => Err(Wrong::new(value, allowed)),
        }
    }

    fn show(&self) -> String {
        self.join(",")
    }
}

/// A path, relative to the configuration file; the empty string is none. A leading `@` (Linux's
/// abstract socket names) is not a relative path.
impl Value for Option<PathBuf> {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        let text = match value {
            DeValue::String(_) => text(value, context)?,
            _ => return Err(Wrong::new(value, "a path, or \"\" for none")),
        };
        Ok(match text.as_str() {
            "" => None,
            text if text.starts_with('@') => Some(text.into()),
            text => Some(context.base_dir.join(text)),
        })
    }

    fn show(&self) -> String {
        self.as_ref()
            .map_or_else(String::new, |path| path.display().to_string())
    }
}

/// An address to listen on; the empty string is none.
impl Value for Option<SocketAddr> {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        parsed(
            value,
            context,
            "an address such as \"127.0.0.1:9127\", or \"\" for none",
            |text| {
                if is_off(text) {
                    Some(None)
                } else {
                    text.parse().ok().map(Some)
                }
            },
        )
    }

    fn show(&self) -> String {
        self.map_or_else(String::new, |address| address.to_string())
    }
}

/// Permission bits of a file, written in octal: `"0777"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl Value for FileMode {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        let allowed = "permissions in octal, such as \"0770\"";
        if let DeValue::Integer(number) = value
            && number.radix() == 10
            && number.as_str() != "0"
        {
            return Err(Wrong::new(value, allowed));
        }
        if let DeValue::Integer(number) = value {
            let mode = u32::from_str_radix(number.as_str(), number.radix()).ok();
            return mode
                .filter(|mode| *mode <= 0o777)
                .map(Self)
                .ok_or_else(|| Wrong::new(value, allowed));
        }
        parsed(value, context, allowed, |text| {
            u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8)
                .ok()
                .filter(|mode| *mode <= 0o777)
                .map(Self)
        })
    }

    fn show(&self) -> String {
        format!("{:04o}", self.0)
    }
}

/// A share from 0 to 100 %: `"10%"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(u8);

impl Percent {
    /// From 0 to 100; more is 100.
    pub fn new(percent: u8) -> Self {
        Self(percent.min(100))
    }

    /// This share of `whole`.
    pub fn of(self, whole: Duration) -> Duration {
        whole / 100 * u32::from(self.0)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}%", self.0)
    }
}

impl Value for Percent {
    fn read(value: &DeValue<'_>, context: &Context<'_>) -> Result<Self, Wrong> {
        parsed(
            value,
            context,
            "a percentage from \"0%\" to \"100%\"",
            |text| {
                let number = text.strip_suffix('%').unwrap_or(text).trim();
                number
                    .parse()
                    .ok()
                    .filter(|percent| *percent <= 100)
                    .map(Self)
            },
        )
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
