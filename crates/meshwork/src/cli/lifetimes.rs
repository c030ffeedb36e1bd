//! How long certificates may live: what is too short for them to be renewed in time, and what deserves a word.

use std::time::Duration;

/// The shortest life of workloads' certificates. One is renewed at half of it: what is left has to do for a try that fails,
/// the pause behind that, and another try.
const SHORTEST: Duration = Duration::from_secs(5);
/// The shortest life that a workload may ask for; the control plane takes shorter wishes for this one.
const SHORTEST_WISH: Duration = Duration::from_secs(10);
/// The shortest life of what signs; the authority makes none that ends sooner.
const SHORTEST_SIGNER: Duration = Duration::from_secs(10);
/// What lives longer makes a stolen key, and a rotation that waits for somebody who is gone, last for longer than people
/// look after either.
const LONG: Duration = Duration::from_hours(7 * 24);

/// Parses the longest life of workloads' certificates.
pub(super) fn svid(text: &str) -> Result<Duration, String> {
    at_least(text, SHORTEST, "certificates are renewed at half of their life, which takes time; 24h is usual")
}

/// Parses the life that a workload asks for.
pub(super) fn wish(text: &str) -> Result<Duration, String> {
    at_least(text, SHORTEST_WISH, "the control plane signs none that live for less; 24h is usual")
}

/// Parses the life of a root or an intermediate.
pub(super) fn signer(text: &str) -> Result<Duration, String> {
    at_least(text, SHORTEST_SIGNER, "what it signs ends with it")
}

fn at_least(text: &str, shortest: Duration, why: &str) -> Result<Duration, String> {
    let found = super::duration(text)?;
    if found >= shortest {
        return Ok(found);
    }
    Err(format!("expected {} at least: {why}", words(shortest)))
}

/// What there is to say of workloads' certificates that live for so long.
pub(super) fn long(svid: Duration) -> Option<String> {
    let life = words(svid);
    (svid > LONG).then(|| {
        format!(
            "workloads' certificates live for {life}: so long a stolen key is good, and after a restart `meshwork ca rotate` \
             waits for those that are gone; they renew by themselves, and 24h is usual"
        )
    })
}

/// Why certificates live for less than they are said to: nothing outlives what has signed it, and an intermediate is
/// replaced at half of its life.
pub(super) fn cut(svid: Duration, intermediate: Duration, root: Duration) -> Option<String> {
    let (left, signer) = if intermediate > root {
        (root, "--root-lifetime")
    } else {
        (intermediate / 2, "--intermediate-lifetime")
    };
    let is_cut = svid > left || intermediate > root;
    is_cut.then(|| {
        format!(
            "{signer} is too short for what it signs, which ends with it: an intermediate lives for {} under a root of {}, \
             is replaced at half of that, and signs certificates of {}",
            words(intermediate),
            words(root),
            words(svid)
        )
    })
}

/// A duration as arguments have it, in the largest unit in which it is whole.
fn words(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    let whole = units.into_iter().find(|(size, _)| milliseconds.is_multiple_of(*size));
    whole.map_or_else(String::new, |(size, unit)| format!("{}{unit}", milliseconds / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);

    #[test]
    fn what_is_too_short_is_refused_with_the_shortest() {
        let check = |found: Result<Duration, String>, expected: Result<u64, &str>| match (found, expected) {
            (Ok(found), Ok(seconds)) => assert_eq!(found, Duration::from_secs(seconds)),
            (Err(error), Err(words)) => assert!(error.contains(words), "{error}"),
            (found, expected) => panic!("{found:?} in place of {expected:?}"),
        };
        check(svid("5s"), Ok(5));
        check(svid("24h"), Ok(86_400));
        check(svid("1s"), Err("expected 5s at least: certificates are renewed"));
        check(svid("0h"), Err("expected 5s at least"));
        check(svid("4999ms"), Err("expected 5s at least"));
        check(svid("soon"), Err("is not a duration"));
        check(wish("10s"), Ok(10));
        check(wish("9s"), Err("expected 10s at least"));
        check(signer("10s"), Ok(10));
        check(signer("1s"), Err("expected 10s at least: what it signs"));
    }

    #[test]
    fn what_is_very_long_gets_a_word() {
        assert_eq!(long(24 * HOUR), None);
        assert_eq!(long(168 * HOUR), None);
        let said = long(2160 * HOUR).expect("a word");
        assert!(said.contains("live for 2160h") && said.contains("24h is usual"), "{said}");
    }

    #[test]
    fn what_ends_with_its_signer_is_told() {
        let check = |svid: u32, intermediate: u32, root: u32, expected: Option<&str>| {
            let found = cut(svid * HOUR, intermediate * HOUR, root * HOUR);
            let flag = found.as_deref().and_then(|text| text.split_once(' ')).map(|(flag, _)| flag);
            assert_eq!(flag, expected, "{found:?}");
        };
        check(24, 2160, 87_600, None);
        check(12, 24, 24, None);
        check(13, 24, 240, Some("--intermediate-lifetime"));
        check(1, 24, 12, Some("--root-lifetime"));
    }

    #[test]
    fn durations_are_told_in_their_largest_unit() {
        for (milliseconds, expected) in
            [(86_400_000, "24h"), (90_000, "90s"), (120_000, "2m"), (1_500, "1500ms")]
        {
            assert_eq!(words(Duration::from_millis(milliseconds)), expected);
        }
    }
}
