//! The task that keeps what is known of a database's catalogue up to date: read from the primary when
//! that is found, in intervals, and soon after somebody has changed the schema.
//!
//! Each reading has a connection of its own, which is closed again: they are rare, and a primary's
//! connections are dear.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::Plan;
use crate::{
    config::PoolSettings,
    pool::Watch,
    route::HostId,
    server::{
        ConnectError, ServerLogin,
        catalogue::{self, SurveyError},
        inquiry::Inquiry,
        observe::APPLICATION_NAME,
    },
    sql::catalogue::{Catalogue, Declared, Survey},
};

/// Schema changes come in rows: so long after one, the others have been made too.
const SETTLE: Duration = Duration::from_millis(100);

/// What the catalogue is to be read for, when it changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Occasion {
    /// The primary that answers, and the how manieth connection to it.
    pub(super) primary: Option<(HostId, u64)>,
    /// How often the schema was changed.
    pub(super) changes: u64,
}

/// Why the catalogue was not read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Survey(#[from] SurveyError),
    #[error("not within {0:?} (catalog_refresh_interval)")]
    Timeout(Duration),
}

/// Runs until the monitor is gone.
pub(super) async fn run(
    database: Box<str>,
    watch: Arc<Watch>,
    mut plan: watch::Receiver<Arc<Plan>>,
    mut occasions: watch::Receiver<Occasion>,
) {
    let mut known = None;
    loop {
        let occasion = *occasions.borrow_and_update();
        let current = Arc::clone(&plan.borrow_and_update());
        let settings = &current.settings;
        let interval = settings.catalog_refresh_interval;
        let mut next = interval;
        let primary = occasion.primary.map(|(host, _)| host);
        if let Some(login) = primary.and_then(|host| current.logins.get(host)) {
            // One that takes longer than until the next is given up.
            let read = timeout(interval, read(login, interval)).await;
            match read.unwrap_or(Err(ReadError::Timeout(interval))) {
                Ok(survey) => publish(&database, &watch, settings, &survey, &mut known),
                Err(error) => {
                    tracing::warn!(%database, why = super::chain(&error), "catalogue not read");
                    next = interval.min(settings.health_check_interval);
                }
            }
        }
        tokio::select! {
            () = sleep(next) => {}
            changed = occasions.changed() => match changed {
                Ok(()) => sleep(SETTLE).await,
                Err(_) => return,
            },
            changed = plan.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

async fn read(login: &ServerLogin, limit: Duration) -> Result<Survey, ReadError> {
    // Given up here, it need not go on there.
    let limit = format!("{}ms", limit.as_millis());
    let settings = [("statement_timeout", limit.as_str())];
    let mut inquiry = Inquiry::open(login, APPLICATION_NAME, &settings).await?;
    Ok(catalogue::survey(&mut inquiry).await?)
}

/// What a catalogue was made from.
type Source = (u64, Vec<String>, Vec<String>);

/// The same again is no news: sessions would look at their statements anew for nothing.
fn publish(
    database: &str,
    watch: &Watch,
    settings: &PoolSettings,
    survey: &Survey,
    known: &mut Option<Source>,
) {
    let (read_only, write) = (&settings.read_only_functions, &settings.write_functions);
    let source = (survey.digest(), read_only.clone(), write.clone());
    if known.as_ref() == Some(&source) {
        return;
    }
    let catalogue = Catalogue::new(watch.generation(), survey, Declared { read_only, write });
    if let Some(why) = catalogue.distrust() {
        tracing::warn!(database, %why, "statements that name anything count as writes");
    }
    let [functions, names, operators] = catalogue.counts();
    tracing::debug!(database, functions, names, operators, "catalogue read");
    watch.set_knowledge(Arc::new(catalogue));
    *known = Some(source);
}
