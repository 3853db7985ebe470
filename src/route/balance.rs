//! Which of several hosts that would all do.
//!
//! Pure: chance comes in as a number. A host that starts slowly, or has a smaller weight, is passed over
//! in proportion where the rule itself does not look at weights.

use std::iter;

use super::{Host, HostId, MAX_HOSTS, topology::FULL_SHARE};
use crate::config::LoadBalance;

/// What the choice depends on besides the hosts.
#[derive(Clone, Copy, Debug)]
pub struct Chance {
    /// A number that differs from decision to decision; for `round_robin` one that counts them.
    pub turn: u64,
    /// A random number.
    pub dice: u64,
    /// A number that is the same for the same client address.
    pub client: u64,
}

/// Some of the hosts, a bit for each.
#[derive(Clone, Copy, Debug, Default)]
pub struct SomeHosts(u32);

const _: () = assert!(MAX_HOSTS <= u32::BITS as usize);

impl SomeHosts {
    /// Adds one of the first [`MAX_HOSTS`].
    #[inline]
    pub fn insert(&mut self, id: HostId) {
        debug_assert!(id < MAX_HOSTS, "a database has no more servers");
        self.0 |= 1 << id;
    }

    fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// In the order of their numbers.
    fn iter(self) -> impl Iterator<Item = HostId> + Clone {
        let without_lowest = |bits: &u32| Some(bits & (bits - 1)).filter(|bits| *bits != 0);
        let first = Some(self.0).filter(|bits| *bits != 0);
        iter::successors(first, without_lowest).map(|bits| bits.trailing_zeros() as HostId)
    }

    /// The one at this place among them, of which there are more.
    fn at(self, place: usize) -> HostId {
        self.iter().nth(place).unwrap_or_default()
    }
}

/// Picks one of `eligible`, which are indices into `hosts`; `None` if there is none.
pub fn pick(
    rule: LoadBalance,
    hosts: &[Host],
    eligible: SomeHosts,
    chance: Chance,
) -> Option<HostId> {
    if eligible.len() <= 1 {
        return eligible.iter().next();
    }
    // Those that start slowly take part by chance only; if that leaves none, all do.
    let mut started = SomeHosts::default();
    for id in eligible.iter() {
        let share = hosts[id].share();
        let number = || mix(chance.dice, SHARE + id) % u64::from(FULL_SHARE);
        if share == FULL_SHARE || number() < u64::from(share) {
            started.insert(id);
        }
    }
    let eligible = match started.len() {
        0 => eligible,
        1 => return Some(started.at(0)),
        _ => started,
    };
    let chosen = match rule {
        LoadBalance::RoundRobin => eligible.at(below(chance.turn, eligible.len())),
        LoadBalance::Random => eligible.at(below(mix(chance.dice, 1), eligible.len())),
        LoadBalance::LeastConnections => least_active(hosts, eligible, chance.turn),
        LoadBalance::Weighted => weighted(hosts, eligible, mix(chance.dice, 2)),
        LoadBalance::ClientHash => highest_hash(eligible, chance.client),
        LoadBalance::Latency => faster_of_two(hosts, eligible, chance.dice),
    };
    Some(chosen)
}

/// The salts of the shares begin here: a host that was let in by a number must not be passed over by
/// the same number.
const SHARE: usize = 8;

/// A number below `count`.
fn below(number: u64, count: usize) -> usize {
    usize::try_from(number % count as u64).unwrap_or(0)
}

