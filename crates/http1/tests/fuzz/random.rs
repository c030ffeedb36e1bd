//! Bytes at random, but the same ones for the same seed: from pieces, by mutation, and from a grammar.

use std::{fs, path::PathBuf};

/// Rounds of each property: enough to meet every branch, few enough to stay far below a second.
pub(super) const ROUNDS: u64 = 3000;

/// So many rounds, times `MESHWORK_FUZZ` where that is set: for a night's run.
pub(super) fn rounds(few: u64) -> u64 {
    let times = std::env::var("MESHWORK_FUZZ").ok().and_then(|times| times.parse().ok());
    few * times.unwrap_or(1)
}

/// Pieces from which messages are made up, valid and not.
const PIECES: &[&[u8]] = &[
    b"GET ",
    b"POST ",
    b"CONNECT ",
    b"HEAD ",
    b"OPTIONS ",
    b"/",
    b"*",
    b"/a?b=c",
    b"http://a/",
    b"a:80",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 204 \r\n",
    b"HTTP/1.1 101 x\r\n",
    b"HTTP/1.0 200\r\n",
    b"Host: a\r\n",
    b"Host:",
    b"Content-Length: 5\r\n",
    b"Content-Length:",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding:",
    b"Connection: close, upgrade, x\r\n",
    b"Connection:",
    b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"TE: trailers\r\n",
    b"X: y\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b"\n",
    b" ",
    b"\t",
    b"\0",
    b":",
    b",",
    b";",
    b"chunked",
    b"5",
    b"0",
    b"0\r\n",
    b"5\r\nhello\r\n",
    b"a;b=c\r\n",
    b"ffffffffffffffff",
    b"\x7f",
    b"\xff",
];

/// A small generator (xorshift64*): the same seed gives the same bytes everywhere.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % bound
    }

    pub(super) fn bytes(&mut self, max: usize) -> Vec<u8> {
        (0..self.below(max + 1)).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }

    pub(super) fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        from[self.below(from.len())]
    }

    /// Bytes that resemble a message: pieces in random order, now and then a random byte.
    pub(super) fn message(&mut self) -> Vec<u8> {
        let mut message = Vec::new();
        for _ in 0..self.below(20) {
            message.extend_from_slice(self.pick(PIECES));
            if self.below(20) == 0 {
                message.extend(self.bytes(2));
            }
        }
        message
    }

    /// One to `max` bytes of an alphabet, and now and then any others, so that both outcomes are met.
    pub(super) fn text(&mut self, max: usize, alphabet: &[u8]) -> Vec<u8> {
        let len = 1 + self.below(max);
        let mut text: Vec<u8> = (0..len).map(|_| alphabet[self.below(alphabet.len())]).collect();
        if self.below(40) == 0 {
            let at = self.below(len);
            text.splice(at..at, self.bytes(3));
        }
        text
    }

    pub(super) fn name(&mut self) -> Vec<u8> {
        if self.below(8) == 0 { self.pick(NAMES).to_vec() } else { self.text(6, b"abcXYZ019-_.!") }
    }
}

/// Names that writers answer for themselves, or treat in a way of their own.
const NAMES: &[&[u8]] = &[
    b"te",
    b"Host",
    b"Content-Length",
    b"content-length ",
    b"Transfer-Encoding",
    b"transfer_encoding",
    b"Connection",
    b"upgrade",
    b":path",
];

impl Random {
    /// A valid message of a corpus with a few bytes changed, removed, or replaced by a piece.
    pub(super) fn mutated(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut message = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(3) {
            let at = self.below(message.len() + 1);
            let end = (at + self.below(4)).min(message.len());
            match self.below(3) {
                0 => drop(message.splice(at..end, self.pick(PIECES).iter().copied())),
                1 => drop(message.splice(at..end, self.bytes(2))),
                _ => drop(message.drain(at..end)),
            }
        }
        message
    }
}

/// The valid files of a corpus, in the order of their names.
pub(super) fn valid(corpus: &str) -> Vec<Vec<u8>> {
    files(corpus, |outcome| outcome == "ok")
}

/// All files of a corpus.
pub(super) fn all(corpus: &str) -> Vec<Vec<u8>> {
    files(corpus, |_| true)
}

fn files(corpus: &str, wanted: impl Fn(&str) -> bool) -> Vec<Vec<u8>> {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz", "corpus", corpus].iter().collect();
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_stem().is_some_and(|stem| wanted(&stem.to_string_lossy())));
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

// === from a grammar ===

