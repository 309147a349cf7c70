//! What the command line takes, and the one line said of the rest.

use clap::CommandFactory as _;
use proptest::prelude::*;

use super::*;

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn a_bare_scan_has_the_defaults_of_the_contract() {
    let common = common();
    assert_eq!(
        cli(&["scan"]),
        Ok(Cli {
            command: Command::Scan(Scan { common, probe_bind: false }),
            color: Color::Auto,
            verbose: 0
        })
    );
}

#[test]
fn doctor_takes_a_format_and_its_decoys_are_not_offered() {
    let doctor = Doctor { format: Format::Json };
    let parsed = cli(&["doctor", "--format", "json"]).map(|cli| cli.command);

    assert_eq!(parsed, Ok(Command::Doctor(doctor)));
    assert!(!Cli::command().render_long_help().to_string().contains("decoy"));
}

#[test]
fn explain_takes_a_port_and_3516_unless_told_otherwise() {
    let explain = |args: &[&str]| cli(args).map(|cli| cli.command);
    let text = Format::Text;

    assert_eq!(explain(&["explain"]), Ok(Command::Explain(Explain { port: 3516, format: text })));
    assert_eq!(
        explain(&["explain", "22"]),
        Ok(Command::Explain(Explain { port: 22, format: text }))
    );
    for port in ["0", "65536", "-1", "ssh", ""] {
        assert!(matches!(explain(&["explain", port]), Err(Exit::Usage(_))), "{port}");
    }
}

#[test]
fn evidence_selects_and_takes_the_ports_of_what_it_selects_unless_told_otherwise() {
    let address = |text: &str| text.parse().unwrap();
    let (one, other) = ("[::1]:22", "10.0.0.7:51820");
    let flow = format!("{one},{other}");
    let table: [(&[&str], Selection, &str); 6] = [
        (&[], Selection::Ports, "3516"),
        (&["--port", "1,2"], Selection::Ports, "1-2"),
        (&["--pid", "7"], Selection::Pid(7), "3516"),
        (&["--listener", one], Selection::Listener(address(one)), "22"),
        (&["--flow", &flow], Selection::Flow(address(one), address(other)), "22,51820"),
        (&["--flow", &flow, "-p", "22"], Selection::Flow(address(one), address(other)), "22"),
    ];
    for (args, selection, ports) in table {
        let evidence = evidence(args);

        assert_eq!(evidence.selection(), selection, "{args:?}");
        assert_eq!(evidence.common().ports().to_string(), ports, "{args:?}");
        assert_eq!((evidence.max_file, evidence.with_environment), (256 << 20, false));
    }
}

#[test]
fn evidence_takes_a_directory_or_verifies_one() {
    let verified = cli(&["evidence", "verify", "case.tar"]).map(|cli| cli.command);

    let Ok(Command::Evidence(evidence)) = verified else { panic!("{verified:?}") };
    let path = PathBuf::from("case.tar");
    assert_eq!(evidence.command, Some(EvidenceCommand::Verify(VerifyEvidence { path })));
    assert_usage("evidence", "<DIR> is missing, see 'portwatch --help'");
    assert_usage("evidence verify", "<PATH> is missing, see 'portwatch --help'");
    let both = "evidence case --pid 1 --listener 127.0.0.1:1";
    assert_usage(both, "'--pid' and '--listener' exclude each other");
}

#[test]
fn a_bare_watch_has_the_defaults_of_the_contract() {
    assert_eq!(watch(&[]), default_watch());
}

#[test]
fn every_option_of_watch_is_taken() {
    let line = "-p 22,80 --port 81 -i lo --interface eth0 --policy p.toml --format json --attach tcx \
                --sample 0 --snaplen 4096 --payload full --interval 1m30s --ready-fd 3 \
                --pin --record r.pwrec --fail-on-finding --fail-on-loss --for 1h30m --count 7 --idle-timeout 2s \
                --ring-size 64KiB --flow-table 1GiB -- nc -l";

    let watch = watch(&line.split_whitespace().collect::<Vec<_>>());

    assert_eq!(watch.common.ports().to_string(), "22,80-81");
    assert_eq!(
        watch,
        Watch {
            common: Common {
                port: vec!["22,80".parse().unwrap(), "81".parse().unwrap()],
                policy: Some("p.toml".into()),
                no_policy: false,
                format: Format::Json,
            },
            interfaces: vec!["lo".to_owned(), "eth0".to_owned()],
            netns: NetnsScope::Host,
            attach: AttachMode::Tcx,
            sample: 0,
            snaplen: 4096,
            payload: Payload::Full,
            interval: Duration::from_secs(90),
            ready_fd: Some(3),
            pin: true,
            record: Some("r.pwrec".into()),
            pcap: Pcap::default(),
            fail_on_finding: true,
            fail_on_loss: true,
            duration: Some(Duration::from_mins(90)),
            count: NonZeroU64::new(7),
            idle_timeout: Duration::from_secs(2),
            ring_size: 64 << 10,
            flow_table: 1 << 30,
            command: vec!["nc".into(), "-l".into()],
        }
    );
}

