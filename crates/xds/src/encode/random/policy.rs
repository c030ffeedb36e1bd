//! Random rules of authorization.

use meshwork_model::proxy::{Action, MetadataMatch, Permission, Principal, Rbac, Rule, ValueMatch};

use super::{DEPTH, Random};

impl Random {
    pub(super) fn rbac(&mut self) -> Rbac {
        let rule = |random: &mut Self| Rule {
            name: random.text(),
            permissions: random.some(1, |random| random.permission(DEPTH)),
            principals: random.some(1, |random| random.principal(DEPTH)),
        };
        let rules = self.sorted(rule, |rule| rule.name.clone());
        Rbac { action: self.pick(&[Action::Allow, Action::Deny, Action::Log]), rules }
    }

    fn permission(&mut self, depth: usize) -> Permission {
        match self.0.u8(if depth == 0 { 3..11 } else { 0..11 }) {
            0 => Permission::All(self.some(1, |random| random.permission(depth - 1))),
            1 => Permission::OneOf(self.some(1, |random| random.permission(depth - 1))),
            2 => Permission::Not(Box::new(self.permission(depth - 1))),
            3 => Permission::Path(self.string()),
            4 => Permission::Header(self.header()),
            5 => Permission::DestinationPort(self.0.u16(..)),
            6 => {
                let start = self.0.u32(0..65536);
                Permission::DestinationPorts { start, end: self.0.u32(start + 1..=65536) }
            }
            7 => Permission::DestinationAddress(self.cidr()),
            8 => Permission::ServerName(self.string()),
            9 => Permission::Metadata(self.metadata_match()),
            _ => Permission::Any,
        }
    }

    fn principal(&mut self, depth: usize) -> Principal {
        match self.0.u8(if depth == 0 { 3..12 } else { 0..12 }) {
            0 => Principal::All(self.some(1, |random| random.principal(depth - 1))),
            1 => Principal::OneOf(self.some(1, |random| random.principal(depth - 1))),
            2 => Principal::Not(Box::new(self.principal(depth - 1))),
            3 => Principal::Authenticated(self.maybe(Self::string)),
            4 => Principal::DirectAddress(self.cidr()),
            5 => Principal::RemoteAddress(self.cidr()),
            6 => Principal::SourceAddress(self.cidr()),
            7 => Principal::Header(self.header()),
            8 => Principal::Path(self.string()),
            9 => Principal::Metadata(self.metadata_match()),
            10 => Principal::EachValue { name: self.header().name, tests: self.some(1, Self::string) },
            _ => Principal::Any,
        }
    }

    pub(super) fn metadata_match(&mut self) -> MetadataMatch {
        MetadataMatch {
            filter: self.text(),
            path: self.some(1, Self::text),
            value: self.value_match(DEPTH),
            invert: self.0.bool(),
        }
    }

    fn value_match(&mut self, depth: usize) -> ValueMatch {
        match self.0.u8(if depth == 0 { 2..8 } else { 0..8 }) {
            0 => ValueMatch::OneOf(Box::new(self.value_match(depth - 1))),
            1 => ValueMatch::Or(self.some(2, |random| random.value_match(depth - 1))),
            2 => ValueMatch::Null,
            3 => ValueMatch::Exactly(self.0.f64()),
            4 => ValueMatch::Range { start: self.0.f64(), end: self.0.f64() },
            5 => ValueMatch::Text(self.string()),
            6 => ValueMatch::Bool(self.0.bool()),
            _ => ValueMatch::Present(self.0.bool()),
        }
    }
}
