//! Which policies are read, and the one line said of the others.

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::policy::Policy;

#[test]
fn every_key_of_the_contract_is_read() {
    let policy = parse_policy(
        r#"
        version = 1

        [[listener]]
        id = "card-bridge"
        reason = "smart-card bridge of the badge office, ticket SEC-112"
        expires = 2027-06-30
        port = 3516
        transport = "tcp"
        address = "127.0.0.1"
        exe = "/usr/sbin/cardbridged"
        sha256 = "E3B0C44298FC1C149AFBF4C8996FB92427AE41E4649B934CA495991B7852B855"
        user = "cardbridge"
        unit = "cardbridged.service"
        container_image = "registry.example/cardbridge@sha256:0123"
        package = "cardbridge"

        [[client]]
        id = "badge-office"
        reason = "who reads badges"
        expires = 2027-06-30
        port = 3516
        transport = "tcp"
        remote = ["10.20.0.0/16", "fd00::/8"]
        exe = "/usr/bin/badge-ui"
        user = "badge"

        [[listener]]
        id = "lists"
        port = [22, "8000-8010", "80,443"]
        transport = ["tcp", "udp"]
        address = ["10.0.0.0/8", "::1", "::/0"]
        exe = ["/usr/bin/*", "/opt/**/{a,b}"]
        "#,
    );

    let Ok(policy) = policy else { panic!("{policy:?}") };
    let [one, lists] = &*policy.listeners else { panic!("{policy:?}") };
    assert_eq!(one.id, "card-bridge");
    assert_eq!(one.expires, Some(jiff::civil::date(2027, 6, 30)));
    assert_eq!(one.pins.package, ["cardbridge"]);
    assert_eq!(one.pins.container_image, ["registry.example/cardbridge@sha256:0123"]);
    assert_eq!(
        one.pins.sha256,
        ["e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
    );
    assert_eq!(lists.reason, None);
    assert_eq!(lists.port.as_ref().unwrap().to_string(), "22,80,443,8000-8010");
    assert_eq!(lists.transport.len(), 2);
    assert_eq!(
        lists.network.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "::1", "::/0"]
    );
    let [client] = &*policy.clients else { panic!("{policy:?}") };
    assert_eq!(
        (client.kind, &*client.id, client.network.len()),
        (RuleKind::Client, "badge-office", 2)
    );
    assert_eq!((policy.counts(), policy.has_clients()), ((2, 1), true));
}

#[test]
fn good_policies_are_accepted() {
    let good = [
        "version = 1",
        "\u{feff}version = 1 # with a byte order mark",
        "version = 0x1\r\n\r\n[[listener]]\r\nid = 'a'\r\nport = 1\r\n",
        "listener = [{id = 'a', user = 'root'}, {id = 'b', unit = '*'}]\nversion = 1",
        "version = 1\n[[listener]]\nid = 'a'\nunit = 'my\\x2dcard.service'",
    ];
    for text in good {
        if let Err(error) = parse_policy(text) {
            panic!("{text:?}: {error}");
        }
    }
}

#[test]
fn a_bad_document_is_refused_with_its_place() {
    let table = [
        ("", "p:1:1: `version = 1` is missing"),
        ("[[listener]]\nid = 'a'\nport = 1", "p:1:1: `version = 1` is missing"),
        (
            "version = 2\nfoo = 1",
            "p:1:11: version 2 is not supported, this portwatch reads version 1",
        ),
        (
            "version = 1_5\u{e}",
            "p:1:11: version 15\\x0e is not supported, this portwatch reads version 1",
        ),
        ("version = '1'", "p:1:11: `version` must be the number 1, found string"),
        ("version = 1\nversion = 1", "p:2:1: duplicate key"),
        (
            "version = 1\n\nlisteners = 3",
            "p:3:1: unknown key `listeners`; did you mean `listener`?",
        ),
        (
            "version = 1\n[defaults]\n",
            "p:2:2: unknown key `defaults`; there are version, listener, client",
        ),
        (
            "version = 1\n[listener]\nid = 'a'",
            "p:2:1: `listener` must be tables, write [[listener]]",
        ),
        ("version = 1\nlistener = ['a']", "p:2:12: `listener` must be tables, write [[listener]]"),
        ("version = 1\nclient = 'a'", "p:2:10: `client` must be tables, write [[client]]"),
        ("version = 1\nx = \"\n", "p:2:6: invalid basic string, expected `\"`"),
        ("\u{feff}versin = 1", "p:1:1: `version = 1` is missing"),
        ("version = 1\n[[listener]\n", "p:2:12: unclosed array table, expected `]`"),
    ];
    for (text, message) in table {
        assert_eq!(error(text), message, "{text:?}");
    }
}

