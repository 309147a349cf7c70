//! `portwatch explain`: what a port is registered for, what that is worth, and what to check.
//!
//! Needs no rights and no network: the registry is part of the program.

mod practice;
mod text;

use std::io::Write as _;

use serde::Serialize;

use crate::cli;
use crate::failure::{self, Failure};
use crate::host::port_ranges::PortRanges;
use crate::output::text::Look;
use crate::registry::{self, Registration};

/// Explains a port on standard output; the exit code.
pub fn run(args: cli::Explain, look: &Look) -> Result<u8, Failure> {
    let explanation = Explanation::of(args.port, &PortRanges::read());
    let shown = match args.format {
        cli::Format::Text => text::render(&explanation, look),
        cli::Format::Json => {
            let json = serde_json::to_string(&explanation).map_err(anyhow::Error::from)?;
            format!("{json}\n")
        }
    };
    // A reader that has had enough is a normal end.
    let _written = std::io::stdout().write_all(shown.as_bytes());
    Ok(failure::DONE)
}

/// Everything there is to say of a port.
#[derive(Clone, Debug, Serialize)]
struct Explanation {
    port: u16,
    /// Names that IANA has registered for it.
    registrations: Vec<Registered>,
    /// What that is worth, a paragraph each.
    worth: Vec<String>,
    /// Who really uses it, as far as is known, a paragraph each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    practice: Vec<&'static str>,
    /// What to look at, in this order.
    checks: Vec<Check>,
    host: Host,
    /// The nearest numbers that have a name.
    neighbours: Vec<Registered>,
}

/// A registration, for a reader.
#[derive(Clone, Debug, Serialize)]
struct Registered {
    port: u16,
    transports: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'static str>,
    description: &'static str,
    #[serde(rename = "registered", skip_serializing_if = "Option::is_none")]
    month: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registrant: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rfc: Option<&'static str>,
    /// IANA knows of others that use the number.
    is_misused: bool,
}

/// Something to look at.
#[derive(Clone, Debug, Serialize)]
struct Check {
    what: String,
    /// What to run for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<String>,
}

/// What this host does with the number.
#[derive(Clone, Debug, Serialize)]
struct Host {
    /// Clients get one of these by chance.
    ephemeral_ports: [u16; 2],
    /// This port is among them.
    is_ephemeral: bool,
    /// Listening below this takes a right.
    unprivileged_from: u16,
    /// The same in words.
    summary: Vec<String>,
}

impl Explanation {
    fn of(port: u16, ranges: &PortRanges) -> Self {
        let registrations = registry::of(port);
        let (before, after) = registry::neighbours(port);
        Self {
            port,
            worth: worth(port, &registrations),
            practice: practice::of(port).to_vec(),
            checks: checks(port),
            host: Host::of(port, ranges),
            neighbours: [before, after].into_iter().flatten().map(Registered::of).collect(),
            registrations: registrations.into_iter().map(Registered::of).collect(),
        }
    }
}

impl Registered {
    fn of(registration: Registration) -> Self {
        let Registration { port, name, description, registered, registrant, rfc, .. } =
            registration;
        Self {
            port,
            transports: registration.transports().collect(),
            name,
            description,
            month: registered,
            registrant,
            rfc,
            is_misused: registration.is_misused,
        }
    }
}

impl Host {
    fn of(port: u16, ranges: &PortRanges) -> Self {
        let (first, last) = (*ranges.ephemeral.start(), *ranges.ephemeral.end());
        let is_ephemeral = ranges.ephemeral.contains(&port);
        let by_chance = if is_ephemeral {
            format!(
                "Clients on this host get their ports from {first}-{last}, so one may have {port} by \
                 chance. portwatch tells such a client from a listener."
            )
        } else {
            format!(
                "Clients on this host get their ports from {first}-{last}: nobody here has {port} by \
                 chance. Elsewhere other ranges are in use, so a peer may."
            )
        };
        let start = ranges.unprivileged_from;
        let rights = if port < start {
            format!(
                "Listening below {start} takes root or CAP_NET_BIND_SERVICE: who listens here had \
                 one of them."
            )
        } else {
            format!("Anybody may listen here: only below {start} does it take a right.")
        };
        Self {
            ephemeral_ports: [first, last],
            is_ephemeral,
            unprivileged_from: start,
            summary: vec![by_chance, rights],
        }
    }
}

