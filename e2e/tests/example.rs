//! `examples/unmodified`, as its README says to run it.

use std::process::{Command, Stdio};

use e2e::captured::Mesh;
use e2e::program::Program;
use e2e::{eventually, free_address};

/// The script with the addresses of a mesh of its own, as the ordinary user of a test's folder.
struct Shop {
    mesh: Mesh,
    script: String,
    addresses: [String; 2],
}

impl Shop {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.script);
        let folder = self.mesh.scratch().join("home/mesh");
        e2e::user::ordinary(&mut command, &self.mesh.scratch().join("home"));
        command.arg(words[0]).arg(folder).args(&words[1..]);
        command.env("MESHWORK", self.mesh.scratch().join("meshwork"));
        command.env("LISTEN", &self.addresses[0]).env("API", &self.addresses[1]);
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin");
        command.env(e2e::leftovers::VARIABLE, self.mesh.scratch()).stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> (Option<i32>, String) {
        let output = self.command(&[&["run"], words].concat()).output().expect("sh");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

#[test]
fn the_shop_from_unmodified_programs_sells() {
    let mesh = Mesh::start("");
    let script = mesh.copy("examples/unmodified") + "/shop.sh";
    let addresses = [free_address().to_string(), free_address().to_string()];
    let mut shop = Shop { mesh, script, addresses };
    let mut up = Program::start("shop", shop.mesh.scratch(), &mut shop.command(&["up"]));
    eventually("the control plane is there", || {
        assert!(up.alive(), "{}", up.output());
        shop.mesh.scratch().join("home/mesh/control-plane/bundle.pem").exists()
    });
    let items = ["customer", "curl", "-sSf", "http://web:8080/items/items.json"];
    eventually("what is sold is shown", || shop.run(&items).1.contains("teapot"));
    let refused = [
        "customer",
        "curl",
        "-sS",
        "-w",
        "%{http_code}",
        "-o",
        "/dev/null",
        "http://catalog:8080/items.json",
    ];
    assert_eq!(shop.run(&refused).1, "403");
    eventually("the till counts", || {
        shop.run(&["till", "redis-cli", "-h", "redis", "incr", "sold"]).1 == "1"
    });
    let (_, said) = shop.run(&["customer", "redis-cli", "-h", "redis", "get", "sold"]);
    assert_ne!(said, "\"1\"");
    assert_ne!(said, "1");
    shop.mesh.trace().look();
    assert!(up.terminate().success(), "{}", up.output());
    shop.mesh.nothing_is_left();
}
