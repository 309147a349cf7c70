//! Who really uses a port, where that is known and not what the registry says.

/// The port portwatch was made for.
pub(super) const SMARTCARD_PORT: u16 = 3516;

/// What is known of a port; nothing for most.
pub(super) fn of(port: u16) -> &'static [&'static str] {
    if port == SMARTCARD_PORT {
        return &STORY;
    }
    let known = SQUATTERS.iter().find(|(known, _)| *known == port);
    known.map_or(&[], |(_, told)| std::slice::from_ref(told))
}

/// The story of 3516.
const STORY: [&str; 4] = [
    "The name promises smart cards, and smart cards do not come this way. No protocol was ever published \
     under it. PC/SC, by which programs everywhere talk to card readers, does not use the network: on \
     Linux pcscd listens on the Unix socket /run/pcscd/pcscd.comm.",
    "One product is known to use the port: Firmador, Costa Rica's free signer of PDF files. It is a Java \
     program on somebody's desktop that takes documents from web pages, as HTTP on 127.0.0.1:3516, and \
     only once it was told from which site.",
    "Relays that carry a card reader over the network exist (vpcd of vsmartcard, for one); they have ports \
     of their own, but can be put here.",
    "So who listens on 3516 is Firmador, something home-made, a relay that somebody moved here, or somebody \
     who hopes that the name answers your question.",
];

/// What to look at there.
pub(super) const CHECKS: [&str; 3] = [
    "On which address? 127.0.0.1 may be Firmador. 0.0.0.0, [::] or an address of the network may not: \
     nothing that is known listens there.",
    "What runs? Firmador is a `java` of a person who is logged in; not root's, not a service's, not in a \
     container. A deleted file, one in /tmp, one that no package has installed: see the last point first.",
    "What does it say? HTTP with Access-Control-Allow-Origin fits Firmador. A listener that speaks first, \
     with 00 01 and a byte, fits vpcd. A shell's prompt, or TLS, fits nothing that is known.",
];

/// Numbers that others have made their own, whatever the registry says.
const SQUATTERS: [(u16, &str); 14] = [
    (2375, "Docker's API without TLS: who reaches it is root on the host."),
    (3000, "Development servers, and Grafana."),
    (4444, "The port that Metasploit's payloads call back to unless told otherwise."),
    (5000, "Development servers (Flask), container registries, AirPlay on macOS."),
    (5201, "iperf3, which measures networks."),
    (6443, "The API server of Kubernetes."),
    (8000, "Development servers: `python3 -m http.server` takes it unless told otherwise."),
    (8888, "Jupyter notebooks, in which whoever has the token runs code."),
    (9090, "Prometheus, and Cockpit, the web console of Linux hosts."),
    (9100, "Prometheus' node exporter; and printers, which print whatever comes."),
    (9200, "The HTTP interface of Elasticsearch and OpenSearch."),
    (10250, "The kubelet of Kubernetes."),
    (
        31337,
        "\"Elite\": since Back Orifice in 1998 a favourite of those who want to be found by friends.",
    ),
    (51820, "WireGuard. The kernel itself has that socket, so no process is to be found."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_told() {
        assert_eq!(of(3516).len(), 4);
        assert!(of(51820)[0].contains("WireGuard"));
        assert!(of(3517).is_empty());
        assert!(SQUATTERS.is_sorted_by_key(|(port, _)| port));
    }
}