#[test]
fn a_bad_key_is_refused_with_its_place() {
    let table = [
        ("sha265 = 'x'", "p:4:1: unknown key `sha265`; did you mean `sha256`?"),
        ("  SHA-256 = 'x'", "p:4:3: unknown key `SHA-256`; did you mean `sha256`?"),
        ("prot = 1", "p:4:1: unknown key `prot`; did you mean `port`?"),
        ("adress = 'x'", "p:4:1: unknown key `adress`; did you mean `address`?"),
        ("users = 'x'", "p:4:1: unknown key `users`; did you mean `user`?"),
        (
            "uid = 0",
            "p:4:1: unknown key `uid`; there are id, reason, expires, port, transport, address, exe, \
             sha256, user, unit, package, container_image",
        ),
        (
            "\"e\\u001bxe\\n\" = 0",
            r"p:4:1: unknown key `e\x1bxe\n`; there are id, reason, expires, port, transport, address, exe, sha256, user, unit, package, container_image",
        ),
        (
            "remote = '::1'",
            "p:4:1: a listener has no `remote`: write `address` for where it listens, or [[client]] for \
             who may talk",
        ),
        ("exe.path = '/x'", "p:4:1: `exe` must be a string or a list of strings, found table"),
        ("user = 0", "p:4:8: `user` must be a string or a list of strings, found integer"),
        ("user = ['a', 0]", "p:4:14: `user` must be a string or a list of strings, found integer"),
        ("user = ''", "p:4:8: `user` is empty"),
        ("user = []", "p:4:8: `user` is an empty list, leave it out"),
        ("reason = ''", "p:4:10: `reason` is empty"),
        ("reason = ['a']", "p:4:10: `reason` must be a string, found array"),
    ];
    for (line, message) in table {
        assert_eq!(rule_error(line), message, "{line:?}");
    }
}

#[test]
fn a_bad_value_is_refused_with_its_place() {
    let table = [
        (
            "expires = '2027-06-30'",
            "p:4:11: `expires` must be a date without quotes such as 2027-06-30, found string",
        ),
        (
            "expires = 2027-06-30T10:00:00Z",
            "p:4:11: `expires` must be a date without quotes such as 2027-06-30, without a time",
        ),
        ("expires = 2027-02-30", "p:4:11: invalid date, expected day between 01 and 28"),
        (
            "expires = 10:00:00",
            "p:4:11: `expires` must be a date without quotes such as 2027-06-30, without a time",
        ),
        (
            "port = 1_5\u{e}",
            "p:4:8: `port`: 15\\x0e is not a port, which is a number from 1 to 65535",
        ),
        ("port = 0", "p:4:8: `port`: 0 is not a port, which is a number from 1 to 65535"),
        (
            "port = 99999999999999999999",
            "p:4:8: `port`: 99999999999999999999 is not a port, which is a number from 1 to 65535",
        ),
        ("port = [1, '80-']", "p:4:12: `port`: port list `80-`: the range has no end"),
        (
            "port = 1.5",
            "p:4:8: `port` must be a number, a string such as \"8000-8010\" or a list of these, found float",
        ),
        ("port = []", "p:4:8: `port` is an empty list, leave it out"),
        ("transport = 'sctp'", "p:4:13: `transport`: `sctp` is neither tcp nor udp"),
        (
            "address = 'localhost'",
            "p:4:11: `address`: `localhost` is neither an IP address nor a CIDR such as 10.0.0.0/8",
        ),
        (
            "address = '10.0.0.0/33'",
            "p:4:11: `address`: `10.0.0.0/33` is neither an IP address nor a CIDR such as 10.0.0.0/8",
        ),
        (
            "address = '10.1.2.3/8'",
            "p:4:11: `address`: `10.1.2.3/8` has bits set after its prefix, write 10.0.0.0/8",
        ),
        (
            "address = ['::1', '::ffff:1.2.3.4']",
            "p:4:19: `address`: `::ffff:1.2.3.4` is IPv4 mapped into IPv6, write it as IPv4",
        ),
        ("exe = 'sshd'", "p:4:7: `exe`: `sshd` would never match, begin it with `/`"),
        (
            "exe = '/usr/[a'",
            "p:4:7: `exe`: `/usr/[a` is not a glob: unclosed character class; missing ']'",
        ),
        (
            "exe = ['/ok', '/{a']",
            "p:4:15: `exe`: `/{a` is not a glob: unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)",
        ),
        ("unit = '[z-a]'", "p:4:8: `unit`: `[z-a]` is not a glob: invalid range; 'z' > 'a'"),
        (
            "package = 'libc6:amd64'",
            "p:4:11: `package`: `libc6:amd64`: write libc6, without the architecture",
        ),
        ("package = 'a b'", "p:4:11: `package`: `a b` is not the name of a package"),
        ("container_image = 'a b'", "p:4:19: `container_image`: `a b` is not the name of an image"),
        ("sha256 = 'abc'", "p:4:10: `sha256`: has 3 hexadecimal digits instead of 64"),
        ("sha256 = 'xyz'", "p:4:10: `sha256`: `xyz` is not hexadecimal"),
    ];
    for (line, message) in table {
        assert_eq!(rule_error(line), message, "{line:?}");
    }
}

