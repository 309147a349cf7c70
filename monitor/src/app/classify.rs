//! Both sides' first bytes to a likeness: every matcher is asked, and the surest answer counts.

use crate::endpoint::Transport;

use super::opaque::Measure;
use super::{
    Confidence, Http, Likeness, Protocol, Speaker, Tls, banner, database, datagram, http, proxy,
    remote, shell, smartcard, tls,
};

/// What one side has said so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Said<'a> {
    /// Its bytes from the first one on, up to the first gap; of UDP, the first datagram.
    pub(super) bytes: &'a [u8],
    /// The same, segment by segment; of UDP, the first datagrams.
    pub(super) messages: Vec<&'a [u8]>,
    /// Bytes that the first segment or datagram really had.
    pub(super) first_length: usize,
}

impl Said<'_> {
    pub(super) const fn is_silent(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The first datagram was heard to its end.
    pub(super) const fn is_whole(&self) -> bool {
        self.bytes.len() == self.first_length
    }
}

/// A conversation, as matchers see it.
#[derive(Clone, Debug)]
pub(super) struct Talk<'a> {
    /// The side that opened it.
    pub(super) client: Said<'a>,
    /// The other one.
    pub(super) server: Said<'a>,
    /// Who spoke first, if that is known.
    pub(super) first: Option<Speaker>,
}

/// What a matcher makes of it.
#[derive(Clone, Debug)]
pub(super) struct Match {
    pub(super) protocol: Protocol,
    pub(super) confidence: Confidence,
    pub(super) version: Option<String>,
    pub(super) details: Vec<String>,
    pub(super) tls: Option<Box<Tls>>,
    pub(super) http: Option<Http>,
}

impl Match {
    pub(super) const fn new(protocol: Protocol, confidence: Confidence) -> Self {
        Self { protocol, confidence, version: None, details: Vec::new(), tls: None, http: None }
    }

    /// Certain if the other side fits as well, else likely.
    pub(super) const fn by_both(protocol: Protocol, other_fits: bool) -> Self {
        let confidence = if other_fits { Confidence::Certain } else { Confidence::Likely };
        Self::new(protocol, confidence)
    }

    pub(super) fn version(self, version: impl Into<String>) -> Self {
        Self { version: Some(version.into()), ..self }
    }

    pub(super) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.details.push(detail.into());
        self
    }
}

type Matcher = fn(&Talk<'_>) -> Option<Match>;

/// In TCP. Of equally sure ones the first counts.
const OF_STREAMS: [Matcher; 19] = [
    tls::matches,
    http::matches,
    banner::ssh,
    banner::vnc,
    smartcard::vpcd,
    smartcard::pcsc_lite,
    remote::rdp,
    remote::smb,
    database::mysql,
    database::postgresql,
    database::redis,
    database::mqtt,
    banner::smtp,
    banner::ftp,
    shell::matches,
    proxy::socks,
    datagram::dns_in_stream,
    datagram::syslog,
    smartcard::iso7816,
];

/// In UDP.
const OF_DATAGRAMS: [Matcher; 6] = [
    datagram::wireguard,
    datagram::dns,
    datagram::quic,
    datagram::snmp,
    datagram::tftp,
    datagram::syslog,
];

/// What a conversation looks like; `None` while nobody has said anything.
pub(super) fn classify(
    talk: &Talk<'_>,
    transport: Transport,
    is_from_start: bool,
) -> Option<Likeness> {
    if talk.client.is_silent() && talk.server.is_silent() {
        return None;
    }
    let matchers: &[Matcher] = match transport {
        Transport::Tcp => &OF_STREAMS,
        Transport::Udp => &OF_DATAGRAMS,
    };
    let mut best: Option<Match> = None;
    for found in matchers.iter().filter_map(|matcher| matcher(talk)) {
        if best.as_ref().is_none_or(|best| found.confidence > best.confidence) {
            best = Some(found);
        }
    }
    let first_speaker = talk.first;
    let Some(best) = best else { return Some(opaque(talk, first_speaker)) };
    // From the middle on, what looks like a beginning may be something else.
    let most = if is_from_start { Confidence::Certain } else { Confidence::Likely };
    Some(Likeness {
        protocol: best.protocol,
        confidence: Some(best.confidence.min(most)),
        first_speaker,
        version: best.version,
        details: best.details,
        tls: best.tls,
        http: best.http,
        measure: None,
    })
}

fn opaque(talk: &Talk<'_>, first_speaker: Option<Speaker>) -> Likeness {
    Likeness {
        protocol: Protocol::Opaque,
        confidence: None,
        first_speaker,
        version: None,
        details: Vec::new(),
        tls: None,
        http: None,
        measure: Some(Measure::of(&[talk.client.bytes, talk.server.bytes])),
    }
}
