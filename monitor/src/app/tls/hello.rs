//! `ClientHello` and `ServerHello` (RFC 8446, 4.1), as far as they were captured.

use crate::app::read::{Reader, numbers, text};

const SERVER_NAME: u16 = 0;
const GROUPS: u16 = 10;
const POINT_FORMATS: u16 = 11;
const SIGNATURES: u16 = 13;
const ALPN: u16 = 16;
const VERSIONS: u16 = 43;
const ENCRYPTED_HELLO: u16 = 0xfe0d;

/// The longest name there is.
const LONGEST_NAME: usize = 255;

/// What a client offers.
#[derive(Clone, Debug, Default)]
pub(super) struct ClientHello {
    pub(super) version: u16,
    pub(super) ciphers: Vec<u16>,
    pub(super) extensions: Vec<u16>,
    pub(super) groups: Vec<u16>,
    pub(super) point_formats: Vec<u8>,
    pub(super) signatures: Vec<u16>,
    pub(super) versions: Vec<u16>,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) server_name: Option<String>,
    pub(super) ech: bool,
    /// It was captured to its end.
    pub(super) is_complete: bool,
}

/// What the server chose.
#[derive(Clone, Debug)]
pub(super) struct ServerHello {
    pub(super) version: &'static str,
    pub(super) next_protocol: Option<String>,
}

impl ClientHello {
    /// Reads a handshake message, which may be cut off behind the cipher suites.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(message.get(1..)?);
        let length = reader.u24()?;
        let is_whole = reader.rest().len() == length;
        let version = reader.u16().filter(|version| *version >> 8 == 3)?;
        reader.take(32)?;
        let session = reader.counted_by_u8()?;
        let ciphers = reader.counted_by_u16()?;
        let compressions = reader.counted_by_u8()?;
        let fits = session.len() <= 32
            && !ciphers.is_empty()
            && ciphers.len().is_multiple_of(2)
            && compressions.contains(&0);
        if !fits {
            return None;
        }
        let mut hello = Self { version, ciphers: numbers(ciphers), ..Self::default() };
        if reader.is_empty() {
            hello.is_complete = is_whole;
            return Some(hello);
        }
        let announced = usize::from(reader.u16()?);
        let extensions = reader.take_up_to(announced);
        let all_read = hello.read_extensions(extensions);
        hello.is_complete = is_whole && all_read && extensions.len() == announced;
        Some(hello)
    }

    /// The highest version it offers.
    pub(super) fn offered(&self) -> Option<&'static str> {
        let versions = self.versions.iter().copied().filter(|version| !is_grease(*version));
        version_name(versions.max().unwrap_or(self.version))
    }

    /// False: the last one is cut off.
    fn read_extensions(&mut self, bytes: &[u8]) -> bool {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let Some((kind, content)) = extension(&mut reader) else { return false };
            self.extensions.push(kind);
            self.read_extension(kind, content);
        }
        true
    }

    fn read_extension(&mut self, kind: u16, content: &[u8]) {
        let mut reader = Reader::new(content);
        match kind {
            SERVER_NAME => self.server_name = server_name(content),
            GROUPS => self.groups = reader.counted_by_u16().map(numbers).unwrap_or_default(),
            POINT_FORMATS => {
                self.point_formats = reader.counted_by_u8().unwrap_or_default().to_vec();
            }
            SIGNATURES => {
                self.signatures = reader.counted_by_u16().map(numbers).unwrap_or_default();
            }
            ALPN => self.alpn = protocol_names(content),
            VERSIONS => self.versions = reader.counted_by_u8().map(numbers).unwrap_or_default(),
            ENCRYPTED_HELLO => self.ech = true,
            _ => {}
        }
    }
}

impl ServerHello {
    /// Reads a handshake message, which may be cut off behind the version.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(message.get(4..)?);
        let legacy = reader.u16()?;
        reader.take(32)?;
        reader.counted_by_u8().filter(|session| session.len() <= 32)?;
        reader.take(3)?;
        let announced = usize::from(reader.u16().unwrap_or_default());
        let mut extensions = Reader::new(reader.take_up_to(announced));
        let (mut version, mut next_protocol) = (legacy, None);
        while let Some((kind, content)) = extension(&mut extensions) {
            match (kind, content) {
                (VERSIONS, [high, low]) => version = u16::from_be_bytes([*high, *low]),
                (ALPN, content) => {
                    next_protocol = protocol_names(content).first().map(|name| text(name, 64));
                }
                _ => {}
            }
        }
        Some(Self { version: version_name(version)?, next_protocol })
    }
}

/// Numbers that clients put in to keep servers tolerant (RFC 8701).
pub(super) const fn is_grease(number: u16) -> bool {
    let [high, low] = number.to_be_bytes();
    high == low && low & 0xf == 0xa
}

const fn version_name(version: u16) -> Option<&'static str> {
    Some(match version {
        0x0300 => "SSL 3.0",
        0x0301 => "1.0",
        0x0302 => "1.1",
        0x0303 => "1.2",
        0x0304 => "1.3",
        _ => return None,
    })
}

fn extension<'a>(reader: &mut Reader<'a>) -> Option<(u16, &'a [u8])> {
    Some((reader.u16()?, reader.counted_by_u16()?))
}

/// The host name of the list that the extension is.
fn server_name(content: &[u8]) -> Option<String> {
    let mut list = Reader::new(Reader::new(content).counted_by_u16()?);
    let kind = list.u8()?;
    let name = list.counted_by_u16()?;
    (kind == 0 && !name.is_empty()).then(|| text(name, LONGEST_NAME))
}

fn protocol_names(content: &[u8]) -> Vec<Vec<u8>> {
    let list = Reader::new(content).counted_by_u16().unwrap_or_default();
    let mut reader = Reader::new(list);
    std::iter::from_fn(|| reader.counted_by_u8().map(<[u8]>::to_vec)).take(16).collect()
}
