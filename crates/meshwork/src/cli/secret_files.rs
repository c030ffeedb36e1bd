//! Secrets that come from files (`path_config_source`): read when config names them, and again when they change.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use meshwork_data_plane::Proxy;
use meshwork_model::proxy::Kind;
use meshwork_xds::{Rejection, bootstrap};
use zeroize::Zeroizing;

/// What the files were at the last look.
#[derive(Default)]
pub(crate) struct SecretFiles {
    seen: BTreeMap<String, Option<(u64, i64, i64, u64)>>,
}

impl SecretFiles {
    /// Looks at the files that config names now, and applies what those hold that changed. Gives what cannot be used;
    /// told once per change.
    pub(crate) fn look(&mut self, proxy: &Proxy) -> Vec<Rejection> {
        let named = proxy.secret_files();
        self.seen.retain(|path, _| named.contains(path));
        let mut rejections = Vec::new();
        for path in named {
            let now = fs::metadata(&path).ok().map(|it| (it.ino(), it.mtime(), it.mtime_nsec(), it.len()));
            if self.seen.get(&path) == Some(&now) {
                continue;
            }
            rejections.extend(load(&path, proxy));
            self.seen.insert(path, now);
        }
        rejections
    }
}

fn load(path: &str, proxy: &Proxy) -> Vec<Rejection> {
    let refused = |why| vec![Rejection { kind: Kind::Secret, name: path.to_owned(), why }];
    let text = match fs::read_to_string(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) => return refused(format!("cannot be read: {error}")),
    };
    match bootstrap::secrets(path, &text) {
        Ok(update) => proxy.apply(update),
        Err(problems) => refused(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")),
    }
}
