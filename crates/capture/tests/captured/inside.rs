//! The program's role: does one thing, and prints how it went.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) fn act(arguments: &[String]) -> ExitCode {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["connect", addresses @ ..] => addresses.iter().for_each(|address| print(connect(address))),
        ["send", addresses @ ..] => addresses.iter().for_each(|address| print(send(address))),
        ["raw"] => print(raw()),
        ["listen", address] => listen(address).expect("served"),
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

fn print(outcome: io::Result<String>) {
    println!("{}", outcome.unwrap_or_else(|error| format!("{:?}", error.kind())).trim());
}

fn connect(address: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.parse().expect("address"), TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn send(address: &str) -> io::Result<String> {
    let address: SocketAddr = address.parse().expect("address");
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.send_to(b"catalog", address)?;
    let mut answer = [0; 512];
    let (length, from) = socket.recv_from(&mut answer)?;
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    Ok(format!("{from}: {}", text.split_once(" asked ").map_or("", |(_, query)| query)))
}

fn raw() -> io::Result<String> {
    use socket2::{Domain, Protocol, Socket, Type};
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).map(|_| "a raw socket".to_owned())
}

/// Tells each peer its own address.
fn listen(address: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    println!("listening");
    loop {
        let (mut stream, peer) = listener.accept()?;
        writeln!(stream, "{}", peer.ip())?;
    }
}
