//! Requests that try to get past policy: spellings of a denied path, hosts, fields with several values, forged addresses,
//! fields named hop by hop, tokens. The origin records what arrives: nothing that is denied does.

#[path = "hostile_requests/tokens.rs"]
mod tokens;

use std::net::SocketAddr;

use e2e::captured::Mesh;
use e2e::forge::Shown;
use e2e::http::{self, Answer, Connection};
use e2e::origin::{HELLO, Origin};
use e2e::program::Program;
use e2e::{eventually, free_address, tls};

const CONFIG: &str = "apiVersion: v1
kind: Service
metadata: { name: cart, namespace: shop }
spec: { selector: { app: cart }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: v1
kind: Service
metadata: { name: fields, namespace: shop }
spec: { selector: { app: fields }, ports: [{ name: http, port: 80, targetPort: 8080 }] }
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: paths, namespace: shop }
spec:
  selector: { matchLabels: { app: cart } }
  action: DENY
  rules:
    - to: [{ operation: { paths: [\"/admin\", \"/admin/*\"] } }]
    - to: [{ operation: { hosts: [\"admin.example.com\"] } }]
    - to: [{ operation: { methods: [\"DELETE\"] } }]
    - when: [{ key: \"request.headers[x-role]\", values: [\"admin\"] }]
    - when: [{ key: remote.ip, values: [\"192.0.2.0/24\"] }]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: only, namespace: shop }
spec:
  selector: { matchLabels: { app: fields } }
  action: ALLOW
  rules:
    - to: [{ operation: { paths: [\"/group\"] } }]
      when: [{ key: \"request.headers[x-group]\", values: [\"staff\"] }]
    - to: [{ operation: { paths: [\"/address\"] } }]
      when: [{ key: remote.ip, values: [\"192.0.2.7\"] }]
    - to: [{ operation: { paths: [\"/source\"] } }]
      when: [{ key: source.ip, values: [\"192.0.2.7\"] }]
    - to: [{ operation: { paths: [\"/who\"] } }]
      from: [{ source: { principals: [\"mesh.local/ns/shop/sa/boss\"] } }]
    - to: [{ operation: { paths: [\"/public\"] } }]
";

/// A workload behind its proxy, called directly by mTLS and through the proxy of a caller.
struct World {
    origin: Origin,
    programs: Vec<Program>,
    cart: SocketAddr,
    fields: SocketAddr,
    /// What the caller's application is told: it leads to the cart.
    outbound: SocketAddr,
    web: Shown,
    // Last: its folder has the logs, which programs show where the test fails.
    mesh: Mesh,
}

impl World {
    fn start() -> Self {
        let mesh = Mesh::start(CONFIG);
        let origin = Origin::start(HELLO);
        let (cart, fields, outbound) = (free_address(), free_address(), free_address());
        let to = |bind: SocketAddr| format!("8080={bind}>{}", origin.address());
        let programs = vec![
            mesh.explicit("cart", &["--inbound", &to(cart)]),
            mesh.explicit("fields", &["--inbound", &to(fields)]),
            mesh.explicit("web", &["--outbound", &format!("cart.shop:80={outbound}")]),
        ];
        let state = mesh.state_of("web");
        eventually("the caller has enrolled", || state.join("identity.pem").exists());
        let world = Self { web: Shown::of(&state), mesh, origin, programs, cart, fields, outbound };
        let public = get("/public");
        eventually("both serve", || {
            let direct = [world.cart, world.fields].map(|at| world.direct(at, &public));
            direct.iter().all(|answer| status(answer) == Some(200))
                && http::get(world.outbound, "/public").is_ok_and(|answer| answer.status == 200)
        });
        eventually("policy acts", || {
            status(&world.direct(cart, &get("/admin"))) == Some(403)
                && status(&world.direct(fields, &get("/group"))) == Some(403)
        });
        drop(world.origin.take());
        world
    }

    /// Asks a proxy by mTLS, byte by byte.
    fn direct(&self, at: SocketAddr, request: &[u8]) -> Result<Answer, String> {
        tls::ask(at, Some(&self.web), request)
    }

    /// Asks through the caller's proxy, as its application would.
    fn through(&self, request: &[u8]) -> Result<Answer, String> {
        let exchange = || {
            let mut connection = Connection::open(self.outbound)?;
            connection.send(request)?;
            connection.answer(false)
        };
        exchange().map_err(|error: std::io::Error| error.to_string())
    }

    fn all_live(&mut self) {
        for program in self.programs.iter_mut().chain([self.mesh.control_plane()]) {
            assert!(program.alive() && !program.output().contains("panicked"), "{}", program.output());
        }
    }
}

fn status(answer: &Result<Answer, String>) -> Option<u16> {
    answer.as_ref().ok().map(|answer| answer.status)
}

fn get(target: &str) -> Vec<u8> {
    request(target, "cart", "")
}

fn request(target: &str, host: &str, fields: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n{fields}connection: close\r\n\r\n").into_bytes()
}

/// The head of a recorded request: its first line, and its fields with names in lowercase.
fn head(request: &[u8]) -> (String, Vec<(String, String)>) {
    let text = String::from_utf8_lossy(request).into_owned();
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let fields = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    (first, fields)
}

fn values(request: &[u8], name: &str) -> Vec<String> {
    head(request).1.into_iter().filter(|(known, _)| known == name).map(|(_, value)| value).collect()
}

/// The path as an application may read it: escapes taken off, backslashes as slashes, dots and empty segments
/// resolved.
fn read(target: &str) -> String {
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let path = match path.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => path,
    };
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.filter(|_| first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
    // What C programs take for the end.
    let text = text.split('\0').next().unwrap_or_default();
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

/// Whether an application may take a target for the denied path.
fn is_denied(target: &str) -> bool {
    let path = read(target);
    path == "/admin" || path.starts_with("/admin/")
}

/// Spellings of a path that is denied; each is one for some application behind some proxy.
const SPELLINGS: &[&str] = &[
    "/admin",
    "/admin/secret",
    "/admin/",
    "//admin/secret",
    "///admin///secret",
    "/admin//secret",
    "/./admin/secret",
    "/admin/./secret",
    "/admin/.",
    "/x/../admin/secret",
    "/x/y/../../admin/secret",
    "/../admin/secret",
    "/x//../admin/secret",
    "/admin/x/../secret",
    "/%61dmin/secret",
    "/%61%64%6D%69%6e/secret",
    "/admi%6e",
    "/%2e/admin/secret",
    "/x/%2e%2e/admin/secret",
    "/x/%2E%2e/admin/secret",
    "/x/.%2e/admin/secret",
    "/x/%2e./admin/secret",
    "/x/..%2fadmin/secret",
    "/x/..%2Fadmin/secret",
    "/x/%2e%2e%2fadmin%2fsecret",
    "/%2fadmin/secret",
    "/admin%2fsecret",
    "/admin%2Fsecret",
    "/admin%5csecret",
    "/admin%5Csecret",
    "/admin\\secret",
    "/\\admin\\secret",
    "\\admin\\secret",
    "/x\\..\\admin\\secret",
    "/x/..\\admin/secret",
    "/x/..%5cadmin/secret",
    "/x/%2e%2e%5cadmin/secret",
    "/admin%00/secret",
    "/admin%00",
    "/admin/secret?x=/public",
    "/admin?/public",
    "/admin/secret#/public",
    "/admin#x",
    "/x/../admin?y",
    "http://cart/admin/secret",
    "http://cart//admin/secret",
    "http://cart/x/../admin/secret",
    "http://cart/%61dmin/secret",
    "http://cart\\admin/secret",
    "HTTP://cart/admin/secret",
    "http://cart:80/admin/secret",
    "http://x@cart/admin/secret",
    "https://cart/admin/secret",
    "//cart/../admin/secret",
    "/public/../admin/secret",
    "/public/..//admin/secret",
    "/admin\t",
    "/admin\tsecret",
    "admin/secret",
    "./admin/secret",
    "/%61dmin%2fsecret%3fx",
    // Of what is no escape comes one, with what is decoded behind it.
    "/x/%2%65%2%65/admin/secret",
    "/x/%%32%65%%32%65/admin/secret",
    "/%%361dmin/secret",
    "/x/..%%32fadmin%%32fsecret",
    "/admin;/../admin/secret",
    "/x/..;/../admin/secret",
];

#[test]
fn no_spelling_of_a_denied_path_arrives() {
    let mut world = World::start();
    assert!(SPELLINGS.len() >= 40);
    let mut wrong = Vec::new();
    for spelling in SPELLINGS {
        let request = get(spelling);
        for place in ["direct", "through"] {
            let is_direct = place == "direct";
            let answer = if is_direct { world.direct(world.cart, &request) } else { world.through(&request) };
            let arrived = world.origin.take();
            for one in &arrived {
                let (first, _) = head(one);
                let target = first.split_once(' ').map(|(_, rest)| rest.trim_end_matches(" HTTP/1.1"));
                if target.is_none_or(is_denied) {
                    wrong.push(format!("{place}: {spelling:?} arrived as {first:?}, answered {answer:?}"));
                }
            }
            // What is not forwarded is refused by name: denied, not a good request, or another form of it.
            let refused = matches!(status(&answer), None | Some(400 | 403 | 307 | 308 | 404));
            if arrived.is_empty() && !refused {
                wrong.push(format!("{place}: {spelling:?} was answered {answer:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Where the proxy sees a path that only looks alike, nobody is kept from it.
    for fine in ["/public", "/administrator", "/x/admin", "/adm", "/public?/admin", "/a/b/../admin"] {
        let answer = world.direct(world.cart, &get(fine));
        assert_eq!(status(&answer), Some(200), "{fine}: {answer:?}");
    }
    world.all_live();
}

#[test]
fn no_spelling_of_a_denied_path_arrives_by_http2() {
    let mut world = World::start();
    let mut wrong = Vec::new();
    for spelling in SPELLINGS.iter().filter(|path| path.starts_with('/')) {
        let outcome = e2e::grpc::ask_path(world.cart, &world.web, "cart", spelling.as_bytes());
        for one in world.origin.take() {
            let (first, _) = head(&one);
            let target = first.split_once(' ').map(|(_, rest)| rest.trim_end_matches(" HTTP/1.1"));
            if target.is_none_or(is_denied) {
                wrong.push(format!("{spelling:?} arrived as {first:?}, answered {outcome:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    world.all_live();
}

/// Whether a request names the denied host, as an application reads it.
fn names_admin(request: &[u8]) -> bool {
    let (first, _) = head(request);
    let absolute = first.split(' ').nth(1).and_then(|target| target.split_once("://")).map(|(_, rest)| rest);
    let absolute = absolute.map(|rest| rest.split(['/', '?']).next().unwrap_or_default().to_owned());
    let hosts = values(request, "host").into_iter().chain(absolute);
    hosts.into_iter().any(|host| {
        let host = host.rsplit('@').next().unwrap_or_default().to_ascii_lowercase();
        let host = host.split(':').next().unwrap_or_default().trim_end_matches('.').trim().to_owned();
        host == "admin.example.com"
    })
}

#[test]
fn no_spelling_of_a_denied_host_arrives() {
    let mut world = World::start();
    let mut wrong = Vec::new();
    let hosts = [
        "admin.example.com",
        "ADMIN.example.com",
        "Admin.Example.Com",
        "admin.example.com:80",
        "admin.example.com:8080",
        "admin.example.com:",
        "admin.example.com.",
        "ADMIN.EXAMPLE.COM.:80",
        "x@admin.example.com",
        "admin.example.com ",
        "\tadmin.example.com",
        "admin.example.com\t:80",
        "admin.example.com, cart",
        "cart, admin.example.com",
        "admin%2eexample.com",
        "admin.example.com/",
        "admin.example.com#",
        "admin.example.com\\x",
    ];
    let mut requests: Vec<Vec<u8>> = hosts.iter().map(|host| request("/public", host, "")).collect();
    for host in ["admin.example.com", "ADMIN.example.com:80", "admin.example.com."] {
        requests.push(request(&format!("http://{host}/public"), "cart", ""));
        requests.push(request("/public", "cart", &format!("host: {host}\r\n")));
        requests.push(request("/public", host, "host: cart\r\n"));
        requests.push(request("/public", "cart", &format!("Host : {host}\r\n")));
        requests.push(request("/public", "cart", &format!("x: y\r\n host: {host}\r\n")));
        requests.push(format!("GET /public HTTP/1.0\r\nhost: {host}\r\n\r\n").into_bytes());
        requests.push(format!("GET http://{host}/public HTTP/1.1\r\nconnection: close\r\n\r\n").into_bytes());
    }
    for bytes in requests {
        let answer = world.direct(world.cart, &bytes);
        for one in world.origin.take().iter().filter(|one| names_admin(one)) {
            let (sent, came) = (String::from_utf8_lossy(&bytes), String::from_utf8_lossy(one));
            wrong.push(format!("{sent:?} arrived as {came:?}, answered {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A forwarded host is for the application to know, and not where policy looks.
    let fine = request("/public", "cart", "x-forwarded-host: admin.example.com\r\n");
    assert_eq!(status(&world.direct(world.cart, &fine)), Some(200));
    world.all_live();
}

#[test]
fn a_denied_value_never_hides_among_others() {
    let mut world = World::start();
    let mut wrong = Vec::new();
    let fields = [
        "x-role: admin\r\n",
        "X-Role: admin\r\n",
        "X-ROLE:admin\r\n",
        "x-role:   admin\t \r\n",
        "x-role: user\r\nx-role: admin\r\n",
        "x-role: admin\r\nx-role: user\r\n",
        "x-role: user\r\nX-Role: admin\r\nx-ROLE: user\r\n",
        "x-role: \r\nx-role: admin\r\n",
        "x-role : admin\r\n",
        "x-role\t: admin\r\n",
        " x-role: admin\r\n",
        "x: y\r\n x-role: admin\r\n",
        "x-role:\r\n admin\r\n",
        "x-role: ad\r\n min\r\n",
        "x-role: admin\r\nconnection: x-role\r\n",
        "connection: x-role\r\nx-role: admin\r\n",
        "x-role: user\r\nconnection: x-role, close\r\nx-role: admin\r\n",
        "x-role: admin\0\r\n",
        "x-role: user\nx-role: admin\r\n",
        "x-role: user\rx-role: admin\r\n",
    ];
    for field in fields {
        let bytes = format!("GET /public HTTP/1.1\r\nhost: cart\r\n{field}\r\n").into_bytes();
        let answer = world.direct(world.cart, &bytes);
        for one in world.origin.take() {
            let roles = values(&one, "x-role");
            let text = String::from_utf8_lossy(&one).to_ascii_lowercase();
            if roles.iter().any(|role| role.trim_matches('\0') == "admin") || text.contains("x-role: admin") {
                wrong.push(format!("{field:?} arrived as {text:?}, answered {answer:?}"));
            }
        }
    }
    // What a field says is compared letter by letter: another value is another value.
    for fine in ["x-role: user\r\n", "x-role: administrator\r\n", "x-role: Admin\r\n", "y-role: admin\r\n"] {
        let answer = world.direct(world.cart, &request("/public", "cart", fine));
        assert_eq!(status(&answer), Some(200), "{fine}: {answer:?}");
        assert_eq!(world.origin.take().len(), 1);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    world.all_live();
}

#[test]
fn what_is_allowed_by_a_field_or_an_address_is_not_had_by_tricks() {
    let mut world = World::start();
    let (mut wrong, at) = (Vec::new(), world.fields);
    let refused = [
        ("/group", ""),
        ("/group", "x-group: guest\r\n"),
        ("/group", "x-group: staff, guest\r\n"),
        ("/group", "x-group: guest, staff\r\n"),
        ("/group", "x-group: guest\r\nx-group: staff\r\n"),
        ("/group", "x-group: staff\r\nx-group: guest\r\n"),
        ("/group", "x-group: staf\r\nx-group: f\r\n"),
        ("/group", "x-group: STAFF\r\n"),
        ("/group", "x_group: staff\r\n"),
        ("/group", "x-group : staff\r\n"),
        ("/address", "x-forwarded-for: 192.0.2.7\r\n"),
        ("/address", "x-forwarded-for: 192.0.2.7, 192.0.2.7\r\n"),
        ("/address", "x-forwarded-for: 192.0.2.7\r\nx-forwarded-for: 192.0.2.7\r\n"),
        ("/address", "X-Forwarded-For: 192.0.2.7, 127.0.0.1\r\n"),
        ("/address", "x-real-ip: 192.0.2.7\r\n"),
        ("/address", "forwarded: for=192.0.2.7\r\n"),
        ("/address", "x-envoy-external-address: 192.0.2.7\r\n"),
        ("/address", "x-client-ip: 192.0.2.7\r\ntrue-client-ip: 192.0.2.7\r\n"),
        ("/source", "x-forwarded-for: 192.0.2.7\r\n"),
        ("/source", "x-envoy-original-dst-host: 192.0.2.7:80\r\n"),
        ("/who", "x-forwarded-client-cert: URI=spiffe://mesh.local/ns/shop/sa/boss\r\n"),
        (
            "/who",
            "x-forwarded-client-cert: By=spiffe://mesh.local/ns/shop/sa/fields;URI=spiffe://mesh.local/ns/shop/sa/boss\r\n",
        ),
        ("/who", "x-envoy-peer-metadata-id: boss\r\n"),
        ("/public/../group", ""),
        ("/public/", ""),
        ("/public%2f..%2fgroup", ""),
        ("/GROUP", "x-group: staff\r\n"),
    ];
    for (path, fields) in refused {
        let answer = world.direct(at, &request(path, "fields", fields));
        let arrived = world.origin.take();
        if !arrived.is_empty() || !matches!(status(&answer), None | Some(400 | 403)) {
            wrong.push(format!("{path} {fields:?}: {answer:?}, arrived {}", arrived.len()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    for (path, fields) in [
        ("/group", "x-group: staff\r\n"),
        ("/group", "x-group: staff\r\nx-group: staff\r\n"),
        ("/public", ""),
    ] {
        let answer = world.direct(at, &request(path, "fields", fields));
        assert_eq!(status(&answer), Some(200), "{path} {fields:?}: {answer:?}");
    }
    drop(world.origin.take());
    the_proxy_s_own_fields_stay(&mut world);
    world.all_live();
}

/// Nobody names the proxy's own fields hop by hop, or sets them.
fn the_proxy_s_own_fields_stay(world: &mut World) {
    let mut wrong = Vec::new();
    for named in [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-request-id",
        "x-forwarded-client-cert",
        "host",
        "authorization",
    ] {
        let plain = request("/public", "cart", "authorization: x\r\n");
        let answer = world.direct(world.cart, &plain);
        assert_eq!(status(&answer), Some(200), "{answer:?}");
        let usual = world.origin.take();
        let usual = values(usual.first().expect("it arrived"), named).len();
        let tricky = format!("authorization: x\r\nconnection: {named}\r\n");
        let answer = world.direct(world.cart, &request("/public", "cart", &tricky));
        let arrived = world.origin.take();
        // Refused, or as if it had not been named; the client's own fields may be taken off as it asked.
        let is_own = named == "authorization";
        for one in &arrived {
            if values(one, named).len() < usual && !is_own {
                wrong.push(format!(
                    "connection: {named} took it off: {answer:?}, {}",
                    String::from_utf8_lossy(one)
                ));
            }
        }
    }
    let forged =
        "x-forwarded-client-cert: URI=spiffe://mesh.local/ns/shop/sa/boss\r\nx-forwarded-for: 192.0.2.9\r\n";
    let answer = world.direct(world.fields, &request("/public", "fields", forged));
    assert_eq!(status(&answer), Some(200), "{answer:?}");
    for one in world.origin.take() {
        let client = values(&one, "x-forwarded-client-cert").join(",");
        if client.contains("sa/boss") {
            wrong.push(format!("a forged certificate's field arrived: {client}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