/// Spreads the bits of a number and a salt (the finalizer of `SplitMix64`).
fn mix(number: u64, salt: usize) -> u64 {
    let mut z = number.wrapping_add((salt as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The one with the fewest units of work under way for its weight; among equals, in turn.
fn least_active(hosts: &[Host], eligible: SomeHosts, turn: u64) -> HostId {
    let start = below(turn, eligible.len());
    let in_turn = eligible
        .iter()
        .skip(start)
        .chain(eligible.iter().take(start));
    let load = |id: HostId| (hosts[id].active(), u64::from(hosts[id].weight.max(1)));
    let lesser = |best: HostId, other: HostId| {
        let ((mine, weight), (others, its_weight)) = (load(best), load(other));
        // As fractions.
        if others * weight < mine * its_weight {
            other
        } else {
            best
        }
    };
    in_turn.reduce(lesser).unwrap_or_default()
}

fn weighted(hosts: &[Host], eligible: SomeHosts, dice: u64) -> HostId {
    let weight = |id: HostId| u64::from(hosts[id].weight);
    let total: u64 = eligible.iter().map(weight).sum();
    let mut left = dice % total.max(1);
    for id in eligible.iter() {
        if left < weight(id) {
            return id;
        }
        left -= weight(id);
    }
    eligible.at(0)
}

/// Rendezvous hashing: when a host goes, only its own clients move.
fn highest_hash(eligible: SomeHosts, client: u64) -> HostId {
    let highest = eligible.iter().max_by_key(|id| mix(client, *id));
    highest.unwrap_or_default()
}

/// Power of two choices over smoothed latency and the work under way: the slow one is avoided, and yet
/// no herd runs to the fast one.
fn faster_of_two(hosts: &[Host], eligible: SomeHosts, dice: u64) -> HostId {
    let first = below(mix(dice, 3), eligible.len());
    let other = (first + 1 + below(mix(dice, 4), eligible.len() - 1)) % eligible.len();
    let cost = |id: HostId| hosts[id].latency().max(1) * (hosts[id].active() + 1);
    let (first, other) = (eligible.at(first), eligible.at(other));
    if cost(other) < cost(first) {
        other
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;

    fn hosts(weights: &[u32]) -> Vec<Host> {
        let host = |weight: &u32| Host::new("h", Role::Replica, *weight, None);
        weights.iter().map(host).collect()
    }

    fn some(ids: &[HostId]) -> SomeHosts {
        let mut some = SomeHosts::default();
        ids.iter().for_each(|id| some.insert(*id));
        some
    }

    fn shares(rule: LoadBalance, hosts: &[Host], eligible: &[HostId]) -> Vec<u32> {
        let mut counts = vec![0; hosts.len()];
        for turn in 0..4000 {
            let chance = Chance {
                turn,
                dice: mix(turn, 77),
                client: mix(turn, 99),
            };
            counts[pick(rule, hosts, some(eligible), chance).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn nothing_is_picked_from_nothing() {
        let chance = Chance {
            turn: 0,
            dice: 0,
            client: 0,
        };
        for rule in [
            LoadBalance::Latency,
            LoadBalance::Weighted,
            LoadBalance::RoundRobin,
        ] {
            assert_eq!(pick(rule, &hosts(&[1]), some(&[]), chance), None);
            assert_eq!(pick(rule, &hosts(&[1, 1]), some(&[1]), chance), Some(1));
        }
    }

    #[test]
    fn every_rule_spreads_over_equals_and_stays_with_the_eligible() {
        for rule in LoadBalance::WORDS
            .iter()
            .filter_map(|word| LoadBalance::from_word(word))
        {
            let counts = shares(rule, &hosts(&[1, 1, 1, 1]), &[0, 2, 3]);
            assert_eq!(counts[1], 0, "{rule}");
            for id in [0, 2, 3] {
                assert!((1000..1700).contains(&counts[id]), "{rule}: {counts:?}");
            }
        }
    }

    #[test]
    fn weights_count() {
        let counts = shares(LoadBalance::Weighted, &hosts(&[1, 3]), &[0, 1]);
        assert!((800..1200).contains(&counts[0]), "{counts:?}");
        let hosts = hosts(&[1, 4]);
        (0..2).for_each(|_| hosts[0].begin(true));
        (0..4).for_each(|_| hosts[1].begin(true));
        assert_eq!(shares(LoadBalance::LeastConnections, &hosts, &[0, 1])[0], 0);
    }

    #[test]
    fn the_slow_host_is_avoided() {
        let hosts = hosts(&[1, 1, 1]);
        hosts[0].add_latency(10_000);
        hosts[1].add_latency(100);
        hosts[2].add_latency(100);
        assert_eq!(shares(LoadBalance::Latency, &hosts, &[0, 1, 2])[0], 0);
    }

    #[test]
    fn a_client_keeps_its_host_while_that_is_there() {
        let hosts = hosts(&[1, 1, 1]);
        for client in 0..100 {
            let chance = |turn| Chance {
                turn,
                dice: mix(turn, 5),
                client,
            };
            let at = |eligible: &[HostId], turn| {
                pick(
                    LoadBalance::ClientHash,
                    &hosts,
                    some(eligible),
                    chance(turn),
                )
                .unwrap()
            };
            let chosen = at(&[0, 1, 2], 0);
            assert_eq!(at(&[0, 1, 2], 1), chosen);
            let others: Vec<_> = [0, 1, 2].into_iter().filter(|id| *id != chosen).collect();
            let gone = others[0];
            let left: Vec<_> = [0, 1, 2].into_iter().filter(|id| *id != gone).collect();
            assert_eq!(
                at(&left, 2),
                chosen,
                "only the clients of the lost host move"
            );
        }
    }

    #[test]
    fn who_starts_slowly_gets_its_share() {
        let hosts = hosts(&[1, 1]);
        hosts[0].set_share(FULL_SHARE / 10);
        let counts = shares(LoadBalance::Random, &hosts, &[0, 1]);
        assert!((100..320).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn every_rule_can_do_with_the_one_that_does_not_start_slowly() {
        let hosts = hosts(&[1, 1, 1]);
        hosts[0].set_share(0);
        hosts[2].set_share(0);
        for rule in LoadBalance::WORDS
            .iter()
            .filter_map(|word| LoadBalance::from_word(word))
        {
            assert_eq!(shares(rule, &hosts, &[0, 1, 2]), [0, 4000, 0], "{rule}");
        }
    }

    #[test]
    fn who_starts_slowly_is_not_passed_over_by_weight() {
        let hosts = hosts(&[500, 0, 500]);
        hosts[2].set_share(FULL_SHARE / 2);
        let counts = shares(LoadBalance::Weighted, &hosts, &[0, 2]);
        assert!((800..1200).contains(&counts[2]), "{counts:?}");
    }
}
