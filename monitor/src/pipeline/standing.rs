//! What sends a watched port elsewhere, whether anything comes for it or not.

use crate::explanation::{Cause, Standing};
use crate::host::nftables::{Action, Redirection};
use crate::pipeline::findings::Ground;
use crate::pipeline::{Pipeline, next_steps};
use crate::report::{Finding, FindingKind, Severity, Technique};

impl Pipeline {
    /// Takes in what redirects watched ports; each is a finding.
    pub(super) fn standing(&mut self, found: &[Standing], now_ns: u64) {
        for (number, standing) in (0..).zip(found) {
            let place = if self.own_netns() == standing.netns.inode {
                String::new()
            } else {
                format!(" in network namespace {}", standing.netns)
            };
            let finding = finding(standing, &place, &self.whose(&standing.netns));
            self.find(finding, Ground::Redirection(number), now_ns);
        }
    }
}

/// `whose` is the namespace, for telling that it is the same finding.
fn finding(standing: &Standing, place: &str, whose: &str) -> Finding {
    let Standing { transport, port, cause, netns: _ } = standing;
    let transport = transport.map_or("tcp and udp", |transport| transport.name());
    let port = port.map_or_else(|| "any port".to_owned(), |port| port.to_string());
    let (severity, message, mut evidence) = match cause {
        Cause::Rule(rule) => of_rule(rule, &port, transport, place, cause),
        Cause::Service(service) => (
            Severity::Medium,
            format!("{port}/{transport} is answered by a load balancer{place}."),
            vec![service.clone()],
        ),
        Cause::Chooser(program) => (
            Severity::Low,
            format!("Who gets what comes for {port}/{transport}{place} is chosen by a program."),
            vec![
                format!("sk_lookup {program}"),
                "which ports it chooses for cannot be seen from outside".to_owned(),
            ],
        ),
    };
    evidence.push("found in the rules and programs of the host, not in traffic".to_owned());
    // Handles and numbers of programs are others after the next boot.
    let what = match cause {
        Cause::Rule(rule) => rule.rule.text.as_str(),
        Cause::Service(service) => service,
        Cause::Chooser(_) => "sk_lookup",
    };
    let subject = format!("{transport}|{port}|{whose}|{what}");
    Finding {
        evidence,
        next_steps: next_steps::of_cause(cause).into_iter().collect(),
        techniques: vec![&Technique::NON_STANDARD_PORT],
        ..Finding::new(FindingKind::RedirectedPort, &subject, severity, message)
    }
}

fn of_rule(
    rule: &Redirection,
    port: &str,
    transport: &str,
    place: &str,
    cause: &Cause,
) -> (Severity, String, Vec<String>) {
    let own = if rule.is_for_own_packets { ", of packets that this host sends" } else { "" };
    let message =
        format!("{port}/{transport}{place} is redirected to {} by {cause}{own}.", rule.action);
    let mut evidence = vec![rule.rule.to_string()];
    if !rule.names_port {
        evidence.push("the rule does not name the port: it is for all".to_owned());
    }
    if rule.is_conditional {
        evidence.push("it, or a rule on the way to it, has other conditions as well".to_owned());
    }
    let severity = match rule.action {
        Action::Redirect { .. } | Action::Tproxy { .. } => Severity::High,
        Action::Dnat { .. } => Severity::Medium,
    };
    let severity = if rule.names_port { severity } else { Severity::Low };
    (severity, message, evidence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{Netns, Transport};
    use crate::host::nftables::Rule;

    #[test]
    fn a_rule_is_told_with_where_it_sends_the_port_and_what_it_says() {
        let finding = finding(&standing(Cause::Rule(redirect())), "", "host");

        assert_eq!(
            finding.message,
            "3516/tcp is redirected to port 3517 of this host by nft rule of table ip nat, chain \
             prerouting, handle 4."
        );
        assert_eq!(
            finding.evidence[0],
            "nft rule of table ip nat, chain prerouting, handle 4: tcp dport 3516 redirect to :3517"
        );
        assert_eq!((finding.kind, finding.severity), (FindingKind::RedirectedPort, Severity::High));
    }

    #[test]
    fn what_does_not_name_the_port_weighs_little() {
        let for_all = Redirection { names_port: false, is_for_own_packets: true, ..redirect() };

        let [rule, chooser] = [Cause::Rule(for_all), Cause::Chooser("program 57".to_owned())]
            .map(|cause| finding(&standing(cause), " in network namespace blue", "blue"));

        assert_eq!((rule.severity, chooser.severity), (Severity::Low, Severity::Low));
        assert!(rule.message.contains("in network namespace blue"), "{}", rule.message);
        assert!(rule.message.ends_with("of packets that this host sends."), "{}", rule.message);
    }

    fn standing(cause: Cause) -> Standing {
        let netns = Netns { inode: 1, name: None };
        Standing { netns, transport: Some(Transport::Tcp), port: Some(3516), cause }
    }

    fn redirect() -> Redirection {
        let rule = Rule {
            family: "ip".to_owned(),
            table: "nat".to_owned(),
            chain: "prerouting".to_owned(),
            handle: 4,
            text: "tcp dport 3516 redirect to :3517".to_owned(),
        };
        Redirection {
            rule,
            action: Action::Redirect { ports: Some((3517, 3517)) },
            names_port: true,
            is_conditional: false,
            is_for_own_packets: false,
        }
    }
}
