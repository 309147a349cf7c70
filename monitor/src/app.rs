//! What the first bytes of a conversation say that it is: "looks like", never "is".
//!
//! Pure and bounded: samples of packets in, a [`Likeness`] out. Every byte may be a lie. What a likeness
//! carries names the protocol and never repeats what may be a secret, so that outputs can show it
//! whatever `--payload` says.

mod banner;
mod classify;
mod conversation;
mod database;
mod datagram;
mod http;
mod mask;
mod opaque;
mod proxy;
mod read;
mod remote;
mod segment;
mod shell;
mod smartcard;
mod stream;
mod tls;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use self::conversation::{Conversation, Masked};
pub use self::opaque::Measure;
pub use self::segment::Segment;

/// What a conversation looks like.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Protocol {
    /// A virtual smart card, as `vsmartcard-vpcd` reaches it.
    Vpcd,
    /// The daemon of PC/SC-lite, bridged from its local socket.
    PcscLite,
    /// Commands to a smart card, by themselves or behind a length.
    Iso7816,
    /// TLS.
    Tls,
    /// HTTP/1 or HTTP/2.
    Http,
    /// WebSocket.
    Websocket,
    /// SSH.
    Ssh,
    /// SMTP.
    Smtp,
    /// FTP.
    Ftp,
    /// VNC.
    Vnc,
    /// Remote Desktop.
    Rdp,
    /// SMB.
    Smb,
    /// MySQL or MariaDB.
    Mysql,
    /// PostgreSQL.
    Postgresql,
    /// Redis.
    Redis,
    /// MQTT.
    Mqtt,
    /// DNS, over UDP or TCP.
    Dns,
    /// QUIC.
    Quic,
    /// WireGuard.
    Wireguard,
    /// SOCKS 4 or 5.
    Socks,
    /// TFTP.
    Tftp,
    /// Syslog.
    Syslog,
    /// SNMP.
    Snmp,
    /// Somebody at a shell.
    Shell,
    /// Nothing that is known.
    Opaque,
}

impl Protocol {
    /// The name in `network.protocol`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vpcd => "vpcd",
            Self::PcscLite => "pcsc-lite",
            Self::Iso7816 => "iso7816",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Websocket => "websocket",
            Self::Ssh => "ssh",
            Self::Smtp => "smtp",
            Self::Ftp => "ftp",
            Self::Vnc => "vnc",
            Self::Rdp => "rdp",
            Self::Smb => "smb",
            Self::Mysql => "mysql",
            Self::Postgresql => "postgresql",
            Self::Redis => "redis",
            Self::Mqtt => "mqtt",
            Self::Dns => "dns",
            Self::Quic => "quic",
            Self::Wireguard => "wireguard",
            Self::Socks => "socks",
            Self::Tftp => "tftp",
            Self::Syslog => "syslog",
            Self::Snmp => "snmp",
            Self::Shell => "shell",
            Self::Opaque => "opaque",
        }
    }

    /// As people call it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Vpcd => "a virtual smart card (vpcd)",
            Self::PcscLite => "PC/SC-lite",
            Self::Iso7816 => "smart-card commands",
            Self::Tls => "TLS",
            Self::Http => "HTTP",
            Self::Websocket => "WebSocket",
            Self::Ssh => "SSH",
            Self::Smtp => "SMTP",
            Self::Ftp => "FTP",
            Self::Vnc => "VNC",
            Self::Rdp => "RDP",
            Self::Smb => "SMB",
            Self::Mysql => "MySQL",
            Self::Postgresql => "PostgreSQL",
            Self::Redis => "Redis",
            Self::Mqtt => "MQTT",
            Self::Dns => "DNS",
            Self::Quic => "QUIC",
            Self::Wireguard => "WireGuard",
            Self::Socks => "SOCKS",
            Self::Tftp => "TFTP",
            Self::Syslog => "syslog",
            Self::Snmp => "SNMP",
            Self::Shell => "a shell",
            Self::Opaque => "nothing known",
        }
    }
}

