//! What a flow looks like: `network.protocol`, `tls`, `http`, and `portwatch.app`, `portwatch.tls`.

use serde::Serialize;

use crate::app::{Confidence, Http, Likeness, Speaker, Tls};

use super::document::{Document, known};

impl<'a> Document<'a> {
    /// What the first bytes of a flow look like; `network` is there already.
    pub(super) fn app(&mut self, likeness: &'a Likeness) {
        let Likeness { protocol, confidence, first_speaker, version, details, tls, http, measure } =
            likeness;
        if let Some(network) = &mut self.network {
            network.protocol = Some(protocol.name());
        }
        self.portwatch.app = Some(AppFields {
            confidence: confidence.map(Confidence::name),
            first_speaker: first_speaker.map(Speaker::name),
            version: version.as_deref().and_then(known),
            details,
            entropy: measure.map(|measure| measure.entropy),
            printable: measure.map(|measure| measure.printable),
            measured: measure.map(|measure| measure.bytes),
        });
        if let Some(tls) = tls {
            self.tls(tls);
        }
        if let Some(Http { method, version, status }) = http {
            self.http = Some(HttpFields {
                version: version.as_deref(),
                request: method.as_deref().map(|method| HttpRequest { method }),
                response: status.map(|status_code| HttpResponse { status_code }),
            });
        }
    }

    fn tls(&mut self, tls: &'a Tls) {
        let Tls { version, offered, server_name, alpn, next_protocol, ja3, ja4, ech } = tls;
        self.tls = Some(TlsFields {
            version: version.as_deref(),
            version_protocol: "tls",
            next_protocol: next_protocol.as_deref().and_then(known),
            client: TlsClient {
                server_name: server_name.as_deref().and_then(known),
                ja3: ja3.as_deref(),
            },
        });
        self.portwatch.tls = Some(OurTlsFields {
            offered: offered.as_deref(),
            alpn,
            ja4: ja4.as_deref(),
            ech: *ech,
        });
    }
}

/// `portwatch.app.*`.
#[derive(Debug, Serialize)]
pub(super) struct AppFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_speaker: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    details: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    entropy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    printable: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<usize>,
}

/// `tls.*`, as far as ECS has it.
#[derive(Debug, Serialize)]
pub(super) struct TlsFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    version_protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_protocol: Option<&'a str>,
    #[serde(skip_serializing_if = "TlsClient::is_empty")]
    client: TlsClient<'a>,
}

#[derive(Debug, Serialize)]
struct TlsClient<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ja3: Option<&'a str>,
}

impl TlsClient<'_> {
    const fn is_empty(&self) -> bool {
        self.server_name.is_none() && self.ja3.is_none()
    }
}

/// `portwatch.tls.*`: what ECS has no field for.
#[derive(Debug, Serialize)]
pub(super) struct OurTlsFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    offered: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    alpn: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    ja4: Option<&'a str>,
    ech: bool,
}

/// `http.*`.
#[derive(Debug, Serialize)]
pub(super) struct HttpFields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<HttpRequest<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<HttpResponse>,
}

#[derive(Debug, Serialize)]
struct HttpRequest<'a> {
    method: &'a str,
}

#[derive(Debug, Serialize)]
struct HttpResponse {
    status_code: u16,
}
