//! Meshes in which everything happens in any order: crashes between writes, two control planes, peers that come and go,
//! people who change their mind. At no moment is anybody locked out.

use fastrand::Rng;

use super::*;

/// How long a certificate lives, in ticks.
const LIFE: i64 = 40;
/// What happens in one run.
const EVENTS: usize = 400;
const RUNS: u64 = 400;

/// A workload and its proxy.
#[derive(Clone, Debug)]
struct Peer {
    /// The control plane that it is connected to.
    at: Option<usize>,
    trusts: BTreeSet<String>,
    /// What control planes have heard of it.
    acknowledged: BTreeSet<String>,
    root: String,
    ends: i64,
}

#[derive(Debug)]
struct Mesh {
    random: Rng,
    now: i64,
    roots: Roots,
    made: usize,
    record: Option<Rotation>,
    /// What each control plane has read of the roots.
    views: [Roots; 2],
    peers: Vec<Peer>,
    /// A step that a control plane has decided on and not done yet.
    asleep: Option<Action>,
    /// Whether people go on without those that are not connected.
    is_careless: bool,
    ends: Vec<End>,
}

fn trusted(roots: &Roots) -> BTreeSet<String> {
    roots.next.iter().chain([&roots.active]).chain(&roots.previous).cloned().collect()
}

impl Mesh {
    fn new(seed: u64) -> Self {
        let roots = roots("r0", None, None);
        let mut random = Rng::with_seed(seed);
        let is_careless = random.u8(0..8) == 0;
        Self {
            random,
            now: NOW,
            roots: roots.clone(),
            made: 1,
            record: None,
            views: [roots.clone(), roots],
            peers: Vec::new(),
            asleep: None,
            is_careless,
            ends: Vec::new(),
        }
    }

    fn happen(&mut self) {
        match self.random.u8(0..40) {
            0 | 1 => self.start(),
            2 => self.abort(),
            3 | 4 => self.enrol(),
            5 | 6 => self.now += self.random.i64(0..LIFE / 4),
            7..11 => self.come_or_go(),
            11..17 => {
                let replica = self.random.usize(0..2);
                self.views[replica] = self.roots.clone();
            }
            17..23 => self.acknowledge(),
            23..29 => self.renew(),
            _ => self.drive(),
        }
        self.now += 1;
    }

    fn start(&mut self) {
        let now = self.now;
        match &mut self.record {
            Some(rotation) if rotation.end.is_none() => rotation.course = Course::Forward,
            earlier => {
                let number = earlier.as_ref().map_or(0, |earlier| earlier.number) + 1;
                let begun = Rotation::begin(number, &self.roots, "ann".to_owned(), now);
                *earlier = Some(Rotation { without_offline: self.is_careless, ..begun });
            }
        }
    }

    fn abort(&mut self) {
        if let Some(rotation) = self.record.as_mut().filter(|rotation| rotation.end.is_none()) {
            rotation.course = Course::Back;
        }
    }

    fn enrol(&mut self) {
        if self.peers.len() < 6 {
            let at = self.random.usize(0..2);
            self.views[at] = self.roots.clone();
            let trusts = trusted(&self.roots);
            let (root, ends) = (self.roots.active.clone(), self.now + LIFE);
            self.peers.push(Peer { at: Some(at), trusts, acknowledged: BTreeSet::new(), root, ends });
        }
    }

    fn some_peer(&mut self) -> Option<usize> {
        (!self.peers.is_empty()).then(|| self.random.usize(0..self.peers.len()))
    }

    fn come_or_go(&mut self) {
        let Some(i) = self.some_peer() else { return };
        let at = self.random.usize(0..2);
        let (view, now) = (self.views[at].clone(), self.now);
        let roots = self.roots.clone();
        let peer = &mut self.peers[i];
        match peer.at {
            Some(_) => peer.at = None,
            // By its certificate, where both sides trust each other.
            None if peer.ends > now => {
                assert!(peer.trusts.contains(&view.active), "it could not come back");
                peer.at = Some(at);
            }
            // By token, with the bundle of now.
            None => {
                self.views[at] = roots.clone();
                let (trusts, acknowledged) = (trusted(&roots), BTreeSet::new());
                *peer = Peer { at: Some(at), trusts, acknowledged, root: roots.active, ends: now + LIFE };
            }
        }
    }

    fn acknowledge(&mut self) {
        let Some(i) = self.some_peer() else { return };
        if let Some(at) = self.peers[i].at {
            self.peers[i].trusts = trusted(&self.views[at]);
            self.peers[i].acknowledged = self.peers[i].trusts.clone();
        }
    }

    fn renew(&mut self) {
        let Some(i) = self.some_peer() else { return };
        let (now, views) = (self.now, &self.views);
        let peer = &mut self.peers[i];
        // A certificate that it would not trust itself it does not take.
        if let Some(at) = peer.at.filter(|at| peer.trusts.contains(&views[*at].active)) {
            peer.root.clone_from(&views[at].active);
            peer.ends = now + LIFE;
        }
    }

