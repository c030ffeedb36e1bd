//! HPACK: what a client's header blocks say, and blocks without compression. Source: RFC 7541.

use std::collections::VecDeque;
use std::sync::LazyLock;

use super::Malformed;

/// The dynamic table as both sides begin with it; we never announce another size. Source: RFC 9113 §6.5.2.
const TABLE_BYTES: usize = 4096;
/// What each entry counts beside its bytes. Source: RFC 7541 §4.1.
const ENTRY: usize = 32;
/// All fields of one block, counted as entries.
const MAX_FIELDS: usize = 64 * 1024;
/// The longest code, bits.
const LONGEST: usize = 30;
/// The symbol that no text has.
const END: usize = 256;

/// Lengths of the Huffman codes of all bytes and of the end; the code is the canonical one. Source: RFC 7541, appendix B.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// Source: RFC 7541, appendix A.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// A header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// One direction of a connection.
pub(super) struct Decoder {
    table: VecDeque<Field>,
    bytes: usize,
    limit: usize,
}

impl Field {
    fn size(&self) -> usize {
        self.name.len() + self.value.len() + ENTRY
    }
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { table: VecDeque::new(), bytes: 0, limit: TABLE_BYTES }
    }

    /// Reads a whole block.
    ///
    /// # Errors
    /// It is not HPACK, or too large.
    pub(super) fn decode(&mut self, block: &[u8]) -> Result<Vec<Field>, Malformed> {
        let (mut rest, mut fields, mut size) = (block, Vec::new(), 0);
        while let Some(first) = rest.first().copied() {
            let field = match first {
                0x80.. => self.field(number(&mut rest, 7)?)?,
                0x40.. => {
                    let field = self.literal(&mut rest, 6)?;
                    self.insert(field.clone());
                    field
                }
                0x20.. => {
                    let limit = number(&mut rest, 5)?;
                    if limit > TABLE_BYTES {
                        return Err(Malformed("the table would be larger than was allowed"));
                    }
                    self.limit = limit;
                    self.evict(0);
                    continue;
                }
                _ => self.literal(&mut rest, 4)?,
            };
            size += field.size();
            if size > MAX_FIELDS {
                return Err(Malformed("the fields of a block are larger than 64 KiB"));
            }
            fields.push(field);
        }
        Ok(fields)
    }

    fn literal(&self, rest: &mut &[u8], prefix: u32) -> Result<Field, Malformed> {
        let name = match number(rest, prefix)? {
            0 => text(rest)?,
            index => self.field(index)?.name,
        };
        Ok(Field { name, value: text(rest)? })
    }

    fn field(&self, index: usize) -> Result<Field, Malformed> {
        let absent = Malformed("a field has a number that there is not");
        let Some(place) = index.checked_sub(1) else { return Err(absent) };
        if let Some((name, value)) = STATIC.get(place) {
            return Ok(Field { name: name.as_bytes().to_vec(), value: value.as_bytes().to_vec() });
        }
        self.table.get(place - STATIC.len()).cloned().ok_or(absent)
    }

    fn insert(&mut self, field: Field) {
        let size = field.size();
        self.evict(size);
        if size <= self.limit {
            self.bytes += size;
            self.table.push_front(field);
        }
    }

    /// Makes room.
    fn evict(&mut self, size: usize) {
        while self.bytes + size > self.limit
            && let Some(oldest) = self.table.pop_back()
        {
            self.bytes -= oldest.size();
        }
    }
}

/// A number that begins in the low bits of a byte. Source: RFC 7541 §5.1.
fn number(rest: &mut &[u8], prefix: u32) -> Result<usize, Malformed> {
    let short = Malformed("a block ends within a field");
    let mask = (1_u8 << prefix) - 1;
    let (first, mut after) = rest.split_first().ok_or(short)?;
    let mut value = usize::from(first & mask);
    if first & mask == mask {
        // Three bytes more are enough for anything in a block.
        for shift in [0, 7, 14, 21] {
            let (next, following) = after.split_first().ok_or(Malformed("a block ends within a number"))?;
            after = following;
            if shift == 21 {
                return Err(Malformed("a number is larger than any in a block"));
            }
            value += usize::from(next & 0x7f) << shift;
            if next & 0x80 == 0 {
                break;
            }
        }
    }
    *rest = after;
    Ok(value)
}

/// A text, as it is or by Huffman's code. Source: RFC 7541 §5.2.
fn text(rest: &mut &[u8]) -> Result<Vec<u8>, Malformed> {
    let is_huffman = rest.first().is_some_and(|first| first & 0x80 != 0);
    let length = number(rest, 7)?;
    let (bytes, after) = rest.split_at_checked(length).ok_or(Malformed("a block ends within a text"))?;
    *rest = after;
    if is_huffman { huffman(bytes).ok_or(Malformed("a text's code is wrong")) } else { Ok(bytes.to_vec()) }
}

/// Codes of one length: the first of them, how many there are, and where their symbols begin.
#[derive(Clone, Copy, Default)]
struct Level {
    first: usize,
    count: usize,
    place: usize,
}

