//! `pick`: which endpoint of a cluster takes the next request.
//!
//! A [`Plan`] is all that can be known ahead: who is healthy, which part of the load each priority gets, hash rings and
//! tables, subsets. It is built when endpoints or their health change, once for all workers. A [`Worker`] is what one
//! worker keeps besides: whose turn it is, and how many requests each endpoint has under way.
//!
//! Source for everything here: Envoy, "Load balancing".

mod edf;
mod load;
mod murmur;
mod subset;
mod table;
#[cfg(test)]
mod tests;

use self::edf::Edf;
use self::load::{Availability, Load};
use self::subset::Index;
use self::table::Table;
use crate::proxy::{Balancing, Criterion, Endpoint, Fallback, Health, LeastRequest, LoadPolicy, Spread};

/// An endpoint as balancing sees it.
#[derive(Clone, Copy, Debug)]
pub struct Member<'e> {
    /// What config says of it.
    pub endpoint: &'e Endpoint,
    /// Healthy, degraded or unhealthy, all told.
    pub health: Health,
    /// Whether it does not even count.
    pub is_excluded: bool,
}

/// Everything about a cluster's endpoints that can be known ahead of a request. Endpoints are meant by their index.
#[derive(Debug, Default)]
pub struct Plan {
    method: Method,
    fails_in_panic: bool,
    /// The first is that of all endpoints; the others are subsets.
    groups: Vec<Group>,
    subsets: Option<Index>,
    /// How many sources there are in all groups.
    sources: usize,
    weights: Vec<u32>,
}

/// How one is picked of many that are alike.
#[derive(Clone, Copy, Debug, Default)]
enum Method {
    #[default]
    Turn,
    Chance,
    Least(LeastRequest),
    Hash,
}

/// Endpoints that may be picked for the same request.
#[derive(Debug)]
struct Group {
    levels: Vec<Level>,
    load: Load,
}

/// The endpoints of one priority.
#[derive(Debug)]
struct Level {
    is_panicking: bool,
    all: Source,
    healthy: Source,
    degraded: Source,
    /// Localities that are healthy and that are degraded, where load is spread over localities.
    localities: [Option<Localities>; 2],
    table: Option<Table>,
}

/// Endpoints of which one is picked.
#[derive(Debug)]
struct Source {
    /// Its number, by which workers keep their state.
    id: usize,
    members: Vec<u32>,
    /// Whether weights differ.
    is_weighted: bool,
}

/// Localities by the weight they have now.
#[derive(Debug)]
struct Localities {
    /// The number of the scheduler.
    id: usize,
    sources: Vec<Source>,
    weights: Vec<f64>,
}

/// What one worker knows of one cluster's endpoints. Nothing is shared among workers.
#[derive(Clone, Debug, Default)]
pub struct Worker {
    /// Requests in flight per endpoint, by its index.
    pub active: Vec<u32>,
    /// What it knows of each source, once one was picked of it.
    sources: Vec<Turn>,
}

/// Where picking goes on.
#[derive(Clone, Debug, Default)]
enum Turn {
    /// Nothing was picked yet.
    #[default]
    New,
    /// At this one.
    Next(usize),
    /// By weights.
    Weighted(Edf),
}

/// What a request brings to a pick.
pub struct Context<'c> {
    /// The hash that it is placed by.
    pub hash: Option<u64>,
    /// The subset that it asks for: sorted by key, each once.
    pub subset: &'c [Criterion],
    /// Whether an endpoint is to be avoided.
    pub avoid: Option<&'c dyn Fn(usize) -> bool>,
    /// How often another is picked in the place of one that is to be avoided. Then it is taken all the same, but
    /// `u32::MAX` takes any other before that.
    pub again: u32,
    /// Uniformly drawn; everything that is left to chance follows from it.
    pub random: u64,
}

/// Random numbers that follow from one. Source: `SplitMix64`.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..count`, without a division. Source: Lemire, "Fast Random Integer Generation".
    fn below(&mut self, count: usize) -> usize {
        let high = (u128::from(self.next()) * count as u128) >> 64;
        usize::try_from(high).unwrap_or(0)
    }
}

// === impl Plan ===

