//! What every store must do, whatever it is made of.

use std::collections::BTreeMap;

use super::{Change, Keys, Kv, KvError, Operation, Outcome, Revision, Transaction};

/// Checks a store under a prefix that nobody else uses. Other keys may change meanwhile, but not be compacted.
pub(in crate::store) async fn check(store: &dyn Kv, prefix: &str) {
    let suite = Suite { store, prefix };
    suite.transactions_are_all_or_nothing();
    suite.earlier_revisions_can_be_read();
    suite.keys_come_and_go();
    suite.one_of_two_writers_is_told();
    suite.changes_are_told_in_order().await;
    suite.what_is_compacted_is_an_error().await;
}

struct Suite<'s> {
    store: &'s dyn Kv,
    prefix: &'s str,
}

impl Suite<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn put(&self, name: &str, value: &str) -> Operation {
        Operation::Put { key: self.key(name), value: value.to_owned() }
    }

    fn delete(&self, name: &str) -> Operation {
        Operation::Delete { key: self.key(name) }
    }

    fn commit(&self, expected: &[(&str, Revision)], operations: Vec<Operation>) -> Outcome {
        let expected = expected.iter().map(|(name, at)| (self.key(name), *at)).collect();
        self.store.commit(&Transaction { expected, operations }).expect("answered")
    }

    fn write(&self, operations: Vec<Operation>) -> Revision {
        match self.commit(&[], operations) {
            Outcome::Committed(revision) => revision,
            Outcome::Conflict => panic!("nothing was expected"),
        }
    }

    /// Names and values under a name's beginning.
    fn values(&self, under: &str, at: Option<Revision>) -> BTreeMap<String, String> {
        let found = self.store.read(Keys::Under(&self.key(under)), at).expect("read");
        let keys: Vec<_> = found.entries.iter().map(|e| e.key.clone()).collect();
        assert!(keys.is_sorted(), "{keys:?}");
        let short = |key: &str| key[self.prefix.len()..].to_owned();
        found.entries.into_iter().map(|e| (short(&e.key), e.value)).collect()
    }

    fn see(&self, under: &str, at: Option<Revision>, expected: &[(&str, &str)]) {
        let expected = expected.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(self.values(under, at), expected, "{under} at {at:?}");
    }

    fn modified(&self, name: &str) -> Revision {
        let found = self.store.read(Keys::One(&self.key(name)), None).expect("read");
        found.entries.first().map_or(0, |e| e.modified)
    }

    fn transactions_are_all_or_nothing(&self) {
        let first = self.write(vec![self.put("t/a", "1"), self.put("t/b", "1")]);
        assert_eq!((self.modified("t/a"), self.modified("t/b")), (first, first));
        let wrong = self.commit(&[("t/a", first), ("t/b", first - 1)], vec![self.put("t/a", "2")]);
        assert_eq!(wrong, Outcome::Conflict);
        self.see("t/", None, &[("t/a", "1"), ("t/b", "1")]);
        let changes = vec![self.put("t/a", "2"), self.delete("t/b"), self.put("t/c", "1")];
        let right = self.commit(&[("t/a", first), ("t/b", first), ("t/c", 0)], changes);
        let Outcome::Committed(second) = right else { panic!("all was as expected") };
        assert!(second > first);
        self.see("t/", None, &[("t/a", "2"), ("t/c", "1")]);
        assert_eq!(self.commit(&[("t/c", 0)], vec![self.delete("t/a")]), Outcome::Conflict);
        assert_eq!((self.modified("t/a"), self.modified("t/b")), (second, 0));
    }

    fn earlier_revisions_can_be_read(&self) {
        let first = self.write(vec![self.put("e/a", "1")]);
        let second = self.write(vec![self.put("e/a", "2"), self.put("e/b", "1")]);
        let third = self.write(vec![self.delete("e/a")]);
        self.see("e/", Some(first - 1), &[]);
        self.see("e/", Some(first), &[("e/a", "1")]);
        self.see("e/", Some(second), &[("e/a", "2"), ("e/b", "1")]);
        self.see("e/", Some(third), &[("e/b", "1")]);
        self.see("e/", None, &[("e/b", "1")]);
        let later = self.store.read(Keys::Under(&self.key("e/")), Some(third + 1_000_000));
        assert!(matches!(later, Err(KvError::Future)), "{later:?}");
    }

    fn keys_come_and_go(&self) {
        let first = self.write(vec![self.put("k/a", "1"), self.put("k/a/b", "1"), self.put("k0", "1")]);
        self.see("k/", None, &[("k/a", "1"), ("k/a/b", "1")]);
        let one = self.store.read(Keys::One(&self.key("k/a")), None).expect("read").entries;
        assert_eq!(one.iter().map(|e| (e.created, e.modified)).collect::<Vec<_>>(), [(first, first)]);
        let second = self.write(vec![self.put("k/a", "é \"2\"")]);
        let one = self.store.read(Keys::One(&self.key("k/a")), None).expect("read").entries;
        assert_eq!((one[0].created, one[0].modified, &*one[0].value), (first, second, "é \"2\""));
        self.write(vec![self.delete("k/a")]);
        let third = self.write(vec![self.put("k/a", "3")]);
        let found = self.store.read(Keys::One(&self.key("k/a")), None).expect("read");
        assert_eq!((found.entries[0].created, found.entries[0].modified), (third, third));
        assert!(found.revision >= third);
        // What changes nothing is no revision.
        assert_eq!(self.write(vec![self.delete("k/none")]), third);
    }

    fn one_of_two_writers_is_told(&self) {
        let seen = self.write(vec![self.put("w/head", "0")]);
        let race = |value: &str| self.commit(&[("w/head", seen)], vec![self.put("w/head", value)]);
        let outcomes = std::thread::scope(|scope| {
            let writers: Vec<_> = ["1", "2", "3", "4"].map(|v| scope.spawn(move || race(v))).into();
            writers.into_iter().map(|w| w.join().expect("ended")).collect::<Vec<_>>()
        });
        let committed = outcomes.iter().filter(|o| matches!(o, Outcome::Committed(_))).count();
        assert_eq!(committed, 1, "{outcomes:?}");
    }

    async fn changes_are_told_in_order(&self) {
        let first = self.write(vec![self.put("c/a", "1"), self.put("c/b", "1")]);
        let mut watch = self.store.watch(&self.key("c/"), first);
        let mut late = self.store.watch(&self.key("c/"), first + 1);
        let second = self.write(vec![self.put("c/a", "2")]);
        self.write(vec![self.put("other", "1")]);
        let third = self.write(vec![self.delete("c/a"), self.put("c/c", "1")]);
        let told = |changes: &[Change]| -> Vec<(String, Revision, Option<String>)> {
            let short = |key: &str| key[self.prefix.len()..].to_owned();
            let one = |change: &Change| match change {
                Change::Put(e) => (short(&e.key), e.modified, Some(e.value.clone())),
                Change::Deleted { key, modified } => (short(key), *modified, None),
            };
            changes.iter().map(one).collect()
        };
        let value = |value: &str| Some(value.to_owned());
        let later = [
            ("c/a".to_owned(), second, value("2")),
            ("c/a".to_owned(), third, None),
            ("c/c".to_owned(), third, value("1")),
        ];
        let mut seen = Vec::new();
        while seen.len() < 5 {
            seen.extend(told(&watch.next().await.expect("told")));
        }
        seen.sort_by_key(|(key, at, _)| (*at, key.clone()));
        let begun = [("c/a".to_owned(), first, value("1")), ("c/b".to_owned(), first, value("1"))];
        assert_eq!(seen, [&begun[..], &later[..]].concat());
        let mut seen = Vec::new();
        while seen.len() < 3 {
            seen.extend(told(&late.next().await.expect("told")));
        }
        seen.sort_by_key(|(key, at, _)| (*at, key.clone()));
        assert_eq!(seen, later);
    }

    async fn what_is_compacted_is_an_error(&self) {
        let first = self.write(vec![self.put("z/a", "1"), self.put("z/gone", "1"), self.put("z/old", "1")]);
        self.write(vec![self.put("z/a", "2"), self.delete("z/gone")]);
        let third = self.write(vec![self.put("z/a", "3")]);
        let fourth = self.write(vec![self.put("z/a", "4")]);
        self.store.compact(third).expect("compacted");
        let compacted = |error: &KvError| matches!(error, KvError::Compacted);
        let early = self.store.read(Keys::Under(&self.key("z/")), Some(first)).expect_err("compacted");
        assert!(compacted(&early), "{early}");
        self.see("z/", Some(third), &[("z/a", "3"), ("z/old", "1")]);
        self.see("z/", None, &[("z/a", "4"), ("z/old", "1")]);
        let again = self.store.compact(third).expect_err("compacted already");
        assert!(compacted(&again), "{again}");
        let future = self.store.compact(fourth + 1_000_000).expect_err("not there yet");
        assert!(matches!(future, KvError::Future), "{future}");
        let mut early = self.store.watch(&self.key("z/"), first);
        let error = early.next().await.expect_err("compacted");
        assert!(compacted(&error), "{error}");
        let mut late = self.store.watch(&self.key("z/"), fourth);
        assert_eq!(late.next().await.expect("told").len(), 1);
    }
}
