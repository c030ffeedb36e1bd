//! Intermediates that users plug in: what is taken, what is refused and in which words, and how their roots change.

use rcgen::{
    BasicConstraints, CustomExtension, DistinguishedName, DnType, IsCa, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256,
    RsaKeySize, SanType,
};

use super::*;

/// Somebody's own authority.
struct Pki {
    root: CertificateDer<'static>,
    key: KeyPair,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + DAY * 30).into();
    params
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

impl Pki {
    fn new(name: &str) -> Self {
        let key = key();
        let root = params(name).self_signed(&key).expect("signed").der().clone();
        Self { root, key }
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> CertificateDer<'static> {
        let issuer = rcgen::Issuer::from_ca_cert_der(&self.root, &self.key).expect("an issuer");
        params.signed_by(key, &issuer).expect("signed").der().clone()
    }
}

fn write(dir: &Path, name: &str, certificates: &[&CertificateDer<'static>]) -> PathBuf {
    let path = dir.join(name);
    let text: String = certificates.iter().map(|der| pem::encode("CERTIFICATE", der)).collect();
    fs::write(&path, text).expect("written");
    path
}

/// Writes the files of an intermediate as Istio's are named.
fn plug(
    dir: &Path,
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
    roots: &[&CertificateDer<'static>],
) -> PluggedIntermediate {
    let key_path = dir.join("ca-key.pem");
    fs::write(&key_path, key.serialize_pem()).expect("written");
    PluggedIntermediate {
        certificate: write(dir, "ca-cert.pem", &[certificate]),
        key: key_path,
        chain: None,
        root: write(dir, "root-cert.pem", roots),
    }
}

fn with(dir: &Path, plugged: PluggedIntermediate) -> AuthorityOptions {
    AuthorityOptions { plugged: Some(plugged), ..options(dir) }
}

fn roles(authority: &CertificateAuthority) -> Vec<(Role, String)> {
    authority.roots().into_iter().map(|root| (root.role, root.fingerprint)).collect()
}

fn check_good(authority: &CertificateAuthority, root: &CertificateDer<'static>) -> Svid {
    let svid = authority.issue(&id(WEB), DAY, &[]).expect("issued");
    let alone = Bundle::of_trust_domain("mesh.local", &pem::encode("CERTIFICATE", root)).expect("a bundle");
    svid.check_under(&alone).expect("under its root");
    svid.check_under(&authority.bundle()).expect("under all");
    svid
}

#[test]
fn an_intermediate_with_any_usual_key_is_taken() {
    let pki = Pki::new("corporate");
    let rsa = || KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).expect("a key");
    let of = |algorithm| KeyPair::generate_for(algorithm).expect("a key");
    for key in [of(&PKCS_ECDSA_P256_SHA256), of(&PKCS_ECDSA_P384_SHA384), rsa()] {
        let dir = tempfile::tempdir().expect("a directory");
        let certificate = pki.sign(&params("mesh"), &key);
        let options = with(dir.path(), plug(dir.path(), &certificate, &key, &[&pki.root]));
        let authority = CertificateAuthority::open(options.clone()).expect("opened");
        let svid = check_good(&authority, &pki.root);
        assert_eq!(svid.chain()[1..], [certificate]);
        let root = fingerprint(&pki.root);
        assert_eq!((authority.issuer().root, authority.issuer().plugged), (root.clone(), true));
        assert_eq!(roles(&authority), [(Role::Active, root)]);
        authority.sign_jwt(&id(WEB), &["db".to_owned()], Duration::from_mins(1)).expect("signed");
        // No key of the root is here, and no intermediate of our own.
        let files = files_in(&options.dir);
        assert!(files.iter().all(|name| !name.ends_with("root-key.pem")), "{files:?}");
        assert!(!options.issuer_dir.exists());
        let again = CertificateAuthority::open(options).expect("opened");
        assert_eq!(again.bundle().jwt_keys(), authority.bundle().jwt_keys());
        assert!(!again.refresh().expect("nothing to do"));
    }
}

#[test]
fn a_key_may_be_in_the_older_form_of_openssl() {
    let pki = Pki::new("corporate");
    let dir = tempfile::tempdir().expect("a directory");
    let key = key();
    let certificate = pki.sign(&params("mesh"), &key);
    let plugged = plug(dir.path(), &certificate, &key, &[&pki.root]);
    fs::write(&plugged.key, pem::encode("EC PRIVATE KEY", &sec1(key.serialized_der()))).expect("written");
    check_good(&CertificateAuthority::open(with(dir.path(), plugged)).expect("opened"), &pki.root);
}

/// The key within PKCS #8 of P-256, with its curve named, as SEC 1 has it. Source: RFC 5915 §3.
fn sec1(pkcs8: &[u8]) -> Vec<u8> {
    let inner = &pkcs8[pkcs8.len() - 0x6d..];
    // Version and private key, then the public one.
    let (private, public) = inner[2..].split_at(3 + 2 + 32);
    let curve = [0xa0, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    [&[0x30, 0x77], private, &curve[..], public].concat()
}

/// Certificates behind the plugged one, and the file of a chain.
type Written = (Vec<CertificateDer<'static>>, Option<PathBuf>);

#[test]
fn a_chain_of_intermediates_is_sent_without_its_root() {
    let pki = Pki::new("corporate");
    let (middle_key, key) = (key(), key());
    let middle = Pki { root: pki.sign(&params("division"), &middle_key), key: middle_key };
    let certificate = middle.sign(&params("mesh"), &key);
    let check = |write_chain: &dyn Fn(&Path) -> Written| {
        let dir = tempfile::tempdir().expect("a directory");
        let (behind, chain) = write_chain(dir.path());
        let mut plugged = plug(dir.path(), &certificate, &key, &[&pki.root]);
        let all: Vec<_> = std::iter::once(&certificate).chain(&behind).collect();
        plugged.certificate = write(dir.path(), "ca-cert.pem", &all);
        plugged.chain = chain;
        let authority = CertificateAuthority::open(with(dir.path(), plugged)).expect("opened");
        let svid = check_good(&authority, &pki.root);
        assert_eq!(svid.chain()[1..], [certificate.clone(), middle.root.clone()]);
    };
    check(&|_| (vec![middle.root.clone()], None));
    check(&|dir| (vec![], Some(write(dir, "cert-chain.pem", &[&middle.root]))));
    // As Istio's tools write it.
    check(&|dir| (vec![], Some(write(dir, "cert-chain.pem", &[&certificate, &middle.root, &pki.root]))));
    // Without it, nobody could verify what is signed.
    let dir = tempfile::tempdir().expect("a directory");
    let error = refusal(with(dir.path(), plug(dir.path(), &certificate, &key, &[&pki.root])));
    assert!(error.contains("not good under the roots") && error.contains("chain's file"), "{error}");
}

#[test]
fn a_root_that_signs_by_itself_is_sent_with_nothing() {
    let pki = Pki::new("corporate");
    let dir = tempfile::tempdir().expect("a directory");
    let plugged = plug(dir.path(), &pki.root, &pki.key, &[&pki.root]);
    let authority = CertificateAuthority::open(with(dir.path(), plugged)).expect("opened");
    assert_eq!(check_good(&authority, &pki.root).chain().len(), 1);
}

#[test]
fn a_name_is_repeated_as_it_stands() {
    let pki = Pki::new("corporate");
    // Twice DC (RFC 4519), and a common name with an organisational unit in one part.
    let component =
        |text: &str| value(&[6, 10, 9, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], 0x16, text);
    let (name, unit) =
        (value(&[6, 3, 0x55, 4, 3], 0x1e, "\0m\0e\0s\0h"), value(&[6, 3, 0x55, 4, 11], 0x13, "IT"));
    let parts = [set(&component("com")), set(&component("example")), set(&[unit, name].concat())];
    let name = wrap(0x30, &parts.concat());
    let key = key();
    let placeholder = pki.sign(&params("mesh"), &key);
    let certificate = signer::with_name(&placeholder, 5, &name, &pki.key).expect("signed");
    assert_eq!(crate::svid::parse(&certificate).expect("a certificate").subject().as_raw(), name);
    let dir = tempfile::tempdir().expect("a directory");
    let plugged = plug(dir.path(), &certificate, &key, &[&pki.root]);
    let authority = CertificateAuthority::open(with(dir.path(), plugged)).expect("opened");
    let svid = check_good(&authority, &pki.root);
    assert_eq!(crate::svid::parse(&svid.chain()[0]).expect("a certificate").issuer().as_raw(), name);
}

fn wrap(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).expect("short")], content].concat()
}