#[test]
fn the_subcommands_of_policy_are_taken() {
    let policy = |line: &[&str]| match cli(&[&["policy"], line].concat()).unwrap().command {
        Command::Policy(command) => command,
        command => panic!("{command:?}"),
    };

    let learn = policy(&["learn", "-p", "22", "--for", "24h", "--clients", "-o", "p.toml"]);
    let expected = LearnPolicy {
        port: vec!["22".parse().unwrap()],
        duration: Some(Duration::from_hours(24)),
        clients: true,
        output: Some("p.toml".into()),
    };
    assert_eq!(learn, PolicyCommand::Learn(expected));
    let check = CheckPolicy { file: None, port: Vec::new(), format: Format::Text };
    assert_eq!(policy(&["check"]), PolicyCommand::Check(check));
    let subjects = [
        ("4242", Subject::Pid(4242)),
        ("[::1]:3516", Subject::Address("[::1]:3516".parse().unwrap())),
    ];
    for (text, subject) in subjects {
        let PolicyCommand::Explain(explain) = policy(&["explain", text]) else { panic!("{text}") };
        assert_eq!(explain.subject, Some(subject));
    }
}

#[test]
fn learning_watches_without_a_policy_and_samples() {
    let watch = Watch::for_learning(vec![PortSet::default()], Duration::from_secs(3)).unwrap();

    let common = Common { no_policy: true, ..common() };
    let duration = Some(Duration::from_secs(3));
    assert_eq!(watch, Watch { common, sample: 0, duration, ..default_watch() });
}

#[test]
fn global_options_stand_before_and_after_the_subcommand() {
    for line in [["--color", "never", "-vv", "scan"], ["scan", "-vv", "--color", "never"]] {
        let cli = cli(&line).unwrap();
        assert_eq!((cli.color, cli.verbose), (Color::Never, 2), "{line:?}");
    }
}

#[test]
fn a_bad_option_is_refused_in_one_line() {
    let table = [
        (
            "",
            "a subcommand is missing: scan, watch, replay, evidence, doctor, explain, policy, detach or help",
        ),
        ("wtch", "unknown subcommand 'wtch', did you mean 'watch'?"),
        ("top", "unknown subcommand 'top', see 'portwatch --help'"),
        ("scan --prot 22", "unknown option '--prot', did you mean '--port'?"),
        ("scan --what", "unknown option '--what'"),
        ("scan -i eth0", "unknown option '-i' here, it is one of 'portwatch watch'"),
        (
            "scan --for=3s",
            "unknown option '--for' here, it is one of 'portwatch watch' and 'portwatch evidence'",
        ),
        (
            "--port 22 scan",
            "unknown option '--port' here, it is one of 'portwatch scan', 'portwatch watch' and \
             'portwatch evidence'",
        ),
        ("scan 22", "unexpected argument '22', a command to run goes after 'watch --'"),
        ("watch nc -l", "unexpected argument 'nc', a command to run goes after 'watch --'"),
        ("scan --port", "'--port' needs a value"),
        ("scan --policy=", "'--policy' needs a value"),
        ("scan --format=", "'--format' needs a value: text or json"),
        ("watch --fail-on-loss=yes", "'--fail-on-loss' takes no value, found 'yes'"),
        ("watch --for 1s --for 2s", "'--for' is given twice"),
        ("scan --policy p --no-policy", "'--policy' and '--no-policy' exclude each other"),
        ("watch --netns all --pin", "'--netns' and '--pin' exclude each other"),
        (
            "policy explain x",
            "invalid value 'x' for '[PID|ADDR]': write a pid, or an address and port such as \
             127.0.0.1:3516 or [::1]:3516",
        ),
        ("scan --color red", "invalid value 'red' for '--color': write auto, always or never"),
        ("scan --format xml", "invalid value 'xml' for '--format': write text or json"),
        ("watch --payload all", "invalid value 'all' for '--payload': write none, masked or full"),
        ("watch --attach xdp", "invalid value 'xdp' for '--attach': write auto, tcx or clsact"),
    ];
    for (line, message) in table {
        assert_usage(line, message);
    }
}

