//! The macros that turn a table of settings into a struct, its defaults and its keys.
//!
//! Knows no setting. Invariant: a field, its key, its type and its default stand in one line of one
//! table, and a test reads every default.

use std::path::Path;

use toml::de::DeValue;

use super::value::{Context, Value, Wrong};

/// A struct of settings that can be reached by key, as `settings!` makes them.
pub(crate) trait Settings {
    /// Sets one key; `None` if there is no such key here.
    fn set(
        &mut self,
        key: &str,
        value: &DeValue<'_>,
        context: &Context<'_>,
    ) -> Option<Result<(), Wrong>>;

    /// What `SHOW CONFIG` prints for one key; `None` if there is no such key here.
    fn show(&self, key: &str) -> Option<String>;

    /// Takes the value of one key from `other`.
    fn copy_from(&mut self, other: &Self, key: &str);
}

/// The typed value of a default.
pub(crate) fn default_of<T: Value>(toml: &str) -> T {
    let context = Context {
        base_dir: Path::new(""),
        variable: &|_| None,
    };
    let value = DeValue::parse(toml).expect("defaults are TOML: tests read them all");
    T::read(value.get_ref(), &context).expect("defaults fit their type: tests read them all")
}

/// Defines one struct of settings: fields, defaults, and its part of the table of keys.
///
/// ```text
/// /// What it means, in one line.
/// field (as "key")? : Type = default, reload|restart, pgbouncer|ours (, scope)?;
/// ```
macro_rules! settings {
    (
        $(#[$about:meta])*
        pub struct $name:ident in $section:ident { $($groups:tt)+ }
        $(nested { $($(#[$nested_doc:meta])+ $nested:ident : $nested_type:ty,)+ })?
    ) => {
        settings!(@fields [$(#[$about])*] $name $section { $($groups)+ }
            { $($($(#[$nested_doc])+ $nested: $nested_type,)+)? });
    };

    (@fields [$(#[$about:meta])*] $name:ident $section:ident
        { $($group:literal { $(
            $(#[doc = $doc:literal])+
            $field:ident $(as $key:literal)? : $type:ty = $default:tt, $reload:ident, $origin:ident
            $(, $scope:ident)? ;
        )+ })+ }
        { $($(#[$nested_doc:meta])+ $nested:ident : $nested_type:ty,)* }
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($( $(#[doc = $doc])+ pub $field: $type, )+)+
            $( $(#[$nested_doc])+ pub $nested: $nested_type, )*
        }

        impl $name {
            pub(crate) const KEYS: &'static [Key] = &[$($(Key {
                name: settings!(@key $field $($key)?),
                section: Section::$section,
                group: $group,
                doc: concat!($($doc),+).trim_ascii_start(),
                default: stringify!($default),
                reload: settings!(@reload $reload),
                scope: settings!(@scope $section $($scope)?),
                in_pgbouncer: settings!(@origin $origin),
            },)+)+];
        }

        impl Settings for $name {
            fn set(
                &mut self,
                key: &str,
                value: &DeValue<'_>,
                context: &Context<'_>,
            ) -> Option<Result<(), Wrong>> {
                match key {
                    $($( settings!(@key $field $($key)?) => {
                        Some(Value::read(value, context).map(|value| self.$field = value))
                    } )+)+
                    _ => {
                        $( if let Some(done) = self.$nested.set(key, value, context) {
                            return Some(done);
                        } )*
                        None
                    }
                }
            }

            fn show(&self, key: &str) -> Option<String> {
                match key {
                    $($( settings!(@key $field $($key)?) => Some(self.$field.show()), )+)+
                    _ => {
                        $( if let Some(shown) = self.$nested.show(key) {
                            return Some(shown);
                        } )*
                        None
                    }
                }
            }

            fn copy_from(&mut self, other: &Self, key: &str) {
                match key {
                    $($( settings!(@key $field $($key)?) => {
                        self.$field.clone_from(&other.$field);
                    } )+)+
                    _ => { $( self.$nested.copy_from(&other.$nested, key); )* }
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($( $field: default_of(stringify!($default)), )+)+
                    $( $nested: <$nested_type>::default(), )*
                }
            }
        }
    };

    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
    (@reload reload) => { Reload::Now };
    (@reload restart) => { Reload::Restart };
    (@origin pgbouncer) => { true };
    (@origin ours) => { false };
    (@scope Process) => { Scope::Process };
    (@scope Pool) => { Scope::Anywhere };
    (@scope Pool not_user) => { Scope::NotUser };
    (@scope Pool not_database) => { Scope::NotDatabase };
}

/// Defines the struct of values that a database or a user has of its own: the same fields, each
/// optional. Takes the groups of a `settings!` block.
macro_rules! overrides {
    (
        $(#[$about:meta])*
        pub struct $name:ident of $base:ident;
        $($group:literal { $(
            $(#[doc = $doc:literal])+
            $field:ident $(as $key:literal)? : $type:ty = $default:tt, $reload:ident, $origin:ident
            $(, $scope:ident)? ;
        )+ })+
    ) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($( $(#[doc = $doc])+ pub $field: Option<$type>, )+)+ }

        impl $name {
            /// Sets one key; `None` if there is no such key.
            pub(crate) fn set(
                &mut self,
                key: &str,
                value: &DeValue<'_>,
                context: &Context<'_>,
            ) -> Option<Result<(), Wrong>> {
                match key {
                    $($( settings!(@key $field $($key)?) => {
                        Some(Value::read(value, context).map(|value| self.$field = Some(value)))
                    } )+)+
                    _ => None,
                }
            }

            /// Whether there is no override at all.
            pub fn is_empty(&self) -> bool {
                $($( self.$field.is_none() )&&+)&&+
            }

            /// `base` with these values in place of its own.
            pub fn over(&self, base: &$base) -> $base {
                $base { $($(
                    $field: self.$field.clone().unwrap_or_else(|| base.$field.clone()),
                )+)+ }
            }
        }
    };
}

pub(crate) use {overrides, settings};
