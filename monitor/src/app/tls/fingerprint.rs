//! JA3 and JA4: which TLS library a client has, and how it is set up.

use md5::Md5;
use sha2::{Digest as _, Sha256};

use super::hello::{ClientHello, is_grease};
use crate::escape;

/// Server name and ALPN: JA4 has them elsewhere.
const NOT_HASHED: [u16; 2] = [0, 16];

/// JA3: MD5 of version, cipher suites, extensions, groups and point formats in the order sent.
pub(super) fn ja3(hello: &ClientHello) -> String {
    let points: Vec<u16> = hello.point_formats.iter().copied().map(u16::from).collect();
    let lists = [&hello.ciphers, &hello.extensions, &hello.groups, &points];
    let lists = lists.map(|list| joined(real(list), "-", |number| number.to_string()));
    let text = format!("{},{}", hello.version, lists.join(","));
    escape::hexadecimal(&Md5::digest(text))
}

/// JA4: what can be read at once, then hashes of the cipher suites and of extensions and signature
/// algorithms, both sorted where clients shuffle.
pub(super) fn ja4(hello: &ClientHello) -> String {
    let (ciphers, extensions) = (sorted(&hello.ciphers), sorted(&hello.extensions));
    let name = if hello.extensions.contains(&0) { 'd' } else { 'i' };
    let count = |list: &[u16]| list.len().min(99);
    let hashed: Vec<u16> =
        extensions.iter().copied().filter(|kind| !NOT_HASHED.contains(kind)).collect();
    let mut last = in_hex(&hashed);
    if !hello.signatures.is_empty() {
        last = format!("{last}_{}", in_hex(&real(&hello.signatures).collect::<Vec<_>>()));
    }
    let last = if hashed.is_empty() { NOTHING.to_owned() } else { short_hash(&last) };
    format!(
        "t{}{name}{:02}{:02}{}_{}_{last}",
        version(hello),
        count(&ciphers),
        count(&extensions),
        alpn(hello),
        if ciphers.is_empty() { NOTHING.to_owned() } else { short_hash(&in_hex(&ciphers)) },
    )
}

/// Stands for the hash of an empty list.
const NOTHING: &str = "000000000000";

fn version(hello: &ClientHello) -> &'static str {
    let highest = real(&hello.versions).max().unwrap_or(hello.version);
    match highest {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        _ => "00",
    }
}

/// First and last character of the first protocol; of their hexadecimal digits, where one of them is
/// neither letter nor digit.
fn alpn(hello: &ClientHello) -> String {
    let ends = hello.alpn.first().and_then(|name| Some((*name.first()?, *name.last()?)));
    let Some((first, last)) = ends else { return "00".to_owned() };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [char::from(first), char::from(last)].iter().collect();
    }
    format!("{:x}{:x}", first >> 4, last & 0xf)
}

fn real(numbers: &[u16]) -> impl Iterator<Item = u16> {
    numbers.iter().copied().filter(|number| !is_grease(*number))
}

fn sorted(numbers: &[u16]) -> Vec<u16> {
    let mut sorted: Vec<u16> = real(numbers).collect();
    sorted.sort_unstable();
    sorted
}

fn in_hex(numbers: &[u16]) -> String {
    joined(numbers.iter().copied(), ",", |number| format!("{number:04x}"))
}

fn joined(
    numbers: impl Iterator<Item = u16>,
    separator: &str,
    name: impl Fn(u16) -> String,
) -> String {
    numbers.map(name).collect::<Vec<_>>().join(separator)
}

fn short_hash(text: &str) -> String {
    escape::hexadecimal(Sha256::digest(text).get(..6).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification of JA4.
    #[test]
    fn ja4_is_as_specified() {
        let hello = ClientHello {
            version: 0x0303,
            ciphers: vec![
                0x0a0a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030, 0xcca9, 0xcca8,
                0xc013, 0xc014, 0x009c, 0x009d, 0x002f, 0x0035,
            ],
            extensions: vec![
                0x1a1a, 0x001b, 0x0000, 0x0033, 0x0010, 0x4469, 0x0017, 0x002d, 0x000d, 0x0005,
                0x0023, 0x0012, 0x002b, 0xff01, 0x000b, 0x000a, 0x0015,
            ],
            signatures: vec![0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601],
            versions: vec![0x2a2a, 0x0304, 0x0303],
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            ..ClientHello::default()
        };

        assert_eq!(ja4(&hello), "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    #[test]
    fn ja4_of_a_hello_without_extensions_has_no_hash_of_them() {
        let hello =
            ClientHello { version: 0x0301, ciphers: vec![0x0035], ..ClientHello::default() };

        let ja4 = ja4(&hello);

        let [head, _, tail] = ja4.split('_').collect::<Vec<_>>()[..] else { panic!("{ja4}") };
        assert_eq!((head, tail), ("t10i010000", NOTHING));
    }

    #[test]
    fn alpn_that_is_no_text_is_told_in_hexadecimal() {
        let hello =
            |name: &[u8]| ClientHello { alpn: vec![name.to_vec()], ..ClientHello::default() };

        assert_eq!(alpn(&hello(b"http/1.1")), "h1");
        assert_eq!(alpn(&hello(b"h")), "hh");
        assert_eq!(alpn(&hello(&[0xab, 0xcd])), "ad");
        assert_eq!(alpn(&hello(b"")), "00");
    }

    /// An example of the people who made JA3.
    #[test]
    fn ja3_is_the_hash_of_what_was_offered_in_its_order() {
        let hello = ClientHello {
            version: 769,
            ciphers: vec![47, 53, 5, 10, 49161, 49162, 49171, 49172, 50, 56, 19, 4],
            extensions: vec![0, 10, 11],
            groups: vec![23, 24, 25],
            point_formats: vec![0],
            ..ClientHello::default()
        };

        assert_eq!(ja3(&hello), "ada70206e40642a3e4461f35503241d5");
    }
}