#[test]
fn a_bad_value_is_refused_in_one_line_that_says_what_was_meant() {
    let table = [
        ("scan -p 80-", "'80-' for '--port': port list `80-`: the range has no end"),
        ("scan -p -80", "'-80' for '--port': port list `-80`: the range has no start"),
        (
            "watch -i a/b",
            "'a/b' for '--interface': an interface name has 1 to 15 bytes, none of them a space, `/` or `:`",
        ),
        (
            "watch -i sixteen-is-a-lot",
            "'sixteen-is-a-lot' for '--interface': an interface name has 1 to 15 bytes, none of them a space, `/` or `:`",
        ),
        ("watch --sample -1", "'-1' for '--sample': write a number, or 0 to turn sampling off"),
        ("watch --snaplen 0", "'0' for '--snaplen': write a number of bytes from 1 to 4096"),
        ("watch --snaplen 4097", "'4097' for '--snaplen': write a number of bytes from 1 to 4096"),
        ("watch --interval 10", "'10' for '--interval': write it with a unit, such as 10s or 10ms"),
        ("watch --interval 50ms", "'50ms' for '--interval': write a time from 100ms to 8784h"),
        ("watch --idle-timeout 0s", "'0s' for '--idle-timeout': write a time from 1s to 8784h"),
        ("watch --for soon", "'soon' for '--for': write a time such as 500ms, 10s, 5m or 1h30m"),
        ("watch --for=-3s", "'-3s' for '--for': write a time from 1ms to 8784h"),
        (
            "watch --for=3s-ago",
            "'3s-ago' for '--for': write a time such as 500ms, 10s, 5m or 1h30m",
        ),
        ("watch --for 0s", "'0s' for '--for': write a time from 1ms to 8784h"),
        ("watch --for 9000h", "'9000h' for '--for': write a time from 1ms to 8784h"),
        ("watch --for PT5S", "'PT5S' for '--for': write a time such as 500ms, 10s, 5m or 1h30m"),
        ("watch --count 0", "'0' for '--count': write a number from 1"),
        ("watch --count x", "'x' for '--count': write a number from 1"),
        (
            "watch --ready-fd 2",
            "'2' for '--ready-fd': write the number of an open descriptor from 3",
        ),
        (
            "watch --ring-size 3MiB",
            "'3MiB' for '--ring-size': write a power of two from PAGE to 1GiB, such as 8MiB",
        ),
        (
            "watch --ring-size 2GiB",
            "'2GiB' for '--ring-size': write a power of two from PAGE to 1GiB, such as 8MiB",
        ),
        (
            "watch --ring-size 2048",
            "'2048' for '--ring-size': write a power of two from PAGE to 1GiB, such as 8MiB",
        ),
        ("watch --ring-size 8MB", "'8MB' for '--ring-size': did you mean 8MiB?"),
        ("watch --ring-size 8k", "'8k' for '--ring-size': did you mean 8KiB?"),
        (
            "watch --ring-size 8TiB",
            "'8TiB' for '--ring-size': `TiB` is not a unit, write KiB, MiB or GiB",
        ),
        (
            "watch --ring-size MiB",
            "'MiB' for '--ring-size': write a size such as 64KiB, 8MiB or 4096",
        ),
        (
            "watch --ring-size 1.5MiB",
            "'1.5MiB' for '--ring-size': `.5MiB` is not a unit, write KiB, MiB or GiB",
        ),
        ("watch --flow-table 63KiB", "'63KiB' for '--flow-table': write a size from 64KiB to 4GiB"),
        (
            "watch --flow-table 99999999999999999999GiB",
            "'99999999999999999999GiB' for '--flow-table': write a size from 64KiB to 4GiB",
        ),
    ];
    let page = format!("{}KiB", rustix::param::page_size() / 1024);
    for (line, message) in table {
        assert_usage(line, &format!("invalid value {}", message.replace("PAGE", &page)));
    }
}