    fn facts(&self) -> Facts {
        let replica = |(i, view): (usize, &Roots)| Replica {
            name: i.to_string(),
            said: Some(Said { trusts: trusted(view), issuer: view.active.clone() }),
        };
        let holder = |(i, peer): (usize, &Peer)| Holder {
            name: format!("shop/{i}"),
            presence: if peer.at.is_some() { FOLLOWS } else { OFFLINE },
            trusts: peer.acknowledged.clone(),
            root: Some(peer.root.clone()),
            ends: peer.ends,
        };
        Facts {
            replicas: self.views.iter().enumerate().map(replica).collect(),
            holders: self.peers.iter().enumerate().map(holder).collect(),
            tokens: BTreeMap::new(),
            now: self.now,
        }
    }

    /// The control plane that drives does a step; or is killed before, or is slow to do it.
    fn drive(&mut self) {
        if let Some(action) = self.asleep.take() {
            self.act(action);
            return;
        }
        let Some(rotation) = &self.record else { return };
        let Next::Do(action) = rotation.next(&self.roots, &self.facts()) else { return };
        match self.random.u8(0..5) {
            0 => {}
            1 if !is_noted(&action) => self.asleep = Some(action),
            _ => self.act(action),
        }
    }

    fn act(&mut self, action: Action) {
        let record = self.record.as_mut().expect("there is one");
        match action {
            Action::Note(next) => record.to = Some(next),
            Action::NoteSwitch => record.is_switched = true,
            Action::End(end) => {
                self.ends.push(end.clone());
                record.end = Some(end);
            }
            Action::Add if self.roots.next.is_empty() => {
                self.roots.next.push(format!("r{}", self.made));
                self.made += 1;
            }
            Action::Switch(to) => self.switch(&to),
            Action::SwitchBack(to) if self.roots.previous.as_ref() == Some(&to) => {
                let active = std::mem::replace(&mut self.roots.active, to);
                self.roots.previous = None;
                self.roots.next.insert(0, active);
            }
            Action::Remove(root) if self.roots.previous.as_ref() == Some(&root) => self.roots.previous = None,
            Action::Withdraw(root) => self.roots.next.retain(|next| *next != root),
            Action::Add | Action::SwitchBack(_) | Action::Remove(_) => {}
        }
    }

    fn switch(&mut self, to: &str) {
        if let Some(at) = self.roots.next.iter().position(|next| next == to) {
            let next = self.roots.next.remove(at);
            self.roots.previous = Some(std::mem::replace(&mut self.roots.active, next));
        }
    }

    /// Nobody whose certificate is valid is refused by anybody, or refuses anybody.
    fn check(&self, seed: u64) {
        let valid: Vec<&Peer> = self.peers.iter().filter(|peer| self.counts(peer)).collect();
        for one in &valid {
            for other in &valid {
                assert!(other.trusts.contains(&one.root), "seed {seed}: {one:?} and {other:?} in {self:#?}");
            }
            for view in &self.views {
                assert!(one.trusts.contains(&view.active), "seed {seed}: {one:?} and {view:?} in {self:#?}");
                assert!(trusted(view).contains(&one.root), "seed {seed}: {one:?} and {view:?} in {self:#?}");
            }
        }
    }

    fn counts(&self, peer: &Peer) -> bool {
        peer.ends > self.now && (peer.at.is_some() || !self.is_careless)
    }
}

/// Whether an action is a write of the record, which fails where the record is another by then.
fn is_noted(action: &Action) -> bool {
    matches!(action, Action::Note(_) | Action::NoteSwitch | Action::End(_))
}

#[test]
fn nobody_is_locked_out_whatever_happens() {
    let (mut removed, mut aborted) = (0, 0);
    for seed in 0..RUNS {
        let mut mesh = Mesh::new(seed);
        for _ in 0..EVENTS {
            if mesh.is_careless {
                // Who is gone is gone: nobody says what becomes of it.
                mesh.peers.retain(|peer| peer.at.is_some());
            }
            mesh.happen();
            mesh.check(seed);
        }
        removed += mesh.ends.iter().filter(|end| **end == End::Removed).count();
        aborted += mesh.ends.iter().filter(|end| **end == End::Aborted).count();
    }
    assert!(removed > 100 && aborted > 100, "{removed} removed, {aborted} aborted");
}

#[test]
fn a_rotation_ends_when_everybody_does_their_part() {
    for seed in 0..100 {
        let mut mesh = Mesh::new(seed);
        for _ in 0..50 {
            mesh.happen();
        }
        mesh.abort();
        for course in [Mesh::abort as fn(&mut Mesh), Mesh::start] {
            course(&mut mesh);
            for _ in 0..60 {
                mesh.now += 1;
                mesh.views = [mesh.roots.clone(), mesh.roots.clone()];
                let roots = mesh.roots.clone();
                for peer in &mut mesh.peers {
                    peer.at.get_or_insert(0);
                    peer.trusts = trusted(&roots);
                    peer.acknowledged = peer.trusts.clone();
                    peer.root.clone_from(&roots.active);
                    peer.ends = mesh.now + LIFE;
                }
                mesh.drive();
            }
            let ended = mesh.record.as_ref().is_none_or(|rotation| rotation.end.is_some());
            assert!(ended && mesh.roots.previous.is_none(), "seed {seed}: {mesh:#?}");
        }
    }
}