/// How sure that is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub enum Confidence {
    /// It fits, and so might much else.
    Possible,
    /// One side fits, and little else would.
    Likely,
    /// Both sides fit, or one said what nothing else begins with.
    Certain,
}

impl Confidence {
    /// The name in `portwatch.app.confidence`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Likely => "likely",
            Self::Certain => "certain",
        }
    }
}

/// One of the two ends of a conversation.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub enum Speaker {
    /// The side that opened it.
    Source,
    /// The other one.
    Destination,
}

impl Speaker {
    /// The name in `portwatch.app.first_speaker`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }

    /// The other end.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

/// What a conversation looks like, how sure that is, and what tells more about it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Likeness {
    /// What it looks like.
    pub protocol: Protocol,
    /// How sure that is; `None` for [`Protocol::Opaque`], which is no claim.
    pub confidence: Option<Confidence>,
    /// Who spoke first, where its beginning was seen.
    pub first_speaker: Option<Speaker>,
    /// Version of the protocol.
    pub version: Option<String>,
    /// What else identifies it, a phrase each: banners, commands, answers. Chosen by others.
    pub details: Vec<String>,
    /// What its TLS handshake tells.
    pub tls: Option<Box<Tls>>,
    /// What its HTTP request and response tell.
    pub http: Option<Http>,
    /// How its bytes are distributed; of [`Protocol::Opaque`] only.
    pub measure: Option<Measure>,
}

/// What a TLS handshake tells in clear text.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Tls {
    /// The version that was agreed on: `1.3`.
    pub version: Option<Cow<'static, str>>,
    /// The highest version the client offers.
    pub offered: Option<Cow<'static, str>>,
    /// The name the client asks for.
    pub server_name: Option<String>,
    /// Protocols the client offers to speak inside.
    pub alpn: Vec<String>,
    /// The one that the server chose, where it says so in clear text.
    pub next_protocol: Option<String>,
    /// JA3 fingerprint of the client.
    pub ja3: Option<String>,
    /// JA4 fingerprint of the client.
    pub ja4: Option<String>,
    /// The client offers, or pretends to offer, Encrypted Client Hello: the name may be a cover.
    pub ech: bool,
}

/// What HTTP tells that is no secret.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Http {
    /// Method of the first request.
    pub method: Option<String>,
    /// Version: `1.1` or `2`.
    pub version: Option<Cow<'static, str>>,
    /// Status of the first response.
    pub status: Option<u16>,
}

impl Likeness {
    /// It is at least so sure that it is this protocol.
    pub fn is(&self, protocol: Protocol, confidence: Confidence) -> bool {
        self.protocol == protocol && self.confidence >= Some(confidence)
    }

    /// In words, for people: `looks like TLS 1.3 (SNI example.org)`. Parts are chosen by others.
    pub fn summary(&self) -> String {
        let looks = match self.confidence {
            Some(Confidence::Certain) => "looks like",
            Some(Confidence::Likely) => "probably",
            Some(Confidence::Possible) => "possibly",
            None => "opaque",
        };
        let mut words = vec![looks.to_owned()];
        if self.protocol != Protocol::Opaque {
            words.push(self.protocol.title().to_owned());
        }
        words.extend(self.version.clone());
        let tls = self.tls.as_deref();
        let name = tls.and_then(|tls| tls.server_name.as_ref()).map(|name| format!("SNI {name}"));
        let measure = self.measure.map(|measure| measure.to_string());
        let more: Vec<String> = name
            .into_iter()
            .chain(measure)
            .chain(self.details.iter().take(SHOWN).cloned())
            .collect();
        if !more.is_empty() {
            words.push(format!("({})", more.join(", ")));
        }
        words.join(" ")
    }
}

/// Details in one line of text; documents have all.
const SHOWN: usize = 3;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