#[test]
fn a_value_cannot_forge_a_line_or_a_terminal_sequence() {
    let usage = |args: &[&str], message: &str| {
        assert_eq!(cli(args), Err(Exit::Usage(format!("portwatch: {message}"))));
    };

    usage(&["a\nb"], r"unknown subcommand 'a\nb', see 'portwatch --help'");
    usage(&["scan", "--a\x1b[2Jb"], r"unknown option '--a\x1b[2Jb'");
    usage(
        &["scan", "--format", "x\u{202e}\ny"],
        r"invalid value 'x\u{202e}\ny' for '--format': write text or json",
    );
    usage(
        &["watch", "--ring-size", "8\nTB"],
        r"invalid value '8\nTB' for '--ring-size': `\nTB` is not a unit, write KiB, MiB or GiB",
    );
}

#[test]
fn help_and_version_are_answers() {
    let Err(Exit::Answer(version)) = cli(&["--version"]) else { panic!("no version") };
    assert_eq!(version.trim_end(), concat!("portwatch ", env!("CARGO_PKG_VERSION")));

    for line in [&["--help"][..], &["help"], &["scan", "-h"], &["help", "watch"]] {
        assert!(matches!(cli(line), Err(Exit::Answer(_))), "{line:?}");
    }
    assert_eq!(Exit::Answer(String::new()).code(), 0);
    assert_eq!(Exit::Usage(String::new()).code(), 2);
}

#[test]
fn the_long_help_of_each_subcommand_ends_with_an_example_that_works() {
    for name in ["scan", "watch"] {
        let mut command = Cli::command();
        let command = command.find_subcommand_mut(name).unwrap();
        let help = command.render_long_help().to_string();
        let (_, example) = help.rsplit_once("Example: ").unwrap();
        let line = example.lines().last().unwrap().split('|').next().unwrap();
        let args: Vec<&str> = line.split_whitespace().skip(1).collect();

        assert!(cli(&args).is_ok(), "{line}");
        assert_eq!(args[0], name);
    }
}

#[test]
fn every_option_has_help_and_a_group() {
    let command = Cli::command();
    for subcommand in command.get_subcommands() {
        for argument in subcommand.get_arguments().filter(|argument| !argument.is_positional()) {
            let id = argument.get_id();
            assert!(argument.get_help().is_some(), "{id}");
            assert!(
                ["help", "version"].contains(&id.as_str()) || argument.get_help_heading().is_some(),
                "{id}"
            );
        }
    }
}

proptest! {
    #[test]
    fn any_command_line_is_taken_or_answered_or_refused_in_one_line(
        args in proptest::collection::vec(
            prop_oneof![
                prop::sample::select(&["scan", "watch", "--port", "--for", "-i", "--", "--count"][..])
                    .prop_map(str::to_owned),
                "(?s:.){0,12}",
            ],
            0..6,
        ),
    ) {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        if let Err(Exit::Usage(line)) = cli(&args) {
            prop_assert!(line.starts_with("portwatch: "), "{line:?}");
            prop_assert!(!line.contains(char::is_control), "{line:?}");
        }
    }
}

fn cli(args: &[&str]) -> Result<Cli, Exit> {
    parse(["portwatch"].iter().chain(args).map(OsString::from))
}

fn watch(args: &[&str]) -> Watch {
    match cli(&[&["watch"], args].concat()) {
        Ok(Cli { command: Command::Watch(watch), .. }) => *watch,
        other => panic!("{other:?}"),
    }
}

fn evidence(args: &[&str]) -> Evidence {
    match cli(&[&["evidence", "case"], args].concat()) {
        Ok(Cli { command: Command::Evidence(evidence), .. }) => *evidence,
        other => panic!("{other:?}"),
    }
}

fn assert_usage(line: &str, message: &str) {
    let args: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cli(&args), Err(Exit::Usage(format!("portwatch: {message}"))), "{line}");
}

fn common() -> Common {
    Common { port: vec![PortSet::default()], policy: None, no_policy: false, format: Format::Text }
}

fn default_watch() -> Watch {
    Watch {
        common: common(),
        interfaces: Vec::new(),
        netns: NetnsScope::Host,
        attach: AttachMode::Auto,
        sample: 1000,
        snaplen: 128,
        payload: Payload::Masked,
        interval: Duration::from_secs(10),
        ready_fd: None,
        pin: false,
        record: None,
        pcap: Pcap::default(),
        fail_on_finding: false,
        fail_on_loss: false,
        duration: None,
        count: None,
        idle_timeout: Duration::from_mins(1),
        ring_size: 8 << 20,
        flow_table: 8 << 20,
        command: Vec::new(),
    }
}
