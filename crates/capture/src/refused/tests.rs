use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

fn v4(protocol: u8, to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    packet[9] = protocol;
    packet[16..].copy_from_slice(&to);
    [packet.as_slice(), payload].concat()
}

fn v6(next: u8, to: &str, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    packet[6] = next;
    packet[24..].copy_from_slice(&to.parse::<Ipv6Addr>().unwrap().octets());
    [packet.as_slice(), payload].concat()
}

/// Ports 1 and 443.
const PORTS: [u8; 8] = [0, 1, 1, 187, 0, 8, 0, 0];

#[test]
fn a_packet_says_where_it_was_to_go() {
    let check = |packet: &[u8], expected: Option<&str>| {
        assert_eq!(
            packet::read(packet).map(|refused| refused.to_string()).as_deref(),
            expected,
            "{packet:?}"
        );
    };
    let udp = v4(17, [8, 8, 8, 8], &PORTS);
    check(&udp, Some("UDP to 8.8.8.8:443"));
    check(&v4(1, [8, 8, 8, 8], &[8, 0]), Some("ICMP to 8.8.8.8"));
    check(&v4(6, [8, 8, 8, 8], &PORTS), Some("TCP to 8.8.8.8:443"));
    check(&v4(132, [8, 8, 8, 8], &PORTS), Some("SCTP to 8.8.8.8:443"));
    check(&v4(47, [8, 8, 8, 8], &PORTS), Some("IP protocol 47 to 8.8.8.8"));
    check(&udp[..23], Some("UDP to 8.8.8.8"));
    check(&udp[..19], None);
    check(&[], None);
    check(&[0x50; 64], None);
    let mut fragment = udp.clone();
    fragment[7] = 1;
    check(&fragment, Some("UDP to 8.8.8.8"));
    let mut options = v4(17, [8, 8, 8, 8], &[[1; 4].as_slice(), &PORTS].concat());
    options[0] = 0x46;
    check(&options, Some("UDP to 8.8.8.8:443"));
    options[0] = 0x4f;
    check(&options, Some("UDP to 8.8.8.8"));
    options[0] = 0x40;
    check(&options, Some("UDP to 8.8.8.8:257"));

    check(&v6(17, "2001:db8::1", &PORTS), Some("UDP to [2001:db8::1]:443"));
    check(&v6(58, "2001:db8::1", &[128]), Some("ICMPv6 to 2001:db8::1"));
    check(&v6(58, "ff02::16", &[143]), None);
    let hop_by_hop = [17, 0, 0, 0, 0, 0, 0, 0];
    check(&v6(0, "::2", &[hop_by_hop, PORTS].concat()), Some("UDP to [::2]:443"));
    let first = [17, 0, 0, 1, 0, 0, 0, 9];
    check(&v6(44, "::2", &[first, PORTS].concat()), Some("UDP to [::2]:443"));
    let later = [17, 0, 0, 8, 0, 0, 0, 9];
    check(&v6(44, "::2", &[later, PORTS].concat()), Some("UDP to ::2"));
    let far = [17, 255, 0, 0, 0, 0, 0, 0];
    check(&v6(60, "::2", &far), Some("UDP to ::2"));
    check(&v6(0, "::2", &[0; 400]), Some("IP protocol 0 to ::2"));
    check(&v6(17, "::2", &[]), Some("UDP to ::2"));
    check(&v6(17, "::2", &[])[..39], None);
}

/// A message of the kernel, with attributes as (type, value).
fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![2, 0, 0, 1];
    for (kind, value) in attributes {
        body.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut message = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend([0; 10]);
    message.extend(body);
    message
}

#[test]
fn packets_are_found_among_whatever_else_there_is() {
    let check = |bytes: &[u8], expected: &[&[u8]]| {
        assert_eq!(message::packets(bytes).collect::<Vec<_>>(), expected, "{bytes:?}");
    };
    let one = message(0x0400, &[(1, &[0; 4]), (10, b"meshwork\0"), (9, &[1, 2, 3]), (11, &[0; 4])]);
    let other = message(0x0400, &[(0x8009, &[4])]);
    check(&one, &[&[1, 2, 3]]);
    check(&[one.clone(), message(0x0401, &[(9, &[9])]), other.clone()].concat(), &[&[1, 2, 3], &[4]]);
    check(&message(0x0400, &[(10, b"no packet\0")]), &[]);
    check(&[], &[]);
    check(&[0; 64], &[]);
    check(&[0xff; 64], &[]);
    let with_length = |at: usize, length: u8| {
        let mut bytes = [one.clone(), other.clone()].concat();
        bytes[at] = length;
        bytes
    };
    for length in [0, 1, 15, 17, 0xff] {
        check(&with_length(0, length), &[]);
    }
    // Lengths of attributes: what follows a bad one is not looked at; the next message is.
    for length in [0, 3, 0xff] {
        check(&with_length(20, length), &[&[4]]);
    }
    for cut in 0..one.len() {
        assert!(message::packets(&one[..cut]).count() <= 1);
    }
}

#[test]
fn any_bytes_are_read_without_harm() {
    let good = message(0x0400, &[(9, &v6(0, "::2", &[[17, 0, 0, 0, 0, 0, 0, 0], PORTS].concat()))]);
    for seed in 0..20_000 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(0..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes.truncate(random.usize(0..=bytes.len()));
        let _ = message::acknowledged(&bytes);
        message::packets(&bytes).filter_map(packet::read).for_each(|refused| drop(refused.to_string()));
    }
}

#[test]
fn the_kernel_s_answer_is_recognized() {
    let check = |number: i32, expected: Option<i32>| {
        let mut bytes = message(2, &[]);
        bytes[16..20].copy_from_slice(&number.to_ne_bytes());
        assert_eq!(message::acknowledged(&bytes), expected);
    };
    check(0, Some(0));
    check(-1, Some(1));
    check(i32::MIN, Some(i32::MAX));
    assert_eq!(message::acknowledged(&message(0x0400, &[])), None);
    assert_eq!(message::acknowledged(&[]), None);
}

#[test]
fn a_line_is_written_once_a_second_and_so_many_only() {
    let refused = |port: u16| {
        let payload = [[0, 1], port.to_be_bytes()].concat();
        packet::read(&v4(17, Ipv4Addr::new(8, 8, 8, 8).octets(), &payload)).unwrap()
    };
    let mut told = Told::default();
    let start = Instant::now();
    assert_eq!(told.admit(refused(1), start), Some(0));
    assert_eq!(told.admit(refused(1), start + TELL_EVERY / 2), None);
    assert_eq!(told.admit(refused(1), start + TELL_EVERY), Some(0));
    let start = start + 2 * TELL_EVERY;
    let written = (1..1000).filter(|port| told.admit(refused(*port), start).is_some()).count();
    assert_eq!(written, LINES);
    let left_out = told.admit(refused(1), start + TELL_EVERY).unwrap();
    assert_eq!(left_out, 999 - LINES as u64);
    assert_eq!(
        line(&refused(443), left_out),
        "refused: UDP to 8.8.8.8:443 leads nowhere: only TCP and DNS leave the workload (and 967 others in the meantime)"
    );
    assert_eq!(
        line(&refused(443), 0),
        "refused: UDP to 8.8.8.8:443 leads nowhere: only TCP and DNS leave the workload"
    );
}