impl Plan {
    /// Plans how `members` share the load.
    pub fn new(balancing: Balancing, spread: &Spread, policy: &LoadPolicy, members: &[Member<'_>]) -> Self {
        let mut plan = Self {
            method: match balancing {
                Balancing::RoundRobin(_) => Method::Turn,
                Balancing::Random => Method::Chance,
                Balancing::LeastRequest(options) => Method::Least(options),
                Balancing::RingHash(_) | Balancing::Maglev(_) => Method::Hash,
            },
            fails_in_panic: spread.fails_in_panic,
            groups: Vec::new(),
            subsets: None,
            sources: 0,
            weights: members.iter().map(|member| member.endpoint.weight.max(1)).collect(),
        };
        let mut builder = Builder { balancing, spread, policy, members, sources: 0 };
        let everybody: Vec<u32> = (0..members.len()).map(index).collect();
        plan.groups.push(builder.group(&everybody, true));
        if let Some(subsets) = &spread.subsets {
            let (found, index) = Index::new(subsets, members);
            plan.groups.extend(found.iter().map(|members| builder.group(members, subsets.weighs_localities)));
            plan.subsets = Some(index);
        }
        plan.sources = builder.sources;
        plan
    }

    /// Picks one of a group.
    fn pick_of(&self, group: usize, worker: &mut Worker, context: &Context<'_>) -> Option<usize> {
        let group = self.groups.get(group)?;
        let mut draws = Draws(context.random);
        let hash = match (self.method, context.hash) {
            (Method::Hash, Some(hash)) => Some(hash),
            (Method::Hash, None) => Some(draws.next()),
            _ => None,
        };
        let is_avoided = |picked: usize| context.avoid.is_some_and(|avoid| avoid(picked));
        let mut picked = None;
        for attempt in 0..=context.again.min(MOST_AGAIN) {
            let (level, availability) = group.load.choose(hash.unwrap_or_else(|| draws.next()));
            let level = group.levels.get(level)?;
            picked = Some(match (&level.table, hash) {
                (Some(table), Some(hash)) => table.pick(hash, attempt, &worker.active)?,
                _ => self.pick_in(level, availability, worker, &mut draws)?,
            });
            if !picked.is_some_and(is_avoided) {
                return picked;
            }
        }
        let any_other = || group.others().find(|other| !is_avoided(*other));
        if context.again == u32::MAX { any_other().or(picked) } else { picked }
    }

    fn pick_in(
        &self,
        level: &Level,
        availability: Availability,
        worker: &mut Worker,
        draws: &mut Draws,
    ) -> Option<usize> {
        if level.is_panicking {
            return if self.fails_in_panic { None } else { self.pick_from(&level.all, worker, draws) };
        }
        if let Some(localities) = &level.localities[availability as usize] {
            let turn = worker.turn(localities.id);
            let seed = draws.next();
            let chosen = turn.weighted(seed, &localities.weights).pick(|at| localities.weights[at])?;
            return self.pick_from(&localities.sources[chosen], worker, draws);
        }
        let source = match availability {
            Availability::Healthy => &level.healthy,
            Availability::Degraded => &level.degraded,
        };
        self.pick_from(source, worker, draws)
    }

    fn pick_from(&self, source: &Source, worker: &mut Worker, draws: &mut Draws) -> Option<usize> {
        let members = &source.members;
        if members.is_empty() {
            return None;
        }
        let at = match self.method {
            Method::Chance | Method::Hash => draws.below(members.len()),
            Method::Turn | Method::Least(_) if source.is_weighted => self.by_weight(source, worker, draws)?,
            Method::Turn => worker.turn(source.id).next(members.len(), draws),
            Method::Least(options) if options.is_full_scan => {
                least(members, &worker.active, 0..members.len(), Some(draws))
            }
            Method::Least(options) => {
                let choices = (0..options.choices.clamp(1, MOST_CHOICES)).map(|_| draws.below(members.len()));
                least(members, &worker.active, choices, None)
            }
        };
        members.get(at).map(|member| *member as usize)
    }

    fn by_weight(&self, source: &Source, worker: &mut Worker, draws: &mut Draws) -> Option<usize> {
        let Worker { active, sources } = worker;
        let bias = if let Method::Least(options) = self.method { options.bias } else { 0.0 };
        let weight = |at: usize| {
            let member = source.members[at] as usize;
            let weight = f64::from(self.weights[member]);
            let load = f64::from(active.get(member).copied().unwrap_or(0)) + 1.0;
            if bias == 0.0 { weight } else { weight / load.powf(bias) }
        };
        let turn = turn(sources, source.id);
        if !matches!(turn, Turn::Weighted(_)) {
            *turn = Turn::Weighted(Edf::new(draws.next(), source.members.len(), weight));
        }
        match turn {
            Turn::Weighted(edf) => edf.pick(weight),
            Turn::New | Turn::Next(_) => None,
        }
    }
}

/// The most that a request may have another picked.
const MOST_AGAIN: u32 = 16;
/// The most that are compared by `choice_count`.
const MOST_CHOICES: u32 = 64;

/// The index of the one with the fewest requests; of several, the first, or one by chance.
fn least(
    members: &[u32],
    active: &[u32],
    among: impl Iterator<Item = usize>,
    mut draws: Option<&mut Draws>,
) -> usize {
    let load = |at: usize| active.get(members[at] as usize).copied().unwrap_or(0);
    let (mut best, mut ties) = (None, 0);
    for at in among {
        let Some(so_far) = best else {
            (best, ties) = (Some(at), 1);
            continue;
        };
        if load(at) < load(so_far) {
            (best, ties) = (Some(at), 1);
        } else if load(at) == load(so_far)
            && let Some(draws) = &mut draws
        {
            ties += 1;
            if draws.below(ties) == 0 {
                best = Some(at);
            }
        }
    }
    best.unwrap_or(0)
}

/// Picks an endpoint's index; `None` where there is none.
pub fn pick(plan: &Plan, worker: &mut Worker, context: &Context<'_>) -> Option<usize> {
    let Some(index) = &plan.subsets else { return plan.pick_of(0, worker, context) };
    let mut wanted = context.subset;
    let mut fewer: Vec<Criterion>;
    // Each selector may lead to another once.
    for _ in 0..=index.selectors() {
        if let Some(group) = index.find(wanted) {
            return plan.pick_of(group, worker, context);
        }
        let (fallback, keys) = index.fallback_of(wanted);
        match fallback {
            Some(Fallback::Nobody) => return None,
            Some(Fallback::Any) => return plan.pick_of(0, worker, context),
            Some(Fallback::Default) => return plan.pick_of(index.default_group()?, worker, context),
            Some(Fallback::Keys) => {
                fewer = wanted.iter().filter(|(key, _)| keys.contains(key)).cloned().collect();
                wanted = &fewer;
            }
            None => {
                let fallback = index.cluster_fallback();
                let picked = fallback.and_then(|group| plan.pick_of(group, worker, context));
                let panics = fallback.is_some() && index.any_in_panic();
                return picked.or_else(|| if panics { plan.pick_of(0, worker, context) } else { None });
            }
        }
    }
    None
}

#[expect(clippy::cast_precision_loss, reason = "clusters are far smaller than 2^52 endpoints")]
fn number(count: usize) -> f64 {
    count as f64
}

fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

// === impl Group ===

impl Group {
    /// Whoever may be picked, best first.
    fn others(&self) -> impl Iterator<Item = usize> {
        let of = |level: &Level| {
            if level.is_panicking {
                level.all.members.clone()
            } else {
                [&level.healthy.members[..], &level.degraded.members[..]].concat()
            }
        };
        self.levels.iter().flat_map(of).map(|member| member as usize)
    }
}

// === impl Worker ===

impl Worker {
    /// The worker's state under another plan: requests under way per endpoint stay to be filled in.
    pub fn take_over(&mut self, plan: &Plan) {
        self.sources.clear();
        self.sources.resize(plan.sources, Turn::New);
    }

