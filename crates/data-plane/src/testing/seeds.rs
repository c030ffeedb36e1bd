//! Cases drawn by chance, each from a number that brings it back.

use fastrand::Rng;

/// How many cases to run; the soak asks for more than the default.
const CASES: &str = "MESHWORK_CASES";
/// The first case's number.
const SEED: &str = "MESHWORK_SEED";

/// Says the number of a case that panics.
struct Running {
    name: &'static str,
    seed: u64,
}

/// Runs `cases` cases, or as many as the environment says, from the number that it says.
pub(crate) fn for_each_seed(name: &'static str, cases: u64, case: impl Fn(u64, &mut Rng)) {
    let asked = |variable| std::env::var(variable).ok().and_then(|number| number.parse::<u64>().ok());
    let first = asked(SEED).unwrap_or(0);
    for seed in first..first + asked(CASES).unwrap_or(cases) {
        let running = Running { name, seed };
        case(seed, &mut Rng::with_seed(seed));
        drop(running);
    }
}

/// Bytes in which no piece can be lost, doubled or moved unseen.
pub(crate) fn bytes(random: &mut Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    random.fill(&mut bytes);
    bytes
}

/// One of these.
pub(crate) fn one<T, const N: usize>(random: &mut Rng, of: [T; N]) -> T {
    random.choice(of).expect("one at least")
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: repeat by {SEED}={} {CASES}=1", self.name, self.seed);
        }
    }
}
