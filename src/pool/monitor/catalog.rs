//! The task that keeps what is known of a database's catalogue up to date: read from the primary when
//! that is found, in intervals, and soon after somebody has changed the schema.
//!
//! Each reading has a connection of its own, which is closed again: they are rare, and a primary's
//! connections are dear.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use super::Plan;
use crate::{
    config::describe,
    pool::Watch,
    route::HostId,
    server::{
        ConnectError, ServerLogin,
        catalogue::{self, Fingerprint, SurveyError},
        inquiry::Inquiry,
        observe::APPLICATION_NAME,
    },
    sql::catalogue::{Catalogue, Declared, Survey},
};

/// Schema changes come in rows: so long after one, the others have been made too.
const SETTLE: Duration = Duration::from_millis(100);

/// So many times as long as a reading took is the pause before the next: an application that changes the
/// schema all the time must not keep its primary busy with us.
const PAUSES: u32 = 10;

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

/// What was read last.
struct Known {
    fingerprint: Fingerprint,
    survey: Arc<Survey>,
    /// What the operator had declared when it was published.
    declared: (Vec<String>, Vec<String>),
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
        let began = Instant::now();
        let primary = occasion.primary.map(|(host, _)| host);
        if let Some(login) = primary.and_then(|host| current.logins.get(host)) {
            // One that takes longer than until the next is given up.
            let read = timeout(interval, read(login, interval, known.as_ref())).await;
            match read.unwrap_or(Err(ReadError::Timeout(interval))) {
                Ok((fingerprint, survey)) => {
                    let (read_only, write) =
                        (&settings.read_only_functions, &settings.write_functions);
                    let now = Known {
                        fingerprint,
                        survey,
                        declared: (read_only.clone(), write.clone()),
                    };
                    publish(&database, &watch, now, &mut known).await;
                }
                Err(error) => {
                    tracing::warn!(%database, why = describe(&error), "catalogue not read");
                    next = interval.min(settings.health_check_interval);
                }
            }
        }
        let pause = SETTLE.max(began.elapsed() * PAUSES);
        tokio::select! {
            () = sleep(next) => {}
            changed = occasions.changed() => match changed {
                Ok(()) => sleep(pause).await,
                Err(_) => return,
            },
            changed = plan.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// What there is now; what is known, where nothing has changed.
async fn read(
    login: &ServerLogin,
    limit: Duration,
    known: Option<&Known>,
) -> Result<(Fingerprint, Arc<Survey>), ReadError> {
    // Given up here, it need not go on there.
    let limit = format!("{}ms", limit.as_millis());
    let settings = [("statement_timeout", limit.as_str())];
    let mut inquiry = Inquiry::open(login, APPLICATION_NAME, &settings).await?;
    let fingerprint = catalogue::fingerprint(&mut inquiry).await?;
    let survey = match known.filter(|known| known.fingerprint == fingerprint) {
        Some(known) => Arc::clone(&known.survey),
        None => Arc::new(catalogue::survey(&mut inquiry).await?),
    };
    Ok((fingerprint, survey))
}

/// Makes the catalogue, which judges every function's body and so is done beside the clients' work. The
/// same again is no news: sessions would look at their statements anew for nothing.
async fn publish(database: &str, watch: &Watch, now: Known, known: &mut Option<Known>) {
    let is_same = |before: &Known| {
        before.survey.digest() == now.survey.digest() && before.declared == now.declared
    };
    if known.as_ref().is_some_and(is_same) {
        *known = Some(now);
        return;
    }
    let survey = Arc::clone(&now.survey);
    let (read_only, write) = now.declared.clone();
    let generation = watch.generation();
    let judged = spawn_blocking(move || {
        let declared = Declared {
            read_only: &read_only,
            write: &write,
        };
        Catalogue::new(generation, &survey, declared)
    });
    let Ok(catalogue) = judged.await else {
        tracing::error!(database, "catalogue not judged: this is a bug");
        return;
    };
    if let Some(why) = catalogue.distrust() {
        tracing::warn!(database, %why, "statements that name anything count as writes");
    }
    let [functions, names, operators] = catalogue.counts();
    tracing::debug!(database, functions, names, operators, "catalogue read");
    watch.set_knowledge(Arc::new(catalogue));
    *known = Some(now);
}
