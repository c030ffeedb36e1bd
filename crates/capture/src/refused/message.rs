//! Messages of `nfnetlink_log`: the one that asks for packets, and those that carry them. Pure.

/// `nlmsghdr`: length, type, flags, sequence, port.
const HEADER_BYTES: usize = 16;
/// `nfgenmsg`: family, version, group.
const GENERIC_BYTES: usize = 4;
const ATTRIBUTE_BYTES: usize = 4;
/// The highest two bits of an attribute's type are flags.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

/// `NLMSG_ERROR`: also the answer that nothing went wrong.
const ERROR: u16 = 2;
/// `NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_…`.
const PACKET: u16 = 0x0400;
const CONFIG: u16 = 0x0401;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const REQUEST_ACK: u16 = 0x0005;
const SEQUENCE: u32 = 1;

const NFULA_PAYLOAD: u16 = 9;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULA_CFG_QTHRESH: u16 = 5;
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
/// Packets that the kernel collects before it says so: each is to be heard of at once; nft limits their rate.
const COLLECTED: u32 = 1;

/// Asks for the first bytes of each packet that is logged to a group.
pub(super) fn bind_to_group(group: u16, copied_bytes: u32) -> Vec<u8> {
    let mut body = vec![0, 0];
    body.extend(group.to_be_bytes());
    attribute(&mut body, NFULA_CFG_CMD, &[BIND]);
    let [a, b, c, d] = copied_bytes.to_be_bytes();
    attribute(&mut body, NFULA_CFG_MODE, &[a, b, c, d, COPY_PACKET, 0]);
    attribute(&mut body, NFULA_CFG_QTHRESH, &COLLECTED.to_be_bytes());
    let length = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::new();
    message.extend(length.to_ne_bytes());
    message.extend(CONFIG.to_ne_bytes());
    message.extend(REQUEST_ACK.to_ne_bytes());
    message.extend(SEQUENCE.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    message
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE_BYTES + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The kernel's answer to a request, if it is among these messages: 0, or the number of the error.
pub(super) fn acknowledged(bytes: &[u8]) -> Option<i32> {
    let answer = messages(bytes).find(|(kind, _)| *kind == ERROR)?.1;
    Some(i32::from_ne_bytes(*answer.first_chunk()?).saturating_neg())
}

/// The packets that these messages carry.
pub(super) fn packets(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    messages(bytes).filter(|(kind, _)| *kind == PACKET).filter_map(|(_, body)| {
        let attributes = Parts { rest: body.get(GENERIC_BYTES..)?, header: ATTRIBUTE_BYTES };
        attributes.filter(|(kind, _)| kind & ATTRIBUTE_TYPE == NFULA_PAYLOAD).map(|(_, value)| value).next()
    })
}

fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    Parts { rest: bytes, header: HEADER_BYTES }
}

/// Messages in a row, or attributes: each begins with its length (of 4 bytes or 2) and its type, and is followed by
/// padding to 4 bytes. Ends where a length makes no sense.
struct Parts<'b> {
    rest: &'b [u8],
    header: usize,
}

impl<'b> Iterator for Parts<'b> {
    type Item = (u16, &'b [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let two = |at: usize| Some(u16::from_ne_bytes(*self.rest.get(at..)?.first_chunk()?));
        let (length, kind) = if self.header == HEADER_BYTES {
            (usize::try_from(u32::from_ne_bytes(*self.rest.first_chunk()?)).ok()?, two(4)?)
        } else {
            (usize::from(two(0)?), two(2)?)
        };
        // A length that is less than the header's makes no range, so this always goes on by some bytes.
        let body = self.rest.get(self.header..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    }
}