fn set(content: &[u8]) -> Vec<u8> {
    wrap(0x31, content)
}

fn value(kind: &[u8], tag: u8, text: &str) -> Vec<u8> {
    wrap(0x30, &[kind, &wrap(tag, text.as_bytes())].concat())
}

/// A name constraint that permits URIs of one host. Source: RFC 5280 §4.2.1.10.
fn permitted_uri(host: &str) -> CustomExtension {
    let constraints = wrap(0x30, &wrap(0xa0, &wrap(0x30, &wrap(0x86, host.as_bytes()))));
    CustomExtension::from_oid_content(&[2, 5, 29, 30], constraints)
}

#[test]
fn files_that_are_not_good_are_refused_by_name_and_in_words() {
    let pki = Pki::new("corporate");
    let check = |alter: &dyn Fn(&mut CertificateParams), words: &str| {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut params, key) = (params("mesh"), key());
        alter(&mut params);
        let certificate = pki.sign(&params, &key);
        let error = refusal(with(dir.path(), plug(dir.path(), &certificate, &key, &[&pki.root])));
        assert!(error.contains("ca-cert.pem") && error.contains(words), "{error}");
        assert!(!dir.path().join("ca/authority.json").exists(), "nothing is begun");
    };
    check(&|params| params.is_ca = IsCa::ExplicitNoCa, "not that of a certificate authority");
    check(
        &|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature],
        "not that of a certificate authority",
    );
    check(&|params| params.not_after = (SystemTime::now() - DAY / 2).into(), "is expired");
    check(&|params| params.not_before = (SystemTime::now() + DAY).into(), "not yet valid");
    let named = |uri: &'static str| {
        move |params: &mut CertificateParams| {
            params.subject_alt_names.push(SanType::URI(uri.try_into().expect("ASCII")));
        }
    };
    check(&named("spiffe://other.local"), "of another trust domain: it is named spiffe://other.local");
    check(
        &|params| params.custom_extensions.push(permitted_uri("other.local")),
        "not allowed to sign for the trust domain mesh.local",
    );
    check(&|params| params.custom_extensions.push(permitted_uri(".mesh.local")), "not allowed to sign");
    check(&|params| params.custom_extensions.push(permitted_uri("mesh.local")), "name constraints on URIs");
    check(&|params| params.distinguished_name = DistinguishedName::new(), "its subject is empty");

    let dir = tempfile::tempdir().expect("a directory");
    let key = key();
    let certificate = pki.sign(&params("mesh"), &key);
    let plugged = plug(dir.path(), &certificate, &key, &[&pki.root]);
    let check = |file: &Path, content: &str, words: &str| {
        let before = fs::read(file).expect("read");
        fs::write(file, content).expect("written");
        let error = refusal(with(dir.path(), plugged.clone()));
        assert!(error.contains(&*file.to_string_lossy()) && error.contains(words), "{error}");
        fs::write(file, before).expect("written");
    };
    check(&plugged.key, &self::key().serialize_pem(), "not the key of the intermediate's certificate");
    check(
        &plugged.key,
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "unencrypted",
    );
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P521_SHA512] {
        check(
            &plugged.key,
            &KeyPair::generate_for(algorithm).expect("a key").serialize_pem(),
            "of a kind that is not used here",
        );
    }
    for file in [&plugged.certificate, &plugged.key, &plugged.root] {
        check(file, "", "not usable");
        check(file, &"x".repeat(2 << 20), "too large");
    }
    let leaf = pki.sign(&crate::forge::params(&[WEB]), &self::key());
    check(&plugged.root, &pem::encode("CERTIFICATE", &leaf), "not usable");
    let other = pem::encode("CERTIFICATE", &Pki::new("another").root);
    check(&plugged.root, &other.repeat(2), "is not good");
    let many: String = (0..9).map(|_| pem::encode("CERTIFICATE", &Pki::new("one").root)).collect();
    check(&plugged.root, &many, "it has 9 roots, and 8 at most");
    let missing = PluggedIntermediate { key: dir.path().join("none.pem"), ..plugged.clone() };
    assert!(refusal(with(dir.path(), missing)).contains("none.pem is missing"));
    CertificateAuthority::open(with(dir.path(), plugged)).expect("good as it is");
}

