//! Any text at all, as a policy: it is one, or one line says why not. A policy judges and explains
//! whatever is there: here processes that have what its rules ask for, and one that has nothing.

#![no_main]

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use jiff::civil::date;
use libfuzzer_sys::fuzz_target;
use monitor::endpoint::{Endpoint, Transport};
use monitor::owner::{Attribution, Evidence, Owner, Ownership, Process, Role, Side};
use monitor::policy::{ClientView, ListenerView, Policy};
use monitor::report::RuleKey;

fuzz_target!(|text: &str| {
    let policy = match Policy::parse(Path::new("p"), text) {
        Ok(policy) => policy,
        Err(error) => {
            let line = error.to_string();
            assert!(line.starts_with("p:") && !line.contains(char::is_control), "{line:?}");
            return;
        }
    };
    assert!(policy.text().is_none_or(|kept| kept.len() <= text.len()));
    let rules: Vec<_> = policy.rules().collect();
    let mut processes = vec![Process::default()];
    for rule in rules.iter().take(8) {
        let value = |key| rule.values(key).first().map(|value| (*value).to_owned());
        processes.push(Process {
            executable: value(RuleKey::Exe).map(Into::into),
            on_host: Some(true),
            sha256: value(RuleKey::Sha256),
            user: value(RuleKey::User),
            unit: value(RuleKey::Unit),
            ..Process::default()
        });
        let (line, column) = rule.place(None);
        assert!(line >= 1 && column >= 1);
        for other in rules.iter().take(8) {
            let _either = rule.covers(other);
        }
    }
    let today = date(2026, 11, 29);
    for process in processes {
        let owner = |side| Owner {
            side,
            role: Role::Opener,
            evidence: Evidence::Exact,
            exited: false,
            replaced: false,
            process: Arc::new(process.clone()),
        };
        let owners = vec![owner(None), owner(Some(Side::Source))];
        let attribution =
            Attribution { ownership: Ownership::Process, reason: String::new(), owners };
        for ip in ["0.0.0.0", "127.0.0.1", "::1", "10.20.0.1"] {
            let ip: IpAddr = ip.parse().unwrap();
            let local = Endpoint::new(ip, 3516);
            let listener =
                ListenerView { local, transport: Transport::Tcp, attribution: &attribution };
            let judgement = policy.judge(&listener, today);
            let expects = policy.explain(&listener, today).iter().any(|answer| answer.expects());
            let is_expected = matches!(judgement.verdict, monitor::report::Verdict::Expected { .. });
            assert_eq!(expects, is_expected, "{judgement:?}");
            let client = ClientView {
                port: 3516,
                transport: Transport::Udp,
                remote: ip,
                is_here: true,
                attribution: &attribution,
            };
            let judgement = policy.judge_client(&client, today);
            let expects = policy.explain_client(&client, today).iter().any(|it| it.expects());
            let is_expected = matches!(judgement.verdict, monitor::report::Verdict::Expected { .. });
            assert_eq!(expects, is_expected, "{judgement:?}");
        }
    }
});
