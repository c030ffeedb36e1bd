//! What control planes know of those who have certificates, put together: what a rotation's proof is made of.

use std::collections::{BTreeMap, BTreeSet};

use super::held::Holding;
use super::rotation::{Facts, Holder, Presence, Replica};

/// Clocks of hosts differ by less.
const SKEW: i64 = 60;

/// Somebody who has a certificate, as one control plane knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// `NAMESPACE/NAME`; for a workload of an agent, with its identity.
    pub(super) name: String,
    pub(super) presence: Presence,
    /// The roots that it acknowledged to trust.
    pub(super) trusts: BTreeSet<String>,
    /// What it may hold; none where nothing is known.
    pub(super) holding: Option<Holding>,
}

/// What one control plane says of itself, and of its peers.
#[derive(Clone, Debug)]
pub(super) struct Story {
    pub(super) replica: Replica,
    /// When it began to run, in seconds since 1970.
    pub(super) started: i64,
    pub(super) known: Vec<Known>,
    /// Those whose streams others have: what is known of them until these say more.
    pub(super) elsewhere: Vec<Known>,
}

/// Puts together what control planes say, now. `lifetime` is the longest life of a certificate, in seconds.
pub(super) fn facts(stories: Vec<Story>, lifetime: i64, now: i64) -> Facts {
    // Of what was signed by a process that runs no more, nobody is left to tell.
    let told_since = stories.iter().map(|story| story.started).max().unwrap_or_default();
    let bound = told_since + lifetime + SKEW;
    let mut replicas = Vec::new();
    let mut all: BTreeMap<String, Known> = BTreeMap::new();
    for story in stories {
        replicas.push(story.replica);
        for known in story.known.into_iter().chain(story.elsewhere) {
            let both = match all.remove(&known.name) {
                Some(earlier) => both(earlier, known),
                None => known,
            };
            all.insert(both.name.clone(), both);
        }
    }
    let holders = all.into_values().map(|known| holder(known, told_since, bound)).collect();
    Facts { replicas, holders, tokens: BTreeMap::new(), now }
}

fn holder(known: Known, told_since: i64, bound: i64) -> Holder {
    let Known { name, presence, trusts, holding } = known;
    let (root, ends) = match holding {
        // Its stream tells what it shows.
        Some(holding) if is_connected(&presence) => (holding.root, holding.ends),
        Some(holding) if holding.shown.max(holding.issued) >= told_since => (holding.root, holding.ends),
        Some(holding) => (None, holding.ends.max(bound)),
        None => (None, bound),
    };
    Holder { name, presence, trusts, root, ends }
}

fn is_connected(presence: &Presence) -> bool {
    matches!(presence, Presence::Follows { .. } | Presence::Unfollowing)
}

/// What two control planes know of one. Where they contradict each other, what proves less counts.
fn both(a: Known, b: Known) -> Known {
    use Presence::{Delegated, Follows, Offline, Unfollowing};
    match (&a.presence, &b.presence) {
        (Delegated, _) | (_, Delegated) => {
            if issued(&a) >= issued(&b) {
                a
            } else {
                b
            }
        }
        (Follows { .. }, Follows { .. }) => Known {
            trusts: a.trusts.intersection(&b.trusts).cloned().collect(),
            holding: both_held(a.holding, b.holding, false),
            ..a
        },
        (Offline { since: of_a }, Offline { since: of_b }) => {
            let (since, trusts) = if of_a >= of_b { (*of_a, a.trusts) } else { (*of_b, b.trusts) };
            let holding = both_held(a.holding, b.holding, true);
            Known { name: a.name, presence: Offline { since }, trusts, holding }
        }
        (Unfollowing, _) | (Follows { .. }, Offline { .. }) => a,
        (_, Unfollowing) | (Offline { .. }, Follows { .. }) => b,
    }
}

fn issued(known: &Known) -> i64 {
    known.holding.as_ref().map_or(0, |holding| holding.issued)
}