#[test]
fn changed_files_are_followed_and_bad_ones_are_not() {
    let pki = Pki::new("corporate");
    let dir = tempfile::tempdir().expect("a directory");
    let first = key();
    let plugged = plug(dir.path(), &pki.sign(&params("mesh"), &first), &first, &[&pki.root]);
    let authority = CertificateAuthority::open(with(dir.path(), plugged.clone())).expect("opened");
    let serial = authority.issuer().serial;
    // The key comes a moment before its certificate.
    let second = key();
    fs::write(&plugged.key, second.serialize_pem()).expect("written");
    assert!(authority.refresh().expect_err("refused").to_string().contains("not the key"));
    assert_eq!(authority.issuer().serial, serial);
    check_good(&authority, &pki.root);
    plug(dir.path(), &pki.sign(&params("mesh"), &second), &second, &[&pki.root]);
    assert!(authority.refresh().expect("followed"));
    assert_ne!(authority.issuer().serial, serial);
    check_good(&authority, &pki.root);
    // One that leads elsewhere is not believed by anybody yet.
    let other = Pki::new("another");
    plug(dir.path(), &other.sign(&params("mesh"), &second), &second, &[&other.root]);
    assert!(authority.refresh().expect_err("refused").to_string().contains("nobody trusts it yet"));
    check_good(&authority, &pki.root);
    let error = refusal(with(dir.path(), plugged));
    assert!(error.contains("nobody trusts it yet"), "{error}");
}

