//! The files that a demo's folder starts with, carried in the binary.

macro_rules! shop {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../examples/shop/", $name)))
    };
}

/// The shop's config: `examples/shop`, whole.
pub(crate) const SHOP: &[(&str, &str)] = &[
    shop!("00-accounts.yaml"),
    shop!("01-mtls.yaml"),
    shop!("cart.yaml"),
    shop!("catalog.yaml"),
    shop!("checkout.yaml"),
    shop!("ledger.yaml"),
    shop!("payments.yaml"),
    shop!("web.yaml"),
];

/// The file with the catalog's split.
pub(crate) const SPLIT_FILE: &str = "catalog.yaml";
/// The edit, for `sed`, that makes the split even.
pub(crate) const SPLIT_EDIT: &str = "s/weight: 90/weight: 50/; s/weight: 10/weight: 50/";

/// Policies to try, one a file.
pub(crate) const TRY: &[(&str, &str)] = &[(CUT_OFF, include_str!("try/cut-off-payments.yaml"))];

/// The policy that lets nobody call payments.
pub(crate) const CUT_OFF: &str = "cut-off-payments.yaml";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_carries_the_examples_as_they_are() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/shop");
        let mut files: Vec<(String, String)> = std::fs::read_dir(folder)
            .expect("examples/shop")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
            .map(|path| {
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                (name, std::fs::read_to_string(path).expect("text"))
            })
            .collect();
        files.sort();
        let carried: Vec<(String, String)> =
            SHOP.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        assert_eq!(carried, files);
    }
}