/// What somebody may hold of whom two know. What was shown at one has put an end to all that was signed before, wherever.
fn both_held(a: Option<Holding>, b: Option<Holding>, may_supersede: bool) -> Option<Holding> {
    let (Some(a), Some(b)) = (a.clone(), b.clone()) else { return a.or(b) };
    let last = |holding: &Holding| holding.issued.max(holding.shown);
    if may_supersede && a.shown > last(&b) {
        return Some(a);
    }
    if may_supersede && b.shown > last(&a) {
        return Some(b);
    }
    let root = a.root.clone().filter(|root| b.root.as_ref() == Some(root));
    Some(Holding {
        root,
        ends: a.ends.max(b.ends),
        shown: a.shown.max(b.shown),
        issued: a.issued.max(b.issued),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::rotation::Said;

    const FOLLOWS: Presence = Presence::Follows { refusal: None };

    fn known(presence: Presence, trusts: &[&str], holding: Option<(&str, i64, i64, i64)>) -> Known {
        let holding = holding.map(|(root, ends, shown, issued)| Holding {
            root: Some(root.to_owned()),
            ends,
            shown,
            issued,
        });
        let trusts = trusts.iter().map(|&root| root.to_owned()).collect();
        Known { name: "shop/web".to_owned(), presence, trusts, holding }
    }

    fn story(started: i64, known: Vec<Known>) -> Story {
        let replica = Replica { name: "r".to_owned(), said: Some(Said::default()) };
        Story { replica, started, known, elsewhere: Vec::new() }
    }

    /// Presence, trusted roots, root and end of the one that is known.
    #[expect(clippy::needless_pass_by_value, reason = "cases are written at the call")]
    fn check(stories: Vec<Story>, expected: (Presence, &[&str], Option<&str>, i64)) {
        let facts = facts(stories, 1_000, 50);
        assert_eq!(facts.holders.len(), 1);
        let holder = &facts.holders[0];
        let trusts: Vec<&str> = holder.trusts.iter().map(String::as_str).collect();
        assert_eq!((holder.presence.clone(), &*trusts, holder.root.as_deref(), holder.ends), expected);
    }

    fn offline(since: i64) -> Presence {
        Presence::Offline { since: Some(since) }
    }

    #[test]
    fn what_nobody_knows_has_ended_when_everything_has() {
        check(vec![story(10, vec![known(offline(5), &[], None)])], (offline(5), &[], None, 1_070));
        let of_before = known(offline(20), &["a"], Some(("a", 500, 15, 15)));
        check(vec![story(10, vec![of_before.clone()])], (offline(20), &["a"], Some("a"), 500));
        // Another control plane was started since, which may have signed before.
        let stories = vec![story(10, vec![of_before]), story(30, Vec::new())];
        check(stories, (offline(20), &["a"], None, 1_090));
    }

    #[test]
    fn who_is_connected_somewhere_is_connected() {
        let stories = |presence| {
            let gone = known(offline(20), &["a"], Some(("a", 500, 20, 15)));
            vec![story(1, vec![gone]), story(1, vec![known(presence, &["a", "b"], Some(("b", 900, 30, 25)))])]
        };
        check(stories(FOLLOWS), (FOLLOWS, &["a", "b"], Some("b"), 900));
        let unfollowing = || Presence::Unfollowing;
        check(stories(unfollowing()), (unfollowing(), &["a", "b"], Some("b"), 900));
        // Its streams at two: while it moves, what proves less counts.
        let both = |a: &str, trusts: &[&str]| known(FOLLOWS, trusts, Some((a, 900, 30, 25)));
        let stories = vec![story(1, vec![both("a", &["a"])]), story(1, vec![both("b", &["a", "b"])])];
        check(stories, (FOLLOWS, &["a"], None, 900));
    }

    #[test]
    fn who_is_said_to_be_elsewhere_and_is_not_told_of_there_is_not_passed_over() {
        let elsewhere = Story { elsewhere: vec![known(offline(0), &[], None)], ..story(1, Vec::new()) };
        check(vec![elsewhere.clone(), story(1, Vec::new())], (offline(0), &[], None, 1_061));
        let there = known(FOLLOWS, &["a"], Some(("a", 900, 30, 25)));
        check(vec![elsewhere, story(1, vec![there])], (FOLLOWS, &["a"], Some("a"), 900));
    }

    #[test]
    fn what_was_shown_last_puts_an_end_to_what_was_signed_before() {
        let gone = |since, holding| known(offline(since), &["a"], Some(holding));
        let here = gone(20, ("a", 500, 10, 10));
        let there = gone(40, ("b", 900, 35, 30));
        let ends = (offline(40), &["a"][..], Some("b"), 900);
        check(vec![story(1, vec![here.clone()]), story(1, vec![there.clone()])], ends.clone());
        check(vec![story(1, vec![there.clone()]), story(1, vec![here])], ends);
        // Signed after that, and never shown: it may hold either.
        let later = gone(20, ("a", 950, 10, 36));
        check(vec![story(1, vec![later]), story(1, vec![there])], (offline(40), &["a"], None, 950));
    }

    #[test]
    fn of_what_an_agent_holds_the_last_counts() {
        let of = |root, issued| known(Presence::Delegated, &[], Some((root, 900, 0, issued)));
        let expected = (Presence::Delegated, &[][..], Some("b"), 900);
        check(vec![story(1, vec![of("a", 10)]), story(1, vec![of("b", 20)])], expected.clone());
        check(vec![story(1, vec![of("b", 20)]), story(1, vec![of("a", 10)])], expected);
    }
}