#[test]
fn a_users_root_is_replaced_by_adding_it_to_the_file_first() {
    let (old, new) = (Pki::new("old"), Pki::new("new"));
    let (old_root, new_root) = (fingerprint(&old.root), fingerprint(&new.root));
    let dir = tempfile::tempdir().expect("a directory");
    let key = key();
    let under_old = old.sign(&params("mesh"), &key);
    let plugged = plug(dir.path(), &under_old, &key, &[&old.root]);
    let authority = CertificateAuthority::open(with(dir.path(), plugged)).expect("opened");
    let error = authority.add_root().expect_err("refused").to_string();
    assert!(
        error.contains("put the new root beside the old one into") && error.contains("root-cert.pem"),
        "{error}"
    );

    plug(dir.path(), &under_old, &key, &[&old.root, &new.root]);
    assert_eq!(authority.add_root().expect("there"), new_root);
    assert_eq!(roles(&authority), [(Role::Active, old_root.clone()), (Role::Next, new_root.clone())]);
    assert_eq!(authority.bundle().jwt_keys().matches("kid").count(), 2);
    let error = authority.switch(&new_root).expect_err("refused").to_string();
    assert!(error.contains("put certificate and key of an intermediate under the next root"), "{error}");
    authority.withdraw_next(&new_root).expect("the file decides");
    assert_eq!(authority.roots().len(), 2);

    plug(dir.path(), &new.sign(&params("mesh"), &key), &key, &[&new.root, &old.root]);
    authority.switch(&new_root).expect("the files did it");
    assert_eq!(roles(&authority), [(Role::Active, new_root.clone()), (Role::Previous, old_root.clone())]);
    check_good(&authority, &new.root);
    let error = authority.remove_previous(&old_root).expect_err("refused").to_string();
    assert!(error.contains("take the previous root out of"), "{error}");

    plug(dir.path(), &new.sign(&params("mesh"), &key), &key, &[&new.root]);
    authority.remove_previous(&old_root).expect("gone");
    assert_eq!(roles(&authority), [(Role::Active, new_root)]);
}