/// The canonical code: shorter codes first, and of one length in the order of their symbols.
static CODE: LazyLock<([Level; LONGEST + 1], Vec<usize>)> = LazyLock::new(|| {
    let mut levels = [Level::default(); LONGEST + 1];
    let (mut symbols, mut code) = (Vec::with_capacity(LENGTHS.len()), 0);
    for (length, level) in levels.iter_mut().enumerate().skip(1) {
        code <<= 1;
        let place = symbols.len();
        symbols.extend((0..LENGTHS.len()).filter(|symbol| usize::from(LENGTHS[*symbol]) == length));
        *level = Level { first: code, count: symbols.len() - place, place };
        code += level.count;
    }
    (levels, symbols)
});

/// Decodes; `None` where it is no text. Each symbol takes five bits at least, so the text is not twice as long.
fn huffman(bytes: &[u8]) -> Option<Vec<u8>> {
    let (levels, symbols) = &*CODE;
    let mut text = Vec::with_capacity(bytes.len() * 2);
    let (mut code, mut length) = (0, 0);
    for bit in bytes.iter().flat_map(|byte| (0..8).rev().map(move |shift| usize::from(byte >> shift & 1))) {
        code = code << 1 | bit;
        length += 1;
        let level = levels.get(length)?;
        if let Some(offset) = code.checked_sub(level.first).filter(|offset| *offset < level.count) {
            let symbol = symbols[level.place + offset];
            if symbol == END {
                return None;
            }
            text.push(u8::try_from(symbol).ok()?);
            (code, length) = (0, 0);
        }
    }
    // What is left fills the last byte, with ones.
    (length < 8 && code == (1 << length) - 1).then_some(text)
}

/// Writes a block that touches no table: each field with its name and value as they are.
pub(super) fn encode(fields: &[Field]) -> Vec<u8> {
    let mut block = Vec::new();
    for Field { name, value } in fields {
        block.push(0);
        for text in [name, value] {
            write_number(&mut block, text.len());
            block.extend_from_slice(text);
        }
    }
    block
}

/// With seven bits of the first byte.
fn write_number(block: &mut Vec<u8>, value: usize) {
    let low = |value: usize| u8::try_from(value & 0x7f).unwrap_or_default();
    if value < 0x7f {
        block.push(low(value));
        return;
    }
    block.push(0x7f);
    let mut rest = value - 0x7f;
    while rest > 0x7f {
        block.push(low(rest) | 0x80);
        rest >>= 7;
    }
    block.push(low(rest));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        let digits: Vec<u8> = hexadecimal.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16);
        digits.chunks(2).map(|pair| byte(pair).expect("a byte")).collect()
    }

    fn fields(all: &[(&str, &str)]) -> Vec<Field> {
        let field = |(name, value): &(&str, &str)| Field {
            name: name.as_bytes().to_vec(),
            value: value.as_bytes().to_vec(),
        };
        all.iter().map(field).collect()
    }

    const FIRST: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];

    /// Source: RFC 7541, appendix C.3 and C.4.
    #[test]
    fn the_examples_of_the_standard_are_read() {
        let plain = [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ];
        let coded = [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ];
        let second: Vec<_> = FIRST.iter().copied().chain([("cache-control", "no-cache")]).collect();
        let third = [
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            (":authority", "www.example.com"),
            ("custom-key", "custom-value"),
        ];
        for requests in [plain, coded] {
            let mut decoder = Decoder::new();
            let mut check = |block: &str, expected: &[(&str, &str)]| {
                assert_eq!(decoder.decode(&bytes(block)), Ok(fields(expected)), "{block}");
            };
            check(requests[0], &FIRST);
            check(requests[1], &second);
            check(requests[2], &third);
            assert_eq!((decoder.table.len(), decoder.bytes), (3, 164));
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let long = "x".repeat(5000);
        let all = fields(&[(":path", "/"), ("a", ""), ("b", &long), ("c", "\u{1f600}")]);
        assert_eq!(Decoder::new().decode(&encode(&all)), Ok(all));
    }

    #[test]
    fn the_table_stays_within_its_limit() {
        let mut decoder = Decoder::new();
        for number in 0..1000 {
            // Literal with indexing: name `n`, and a value of 100 bytes.
            let block = [&[0x40, 1, b'n', 100][..], format!("{number:0100}").as_bytes()].concat();
            decoder.decode(&block).expect("good");
            assert!(decoder.bytes <= TABLE_BYTES);
        }
        assert_eq!(decoder.table.len(), TABLE_BYTES / 133);
        decoder.decode(&[0x20]).expect("a limit of nothing");
        assert_eq!((decoder.table.len(), decoder.bytes), (0, 0));
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for bad in
            ["80", "be", "ff", "ffffffffff", "40", "4001", "400161", "40016101", "3fffff7f", "0081ff00", "7f"]
        {
            assert!(Decoder::new().decode(&bytes(bad)).is_err(), "{bad}");
        }
        // The end symbol, and padding with a zero.
        for bad in ["0084ffffffff00", "00811e00"] {
            assert!(Decoder::new().decode(&bytes(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn any_bytes_end_in_fields_or_a_refusal() {
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..20_000 {
            let length = random.usize(..64);
            let block: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
            let mut decoder = Decoder::new();
            // Whatever comes of it: no panic, and no more than a block can say.
            if let Ok(fields) = decoder.decode(&block) {
                assert!(fields.len() <= length);
            }
            assert!(decoder.bytes <= TABLE_BYTES);
        }
    }
}
