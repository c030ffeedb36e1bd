//! The books: lines over TCP. `append <id> <cents>` is answered by `ok <n>`, where `n` counts the entries;
//! anything else by `error <why>` and the end of the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::server::{MAX_CONNECTIONS, Stop, drain, refused_accept};

/// Longest line, its end included: an order's name and a sum.
const MAX_LINE_BYTES: u64 = 1024;

/// Serves until told to stop, then lets the lines under way finish.
pub(super) async fn serve(listener: TcpListener, mut stop: Stop) {
    let entries = Arc::new(AtomicU64::new(0));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.wait() => break,
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, Arc::clone(&entries), stop.clone()));
                }
                Err(error) => refused_accept(&error).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    drop(listener);
    drain(connections).await;
}

async fn serve_connection(stream: TcpStream, entries: Arc<AtomicU64>, mut stop: Stop) {
    // Small answers go out at once; where the kernel refuses, they go out later.
    let _ = stream.set_nodelay(true);
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut stream).take(MAX_LINE_BYTES);
        let read = tokio::select! {
            read = limited.read_until(b'\n', &mut line) => read,
            () = stop.wait() => return,
        };
        if !matches!(read, Ok(1..)) {
            return;
        }
        let answer = answer(&line, &entries);
        let (Ok(text) | Err(text)) = &answer;
        if stream.write_all(text.as_bytes()).await.is_err() || answer.is_err() {
            return;
        }
    }
}

/// The answer to a line; an error ends the connection.
fn answer(line: &[u8], entries: &AtomicU64) -> Result<String, String> {
    let refused = |why: &str| format!("error {why}\n");
    let line = line.strip_suffix(b"\n").ok_or_else(|| refused("a line is too long or has no end"))?;
    let line = std::str::from_utf8(line).map_err(|_| refused("a line is not UTF-8"))?;
    let mut words = line.split(' ');
    let entry = (words.next(), words.next(), words.next().map(str::parse::<u64>), words.next());
    match entry {
        (Some("append"), Some(_), Some(Ok(_)), None) => {
            Ok(format!("ok {}\n", entries.fetch_add(1, Ordering::Relaxed) + 1))
        }
        _ => Err(refused("expected: append <id> <cents>")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Result<&str, &str>) {
        let got = answer(line.as_bytes(), &AtomicU64::new(6));
        assert_eq!(got.as_ref().map(String::as_str).map_err(String::as_str), expected, "{line:?}");
    }

    #[test]
    fn only_whole_entries_are_booked() {
        check("append order-1 250\n", Ok("ok 7\n"));
        check("append order-1 250", Err("error a line is too long or has no end\n"));
        check("append order-1\n", Err("error expected: append <id> <cents>\n"));
        check("append order-1 -3\n", Err("error expected: append <id> <cents>\n"));
        check("append order-1 3 4\n", Err("error expected: append <id> <cents>\n"));
        check("remove order-1 3\n", Err("error expected: append <id> <cents>\n"));
        check("\n", Err("error expected: append <id> <cents>\n"));
    }
}