#[test]
fn a_file_of_roots_names_the_trust_domain_where_they_do_not() {
    let (dir, own) = authority();
    assert_eq!(own.bundle().file(), own.bundle().pem());
    let pki = Pki::new("corporate");
    let key = key();
    let plugged = plug(dir.path(), &pki.sign(&params("mesh"), &key), &key, &[&pki.root]);
    let both = CertificateAuthority::open(with(dir.path(), plugged)).expect("opened").bundle();
    assert!(both.file().starts_with("# spiffe://mesh.local\n-----BEGIN"), "{}", both.file());
    let read = Bundle::from_pem(&both.file()).expect("read");
    assert_eq!((read.trust_domain(), read.fingerprints()), ("mesh.local", both.fingerprints()));
    let check = |text: &str, words: &str| {
        let error = Bundle::from_pem(text).expect_err("refused").to_string();
        assert!(error.contains(words), "{error}");
    };
    check(&both.file().replace("mesh.local", "other.local"), "several trust domains");
    let alone = pem::encode("CERTIFICATE", &pki.root);
    check(&alone, "write a line `# spiffe://TRUST-DOMAIN` before");
    check(&format!("# spiffe://Bad Name\n{alone}"), "a character outside");
}

#[test]
fn a_mesh_with_a_root_of_its_own_goes_over_by_a_rotation() {
    let (dir, own) = authority();
    let own_root = own.roots()[0].fingerprint.clone();
    let pki = Pki::new("corporate");
    let root = fingerprint(&pki.root);
    let key = key();
    let plugged = plug(dir.path(), &pki.sign(&params("mesh"), &key), &key, &[&pki.root]);
    let authority = CertificateAuthority::open(with(dir.path(), plugged.clone())).expect("opened");
    // All trust it; nothing is signed by it yet.
    assert_eq!(roles(&authority), [(Role::Active, own_root.clone()), (Role::Next, root.clone())]);
    assert_eq!(authority.issuer(), own.issuer());
    assert_eq!(authority.add_root().expect("there"), root);
    // Who changes their mind starts without it.
    let without = CertificateAuthority::open(options(dir.path())).expect("opened");
    assert_eq!(without.roots().len(), 1);
    let authority = CertificateAuthority::open(with(dir.path(), plugged.clone())).expect("opened");
    authority.switch(&root).expect("switched");
    assert_eq!(authority.issuer().root, root);
    check_good(&authority, &pki.root);
    authority.switch_back(&own_root).expect("switched back");
    assert!(!authority.issuer().plugged);
    authority.switch(&root).expect("switched");
    authority.remove_previous(&own_root).expect("removed");
    assert_eq!(roles(&authority), [(Role::Active, root)]);
    assert!(files_in(&dir.path().join("ca")).iter().all(|name| !name.ends_with("root-key.pem")));
    let error = refusal(options(dir.path()));
    assert!(error.contains("whose files must be given as before"), "{error}");
}
