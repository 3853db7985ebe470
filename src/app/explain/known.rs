//! What is known of the database whose statements are explained: nothing, or what a configuration and its
//! primary tell.
//!
//! Asks once; what changes later is not seen.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;

use super::{
    super::{Pooler, command_line::sentence, workers},
    Options,
};
use crate::{
    auth::Credentials,
    config::{Config, Consistency, Database, PoolSettings, Role, RouteTo, describe},
    route::Wishes,
    server::{Inquiry, catalogue},
    sql::{
        Builtins, Knowledge,
        catalogue::{Catalogue, Declared, Survey},
    },
};

/// What a decision depends on besides the text.
pub(super) struct Known {
    /// The server's major version; 0 if it is not known.
    pub(super) version: u16,
    /// What its own objects are.
    pub(super) knowledge: Box<dyn Knowledge>,
    /// What the settings wish.
    pub(super) wishes: Wishes,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            version: 0,
            knowledge: Box::new(Builtins),
            wishes: Wishes {
                route: RouteTo::Auto,
                consistency: Consistency::Session,
                by_comment: false,
            },
        }
    }
}

/// What the configuration says of the database, and its primary.
pub(super) fn known(path: &Path, options: &Options) -> anyhow::Result<Known> {
    let config = Config::load(path)?;
    let database = choose_database(&config, options.database.as_deref())?;
    let user = choose_user(&config, &database, options.user.as_deref())?;
    let settings = config.pool(&database, &user);
    let pooler = Pooler::new(Arc::new(config)).map_err(|error| sentence(&error))?;
    let runtime = workers::runtime().map_err(|error| sentence(&error))?;
    let (version, survey) = runtime.block_on(survey(&pooler, &database, &user, &settings))?;
    let declared = Declared {
        read_only: &settings.read_only_functions,
        write: &settings.write_functions,
    };
    let catalogue = Catalogue::new(1, &survey, declared);
    warn_of_distrust(&catalogue);
    Ok(Known {
        version,
        knowledge: Box::new(catalogue),
        wishes: Wishes {
            route: settings.route,
            consistency: settings.consistency,
            by_comment: false,
        },
    })
}

#[expect(clippy::print_stderr, reason = "this is what the command is for")]
fn warn_of_distrust(catalogue: &Catalogue) {
    if let Some(why) = catalogue.distrust() {
        eprintln!("warning: statements that name anything count as writes: {why}");
    }
}

fn choose_database(config: &Config, wanted: Option<&str>) -> anyhow::Result<Arc<Database>> {
    if let Some(name) = wanted {
        let found = config.database(name);
        return found.with_context(|| format!("the configuration has no database \"{name}\""));
    }
    let mut databases = config.databases();
    match (databases.next(), databases.next()) {
        (Some(only), None) => Ok(Arc::clone(only)),
        _ => anyhow::bail!("say which database of the configuration: --database NAME"),
    }
}

fn choose_user(
    config: &Config,
    database: &Database,
    wanted: Option<&str>,
) -> anyhow::Result<String> {
    if let Some(user) = wanted.or(database.user.as_deref()) {
        return Ok(user.to_owned());
    }
    let mut users = config.users();
    match (users.next(), users.next()) {
        (Some(only), None) => Ok(only.name.clone()),
        _ => anyhow::bail!("say as which user to ask the server: --user NAME"),
    }
}

/// Asks the server that the configuration calls the primary; if it calls none so, the first that answers:
/// a standby has the same catalogue.
async fn survey(
    pooler: &Pooler,
    database: &Database,
    user: &str,
    settings: &PoolSettings,
) -> anyhow::Result<(u16, Survey)> {
    let config = pooler.config();
    let mut failures = Vec::new();
    let primary = database.hosts().find(|server| server.role == Role::Primary);
    let others = database.hosts().filter(|_| primary.is_none());
    for server in primary.into_iter().chain(others) {
        let to = (database, server);
        let login = pooler.server_login(
            &config,
            to,
            super::super::identity(&config, database, user, &Credentials::None),
            settings,
        );
        // As long as a monitor would wait.
        let limit = settings.catalog_refresh_interval;
        let timeout = format!("{}ms", limit.as_millis());
        let answer = async {
            let own = [("statement_timeout", timeout.as_str())];
            let opened = Inquiry::open(&login, "pgweir explain", &own).await;
            let mut inquiry = opened.map_err(|error| describe(&error))?;
            let survey = catalogue::survey(&mut inquiry).await;
            survey
                .map(|survey| (inquiry.major_version(), survey))
                .map_err(|error| describe(&error))
        };
        let late = || Err(format!("no answer within {limit:?}"));
        match tokio::time::timeout(limit, answer)
            .await
            .unwrap_or_else(|_| late())
        {
            Ok(survey) => return Ok(survey),
            Err(why) => failures.push(format!("{server}: {why}")),
        }
    }
    anyhow::bail!("no server told its catalogue: {}", failures.join("; "))
}
