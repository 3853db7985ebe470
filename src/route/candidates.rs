//! Which hosts may serve a unit of work, and what keeps the others from it: for people who ask why.
//!
//! Decides nothing. It asks what [`super::decide()`] asks of each host, so that the two cannot differ.

use super::{
    HostState, Policy, Question, Reason, Topology,
    decide::{Candidate, MAX_HOSTS, Need, Search},
};
use crate::config::{Consistency, RouteTo};

/// What a host is to a unit of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidacy {
    /// It may serve it.
    Eligible,
    /// Only the primary may, for this reason.
    PrimaryOnly(Reason),
    /// It is a replica that has not come far enough.
    Behind(Reason),
    /// It does not serve reads at all, being what it is.
    State(HostState),
    /// It does not serve reads at all: its weight is 0.
    NoWeight,
    /// It has just failed at this very unit.
    Failed,
}

/// What each host is to the unit, in the order of the topology.
pub fn candidates(
    question: &Question<'_>,
    policy: &Policy<'_>,
    topology: &Topology,
) -> Vec<Candidacy> {
    let search = Search::new(question, policy, topology);
    let only = primary_only(question);
    let of = |(id, host)| match only {
        Some(_) if topology.primary() == Some(id) => Candidacy::Eligible,
        Some(reason) => Candidacy::PrimaryOnly(reason),
        None => of_read(&search, question, Candidate::of(id, host)),
    };
    let hosts = topology.hosts().iter().enumerate();
    hosts.take(MAX_HOSTS).map(of).collect()
}

/// Why nothing but the primary will do, if so.
fn primary_only(question: &Question<'_>) -> Option<Reason> {
    let wishes = question.wishes;
    match (wishes.route, question.need) {
        (RouteTo::Primary, _) => Some(wishes.reason()),
        (RouteTo::Auto, Need::Primary(reason)) => Some(reason),
        _ if wishes.consistency == Consistency::Primary => Some(Reason::Consistency),
        _ if question.is_strong_throughout() => Some(Reason::Strong),
        _ => None,
    }
}

fn of_read(search: &Search<'_>, question: &Question<'_>, candidate: Candidate<'_>) -> Candidacy {
    let state = candidate.host.state();
    if search.may_serve(candidate) {
        Candidacy::Eligible
    } else if candidate.host.weight == 0 {
        Candidacy::NoWeight
    } else if state != HostState::Replica {
        Candidacy::State(state)
    } else if question.avoid == Some(candidate.visit.host) {
        Candidacy::Failed
    } else {
        let obstacle = search.obstacle(candidate);
        obstacle.map_or(Candidacy::Eligible, |it| Candidacy::Behind(it.reason))
    }
}