/// Field lines that mean something to somebody, or look as if they did.
const FIELDS: &[&[u8]] = &[
    b"X: y",
    b"x-empty:",
    b"X-Padded: \t a  b\t ",
    b"Cookie: a=b; c=d",
    b"X-High: \x80\xfe\xff",
    b"Accept: */*",
    b"TE: trailers",
    b"TE: gzip, trailers",
    b"Connection: keep-alive",
    b"Connection: te, x",
    b"Connection: close",
    b"Keep-Alive: timeout=5",
    b"Upgrade: h2c",
    b"Upgrade: websocket",
    b"Trailer: x-sum",
    b"Expect: 100-continue",
    b"Proxy-Connection: keep-alive",
    b"Content_Length: 7",
    b"X-Transfer-Encoding: chunked",
    b"Proxy-Authorization: basic",
];

/// Field lines that two readers read differently; now and then one gets in.
const TRAPS: &[&[u8]] = &[
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: +5",
    b"Content-Length: 5, 5",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: chunked\x0b",
    b"Host: other",
    b" folded: x",
    b"bad\nline: x",
    b"bad\rline: x",
    b"X\0: y",
    b"no colon",
    b": x",
];

impl Random {
    /// True once in `n` times.
    pub(super) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One to four requests behind each other; mostly well-formed.
    pub(super) fn requests(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in 0..=self.below(4) {
            self.request(&mut out);
        }
        self.spoil(&mut out);
        out
    }

    fn request(&mut self, out: &mut Vec<u8>) {
        if self.once_in(20) {
            out.extend_from_slice(b"\r\n");
        }
        let line: &[u8] = match self.below(12) {
            0 => b"HEAD /a?b=c HTTP/1.1",
            1 => b"OPTIONS * HTTP/1.1",
            2 => b"GET http://a/x HTTP/1.1",
            3 => b"GET HTTP://A HTTP/1.1",
            4 => b"get /%41/../b;c=d@e?f=g/h HTTP/1.1",
            5 => b"GET / HTTP/1.0",
            6 if self.once_in(4) => b"CONNECT a:80 HTTP/1.1",
            7 => b"X-M!#$%&'*+.^_`|~ //a HTTP/1.1",
            8 | 9 => b"POST /post HTTP/1.1",
            _ => b"GET / HTTP/1.1",
        };
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\nHost: a\r\n");
        self.fields_and_body(out);
    }

    /// A response to a request, interim ones before it; mostly well-formed.
    pub(super) fn response(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while self.once_in(6) {
            out.extend_from_slice(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        }
        out.extend_from_slice(if self.once_in(10) { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        out.extend_from_slice(self.pick(&[
            b"200 OK",
            b"200",
            b"204 No",
            b"304 ",
            b"500 \xe9\t!",
            b"999 x",
            b"206 P",
        ]));
        out.extend_from_slice(b"\r\n");
        self.fields_and_body(&mut out);
        if self.once_in(8) {
            out.extend_from_slice(b"surplus");
        }
        self.spoil(&mut out);
        out
    }

    fn fields_and_body(&mut self, out: &mut Vec<u8>) {
        let mut lines: Vec<&[u8]> = (0..self.below(4)).map(|_| self.pick(FIELDS)).collect();
        if self.once_in(12) {
            lines.push(self.pick(TRAPS));
        }
        let data = self.bytes(40);
        let (length, is_chunked) = (format!("Content-Length: {}", data.len()), self.once_in(3));
        let has_body = is_chunked || self.once_in(2);
        if has_body {
            let at = self.below(lines.len() + 1);
            lines.insert(at, if is_chunked { b"Transfer-Encoding: chunked" } else { length.as_bytes() });
        }
        for line in lines {
            out.extend_from_slice(line);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if is_chunked {
            self.chunks(&data, out);
        } else if has_body {
            out.extend_from_slice(&data);
        }
    }

    /// A chunked body in one of its spellings.
    pub(super) fn chunks(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let mut rest = data;
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(1 + self.below(rest.len()));
            rest = left;
            let size = match self.below(3) {
                0 => format!("{:x}", piece.len()),
                1 => format!("{:X}", piece.len()),
                _ => format!("000{:x}", piece.len()),
            };
            out.extend_from_slice(size.as_bytes());
            if self.once_in(4) {
                out.extend_from_slice(self.pick(&[b";a", b";a=b;c", b";a=\"b c\"", b";"]));
            }
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(piece);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(self.pick(&[b"0\r\n", b"00\r\n", b"0;a=b\r\n"]));
        while self.once_in(4) {
            out.extend_from_slice(self.pick(&[b"X-Sum: 1\r\n", b"grpc-status: 0\r\n", b"Cookie: x\r\n"]));
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Now and then changes, removes, doubles or inserts a byte or a piece.
    pub(super) fn spoil(&mut self, out: &mut Vec<u8>) {
        while self.once_in(3) && !out.is_empty() {
            let at = self.below(out.len());
            let end = (at + self.below(3)).min(out.len());
            match self.below(4) {
                0 => drop(out.splice(at..end, self.pick(PIECES).iter().copied())),
                1 => drop(out.splice(at..end, self.bytes(2))),
                2 => drop(out.splice(at..at, out[at..end].to_vec())),
                _ => drop(out.drain(at..end)),
            }
        }
    }
}