#[test]
fn a_rule_that_says_too_little_is_refused_at_its_header() {
    let table = [
        ("version = 1\n\n [[listener]]\nport = 1", "p:3:2: this rule has no `id`"),
        (
            "version = 1\n[[listener]]\nid = 'a'\nreason = 'x'\nexpires = 2027-01-01",
            "p:2:1: rule `a` would match everything: say what is expected",
        ),
        (
            "version = 1\n[[listener]]\nid = 'a'\nport = 1\n[[listener]]\nport = 2\nid = 'a'",
            "p:7:6: `id` `a` is used already on line 3",
        ),
        (
            "version = 1\n[[client]]\nid = 'a'\nport = 1\n[[listener]]\nport = 2\nid = 'a'",
            "p:7:6: `id` `a` is used already on line 3",
        ),
        (
            "version = 1\n[[client]]\nid = 'a'\nport = 1\naddress = '::1'",
            "p:5:1: a client has no `address`: write `remote`",
        ),
        (
            "version = 1\n[[client]]\nid = 'a'\nremotes = '::1'",
            "p:4:1: unknown key `remotes`; did you mean `remote`?",
        ),
        (
            "version = 1\n[[client]]\nid = 'a'",
            "p:2:1: rule `a` would match everything: say what is expected",
        ),
    ];
    for (text, message) in table {
        assert_eq!(error(text), message, "{text:?}");
    }
}

#[test]
fn the_first_of_several_problems_is_reported() {
    let rule = "[[listener]]\nid = 'a'\nzzz = 1\nexe = 1\n";

    assert_eq!(
        error(&format!("version = 1\n{rule}[zzz]\n")),
        "p:4:1: unknown key `zzz`; there are id, reason, expires, port, transport, address, exe, \
         sha256, user, unit, package, container_image"
    );
    assert_eq!(
        error(&format!("version = 1\n[aaa]\n{rule}")),
        "p:2:2: unknown key `aaa`; there are version, listener, client"
    );
}

#[test]
fn a_column_counts_characters() {
    assert_eq!(error("version = 1 # ü\nlistener = [{id = 'ü', x = 1}]"), {
        "p:2:24: unknown key `x`; there are id, reason, expires, port, transport, address, exe, \
         sha256, user, unit, package, container_image"
    });
}

#[test]
fn a_glob_that_could_exhaust_the_stack_is_refused() {
    let nested = format!("exe = '/{}{}'", "{a".repeat(1_300), "}".repeat(1_300));
    assert!(
        rule_error(&nested).contains("…` is not a glob: nested too deep or too large"),
        "{}",
        rule_error(&nested)
    );

    let long = format!("exe = '/{}'", "*a".repeat(3_000));
    assert_eq!(rule_error(&long), "p:4:7: `exe`: is longer than 4096 bytes");
}

#[test]
fn the_file_is_named_without_its_control_characters() {
    let error = Policy::parse(Path::new("a\nb"), "version = 3").unwrap_err().to_string();

    assert!(error.starts_with(r"a\nb:1:11: version 3"), "{error}");
}

proptest! {
    #[test]
    fn any_text_is_a_policy_or_one_line(text in "(?s:.)*") {
        one_line_at_most(&text)?;
    }

    #[test]
    fn any_mix_of_policy_words_is_a_policy_or_one_line(
        words in proptest::collection::vec(prop::sample::select(&WORDS[..]), 0..40),
    ) {
        one_line_at_most(&words.concat())?;
        one_line_at_most(&format!("version = 1\n[[listener]]\n{}", words.concat()))?;
    }

    #[test]
    fn any_value_is_a_value_or_one_line(
        key in prop::sample::select([&LISTENER_KEYS[..], &CLIENT_KEYS[..]].concat()),
        value in "(?s:[^']){0,30}|[0-9/.:a-f]{0,20}|[/*?{},\\[\\]a!^-]{0,30}",
    ) {
        one_line_at_most(&format!("version = 1\n[[listener]]\n{key} = '''{value}'''"))?;
        one_line_at_most(&format!("version = 1\n[[listener]]\n{key} = {value}"))?;
        one_line_at_most(&format!("version = 1\n[[client]]\nid = 'a'\n{key} = '''{value}'''"))?;
    }
}

const WORDS: [&str; 24] = [
    "version",
    "listener",
    "id",
    "exe",
    "port",
    "expires",
    "address",
    "sha256",
    "client",
    "\n",
    " = ",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "'",
    "\"",
    ",",
    "1",
    "2027-06-30",
    "/usr/**",
    "\u{1b}",
];

fn one_line_at_most(text: &str) -> Result<(), TestCaseError> {
    if let Err(error) = parse_policy(text) {
        let error = error.to_string();
        prop_assert!(error.starts_with("p:"), "{error:?}");
        prop_assert!(!error.contains(char::is_control), "{error:?}");
    }
    Ok(())
}

fn parse_policy(text: &str) -> Result<Policy, crate::policy::PolicyError> {
    Policy::parse(Path::new("p"), text)
}

fn error(text: &str) -> String {
    parse_policy(text).unwrap_err().to_string()
}

/// The error for a rule of which only one line is in doubt; that line is number 4.
fn rule_error(line: &str) -> String {
    error(&format!("version = 1\n[[listener]]\nid = 'a'\n{line}\n"))
}