    fn turn(&mut self, id: usize) -> &mut Turn {
        turn(&mut self.sources, id)
    }
}

fn turn(sources: &mut Vec<Turn>, id: usize) -> &mut Turn {
    if sources.len() <= id {
        sources.resize(id + 1, Turn::New);
    }
    &mut sources[id]
}

impl Turn {
    /// The next in turn; the first one is drawn, so that workers do not go in step.
    fn next(&mut self, count: usize, draws: &mut Draws) -> usize {
        let at = match self {
            Self::Next(at) => *at % count,
            Self::New | Self::Weighted(_) => draws.below(count),
        };
        *self = Self::Next(at + 1);
        at
    }

    fn weighted(&mut self, seed: u64, weights: &[f64]) -> &mut Edf {
        if !matches!(self, Self::Weighted(_)) {
            *self = Self::Weighted(Edf::new(seed, weights.len(), |at| weights[at]));
        }
        match self {
            Self::Weighted(edf) => edf,
            Self::New | Self::Next(_) => unreachable!("it was made weighted above"),
        }
    }
}

// === building ===

struct Builder<'b> {
    balancing: Balancing,
    spread: &'b Spread,
    policy: &'b LoadPolicy,
    members: &'b [Member<'b>],
    sources: usize,
}

impl Builder<'_> {
    fn group(&mut self, members: &[u32], weighs_localities: bool) -> Group {
        let count = members.iter().map(|member| self.member(*member).endpoint.place.priority + 1).max();
        let mut levels = Vec::new();
        let mut stands = Vec::new();
        for priority in 0..count.unwrap_or(1) {
            let of_level: Vec<u32> = members
                .iter()
                .copied()
                .filter(|member| self.member(*member).endpoint.place.priority == priority)
                .collect();
            stands.push(load::Stand::of(of_level.iter().map(|at| self.member(*at)), self.policy));
            levels.push(of_level);
        }
        let (load, panics) = Load::share(&stands, self.spread.panic_threshold);
        let levels = levels.iter().zip(panics);
        let levels = levels.map(|(members, panic)| self.level(members, panic, weighs_localities)).collect();
        Group { levels, load }
    }

    fn member(&self, at: u32) -> &Member<'_> {
        &self.members[at as usize]
    }

    fn level(&mut self, members: &[u32], is_panicking: bool, weighs_localities: bool) -> Level {
        let with = |health: Health| -> Vec<u32> {
            members.iter().copied().filter(|at| self.member(*at).health == health).collect()
        };
        let (healthy, degraded) = (with(Health::Healthy), with(Health::Degraded));
        let by_locality = self.spread.by_locality && weighs_localities;
        let table = self.table(if is_panicking { members } else { &healthy }, members, by_locality);
        let localities = if by_locality && table.is_none() {
            [Health::Healthy, Health::Degraded].map(|health| self.localities(members, health))
        } else {
            [None, None]
        };
        Level {
            is_panicking,
            all: self.source(members.to_vec()),
            healthy: self.source(healthy),
            degraded: self.source(degraded),
            localities,
            table,
        }
    }

    fn source(&mut self, members: Vec<u32>) -> Source {
        let mut weights = members.iter().map(|at| self.member(*at).endpoint.weight);
        let first = weights.next();
        let is_weighted = weights.any(|weight| Some(weight) != first);
        let id = self.sources;
        self.sources += 1;
        Source { id, members, is_weighted }
    }

    /// The localities of a priority, sorted: all their members, and the weight that config gives them.
    fn by_locality(&self, members: &[u32]) -> Vec<(u32, Vec<u32>)> {
        let mut sorted = std::collections::BTreeMap::new();
        for &at in members {
            let place = &self.member(at).endpoint.place;
            let entry = sorted.entry(&place.locality).or_insert_with(|| (0, Vec::new()));
            entry.0 = place.weight.unwrap_or(0);
            entry.1.push(at);
        }
        let mut all: Vec<_> = sorted.into_values().collect();
        if let Some(subsets) = self.spread.subsets.as_ref().filter(|subsets| subsets.scales_localities) {
            debug_assert!(subsets.weighs_localities, "only then are there weights to scale");
            for (weight, mine) in &mut all {
                *weight = self.scaled(*weight, mine);
            }
        }
        all
    }

    /// A locality's weight in a subset that has some of its members.
    fn scaled(&self, weight: u32, mine: &[u32]) -> u32 {
        let Some(first) = mine.first().map(|at| &self.member(*at).endpoint.place) else { return weight };
        let whole = self.members.iter().filter(|member| {
            member.endpoint.place.priority == first.priority
                && member.endpoint.place.locality == first.locality
        });
        let part = f64::from(weight) * number(mine.len()) / number(whole.count().max(1));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a u32")]
        let part = part.round() as u32;
        part.max(1)
    }

    fn localities(&mut self, members: &[u32], health: Health) -> Option<Localities> {
        let (mut sources, mut weights) = (Vec::new(), Vec::new());
        for (weight, all) in self.by_locality(members) {
            let counted = all.iter().filter(|at| !self.member(**at).is_excluded).count();
            let fit: Vec<_> = all.iter().copied().filter(|at| self.member(*at).health == health).collect();
            if counted == 0 || fit.is_empty() || weight == 0 {
                continue;
            }
            let share = number(fit.len()) / number(counted);
            let overrated = f64::from(self.policy.overprovisioning) / 100.0 * share;
            weights.push(f64::from(weight) * overrated.min(1.0));
            sources.push(self.source(fit));
        }
        if sources.is_empty() {
            return None;
        }
        let id = self.sources;
        self.sources += 1;
        Some(Localities { id, sources, weights })
    }

    /// The ring or table of a priority: `fit` are those that may be in it.
    fn table(&self, fit: &[u32], all: &[u32], by_locality: bool) -> Option<Table> {
        let hash = match self.balancing {
            Balancing::RingHash(_) | Balancing::Maglev(_) => self.balancing,
            _ => return None,
        };
        let weight = |at: u32| f64::from(self.member(at).endpoint.weight.max(1));
        let mut shares = Vec::new();
        let mut share = |members: &[u32], part: f64| {
            let sum: f64 = members.iter().map(|at| weight(*at)).sum();
            shares.extend(members.iter().map(|at| (*at, weight(*at) * part / sum)));
        };
        let localities = if by_locality { self.by_locality(all) } else { Vec::new() };
        let has_weights = localities
            .iter()
            .any(|(_, members)| members.iter().any(|at| self.member(*at).endpoint.place.weight.is_some()));
        if has_weights {
            let sum: f64 = localities.iter().map(|(weight, _)| f64::from(*weight)).sum();
            for (weight, members) in localities.iter().filter(|(weight, _)| *weight > 0) {
                let fit: Vec<u32> = members.iter().copied().filter(|at| fit.contains(at)).collect();
                share(&fit, f64::from(*weight) / sum);
            }
        } else if !by_locality || localities.is_empty() {
            share(fit, 1.0);
        }
        Some(Table::new(hash, &shares, self.members))
    }
}