/// What the registry's answer is worth.
fn worth(port: u16, registrations: &[Registration]) -> Vec<String> {
    let named: Vec<&Registration> = registrations.iter().filter(|it| it.name.is_some()).collect();
    let rfcs: Vec<&str> = named.iter().filter_map(|it| it.rfc).collect();
    let mut worth = vec![match (registrations, &*named, rfcs.first()) {
        ([], ..) if port >= FIRST_DYNAMIC => "The numbers from 49152 on are for anybody's passing use: \
             none of them is ever registered, so a name tells nothing here, and a service that stays \
             is unusual."
            .to_owned(),
        ([], ..) => "Nobody has registered this number. That tells little: many services never asked, \
             WireGuard's 51820 among them. There is no name to hide behind, either."
            .to_owned(),
        (_, [], _) => "IANA keeps this number back: it belongs to nobody. Who listens here has chosen \
             it without asking."
            .to_owned(),
        (.., Some(rfc)) => format!(
            "{rfc} says what is to be spoken here, so what is found can be held against it. That a \
             program has the port proves nothing yet: the kernel does not read the registry."
        ),
        (.., None) => "Little. A registration keeps others from getting the same name; it starts no \
             program and stops none. No RFC goes with it, so there may be nothing public to hold what \
             is found against."
            .to_owned(),
    }];
    if registrations.iter().any(|it| it.is_misused) {
        worth.push("IANA itself notes that others use this number.".to_owned());
    }
    worth
}

/// What to look at.
fn checks(port: u16) -> Vec<Check> {
    let check = |what: &str, command: Option<String>| Check { what: what.to_owned(), command };
    let scan = Some(format!("portwatch scan -p {port}"));
    let watch = Some(format!("portwatch watch -p {port}"));
    let evidence = Some(format!("portwatch evidence /root/port-{port} -p {port}"));
    let mut checks = Vec::new();
    if port == practice::SMARTCARD_PORT {
        checks.push(check("Is anybody there, and who? In every network namespace.", scan));
        checks.extend(practice::CHECKS.map(|what| check(what, None)));
    } else {
        checks.push(check(
            "Is anybody there, and who? The executable, its package, its user and its parents say more \
             than the number.",
            scan,
        ));
        checks.push(check(
            "On which address? What is for this host alone belongs on 127.0.0.1 or ::1.",
            None,
        ));
    }
    checks.push(check("Who talks to it, and what does it look like?", watch));
    checks.push(check("Not what you expect? Keep the proof before it is gone.", evidence));
    checks
}

/// From here on IANA registers nothing: RFC 6335, section 6.
const FIRST_DYNAMIC: u16 = 49152;

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(port: u16) -> Explanation {
        Explanation::of(port, &PortRanges::default())
    }

    #[test]
    fn the_smartcard_port_has_its_true_story() {
        let text = text::render(&explain(3516), &Look::plain());

        for told in [
            "smartcard-port",
            "May 2002",
            "Scott Guthery",
            "tcp and udp",
            "No RFC",
            "PC/SC",
            "does not use the network",
            "Firmador",
            "Costa Rica",
            "127.0.0.1:3516",
            "portwatch scan -p 3516",
        ] {
            assert!(text.replace("\n  ", " ").contains(told), "{told} is not in:\n{text}");
        }
    }

    #[test]
    fn what_a_registration_is_worth_depends_on_what_goes_with_it() {
        let first = |port| explain(port).worth.swap_remove(0);

        assert!(first(22).starts_with("RFC 4251 says"));
        assert!(first(3516).starts_with("Little."));
        assert!(first(51821).starts_with("The numbers from 49152 on"));
        assert!(first(2).starts_with("IANA keeps this number back"));
        assert_eq!(explain(8888).worth.len(), 2, "misuse that IANA knows of");
    }

    #[test]
    fn every_port_can_be_explained_in_lines_that_fit() {
        for port in (1..=u16::MAX).step_by(997).chain([u16::MAX, 3516, 80, 5201]) {
            let text = text::render(&explain(port), &Look::plain());

            assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
            assert!(text.contains(&format!("portwatch scan -p {port}")), "{text}");
        }
    }

    #[test]
    fn a_port_that_clients_get_by_chance_is_told() {
        assert!(explain(40000).host.is_ephemeral);
        assert!(explain(40000).host.summary[0].contains("may have 40000 by chance"));
        assert!(!explain(3516).host.is_ephemeral);
        assert!(explain(443).host.summary[1].contains("CAP_NET_BIND_SERVICE"));
    }

    #[test]
    fn in_json_nothing_is_null_or_empty() {
        let json = serde_json::to_string(&explain(51821)).unwrap();

        assert!(json.starts_with(r#"{"port":51821,"registrations":[],"worth":["#), "{json}");
        assert!(!json.contains("null") && !json.contains(r#""""#), "{json}");
    }
}
