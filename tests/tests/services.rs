//! Real services on the port: who opened it, who serves which connection, whose program that is.

#![cfg(test)]

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use portwatch_tests::{
    Actor, Event, Host, Lab, Portwatch, Run, Service, are_installed, finish, skip,
};
use tempfile::TempDir;

const ACTOR: &str = env!("CARGO_BIN_EXE_actor");
const PORT: u16 = 3516;
const NGINX: (&str, &str) = ("/usr/sbin/nginx", "nginx");
const SSHD: (&str, &str) = ("/usr/sbin/sshd", "openssh-server");
const SOCAT: (&str, &str) = ("/usr/bin/socat", "socat");
const ACTIVATE: (&str, &str) = ("/usr/bin/systemd-socket-activate", "systemd");
const PCSCD: (&str, &str) = ("/usr/sbin/pcscd", "pcscd");
const VPCD: (&str, &str) = ("/usr/lib/pcsc/drivers/serial/libifdvpcd.so", "vsmartcard-vpcd");
const PYTHON: (&str, &str) = ("/usr/bin/python3", "python3");
const PERL: &str = "/usr/bin/perl";

#[test]
fn of_nginx_the_master_has_opened_the_port_and_the_very_worker_serves_a_connection() {
    let Some((host, portwatch)) = stage(&[NGINX]) else { return };
    let directory = directory();
    let master = nginx(&host, &directory);
    let opened = opened(&portwatch, &host);

    // The answer is the pid of the worker.
    let asked = Client::ask(&host, "GET / HTTP/1.0\r\n\r\n");
    let (client, worker) = (asked.address, asked.answer.parse::<u32>().expect("a pid"));
    let found = found(&host);
    let run = portwatch.stop();

    opened.assert_owner("", "opener", "exact", master.pid());
    let holders = found.owners();
    let holders: Vec<u32> = holders.iter().map(|owner| owner.pid).collect();
    assert_eq!(holders.len(), 3, "the master and two workers: {holders:?}");
    assert!(holders.contains(&master.pid()) && holders.contains(&worker), "{holders:?}");
    for pid in holders {
        assert_eq!(found.owner("holder", pid)["package"], "nginx");
    }
    let flow = run.flow_from(client);
    if is_whole(&run) {
        flow.assert_owner("destination", "user", "exact", worker);
        flow.assert_owner("destination", "opener", "exact", master.pid());
        assert_eq!(flow.number("process.pid"), u64::from(worker));
        let destination = flow.owners();
        let others = destination.iter().filter(|it| it.side == "destination");
        let others = others.filter(|it| ![worker, master.pid()].contains(&it.pid));
        assert_eq!(others.count(), 0, "the other worker has no part in it: {destination:?}");
    }
    run.assert_sound();
}

#[test]
fn of_sshd_the_process_that_it_starts_for_a_connection_is_named() {
    let Some((host, portwatch)) = stage(&[SSHD]) else { return };
    let directory = directory();
    let key = directory.path().join("key").display().to_string();
    let made =
        finish(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &key]));
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let config =
        format!("Port {PORT}\nListenAddress 127.0.0.1\nHostKey {key}\nPidFile none\nUsePAM no\n");
    let file = directory.path().join("config");
    fs::write(&file, config).expect("write a configuration");
    let file = file.display().to_string();
    let sshd = Service::start(&host, &["sshd"], SSHD.0, &["-D", "-f", &file]);
    let opened = opened(&portwatch, &host);

    let asked = Client::ask(&host, "");
    let answer = asked.answer.clone();
    let connection = asked.leave(&host);
    let run = portwatch.stop();

    assert!(answer.starts_with("SSH-2.0-"), "{answer}");
    opened.assert_owner("", "opener", "exact", sshd.pid());
    assert_eq!(opened.text("package.name"), "openssh-server");
    assert_child_serves(&run, &connection, &sshd, "sshd", "openssh-server");
    run.assert_sound();
}

#[test]
fn of_socat_the_process_that_it_forks_for_a_connection_is_named() {
    let Some((host, portwatch)) = stage(&[SOCAT]) else { return };
    let listen = format!("TCP-LISTEN:{PORT},bind=127.0.0.1,reuseaddr,fork");
    let socat = Service::start(&host, &[], SOCAT.0, &[&listen, "PIPE"]);
    let opened = opened(&portwatch, &host);

    let asked = Client::ask(&host, "hello\n");
    let answer = asked.answer.clone();
    let connection = asked.leave(&host);
    let run = portwatch.stop();

    assert_eq!(answer, "hello");
    opened.assert_owner("", "opener", "exact", socat.pid());
    assert_eq!(opened.text("package.name"), "socat");
    assert_child_serves(&run, &connection, &socat, "socat", "socat");
    run.assert_sound();
}

#[test]
fn of_a_service_that_is_started_for_each_connection_that_very_process_is_named() {
    let Some((host, portwatch)) = stage(&[ACTIVATE]) else { return };
    let address = host.v4(PORT).to_string();
    let args = ["--accept", "--inetd", "--listen", &address, "/bin/cat"];
    let activator = Service::start(&host, &[], ACTIVATE.0, &args);
    let opened = opened(&portwatch, &host);

    let asked = Client::ask(&host, "hello\n");
    let answer = asked.answer.clone();
    let connection = asked.leave(&host);
    let run = portwatch.stop();

    assert_eq!(answer, "hello");
    opened.assert_owner("", "opener", "exact", activator.pid());
    assert_child_serves(&run, &connection, &activator, "cat", "coreutils");
    run.assert_sound();
}

#[test]
fn a_service_that_takes_the_place_of_who_opened_its_port_is_named_as_what_it_is() {
    let Some((host, portwatch)) = stage(&[ACTIVATE]) else { return };
    let address = host.v4(PORT).to_string();
    let echo = "use IO::Socket::INET; my $l = IO::Socket::INET->new_from_fd(3, '+<') or die; \
                while (my $c = $l->accept) { while (<$c>) { syswrite $c, $_ } close $c }";
    let args = ["--listen", &address, PERL, "-e", echo];
    let service = Service::start(&host, &[], ACTIVATE.0, &args);
    let opened = opened(&portwatch, &host);

    let asked = Client::ask(&host, "hello\n");
    let (client, answer) = (asked.address, asked.answer.clone());
    let updated = portwatch.expect("what it is now", |event| {
        event.is_listener("listener-updated", PORT, host.netns())
            && event.text("process.executable") == PERL
    });
    let run = portwatch.stop();

    assert_eq!(answer, "hello");
    assert_eq!(opened.text("process.executable"), ACTIVATE.0);
    assert_eq!(updated.owner("opener", service.pid())["replaced"], true);
    assert_eq!(updated.text("package.name"), "perl-base");
    let flow = run.flow_from(client);
    assert_eq!(flow.number("process.pid"), u64::from(service.pid()));
    if is_whole(&run) {
        assert_eq!(flow.text("process.executable"), PERL);
    }
    run.assert_sound();
}

#[test]
fn of_a_virtual_smart_card_reader_both_sides_are_named() {
    let Some((host, portwatch)) = stage(&[PCSCD, VPCD, PYTHON]) else { return };
    let directory = directory();
    let reader = format!(
        "FRIENDLYNAME \"Virtual PCD\"\nDEVICENAME /dev/null:0x{PORT:04X}\nLIBPATH {}\n\
         CHANNELID 0x{PORT:04X}\n",
        VPCD.0
    );
    fs::write(directory.path().join("vpcd"), reader).expect("write a configuration");
    let configuration = directory.path().display().to_string();
    let pcscd = Service::start(&host, &["pcscd"], PCSCD.0, &["-f", "-c", &configuration]);
    let opened = opened(&portwatch, &host);

    let card = concat!(env!("CARGO_MANIFEST_DIR"), "/data/card.py");
    let mut card = Actor::start(host.command(PYTHON.0).args([card, &PORT.to_string()]));
    let client = address_in(&card.answer());
    assert_eq!(card.answer(), "told what card it is");
    let card_pid = card.pid();
    card.leave();
    let run = portwatch.stop();

    opened.assert_owner("", "opener", "exact", pcscd.pid());
    assert_eq!(opened.text("portwatch.listener.ip"), "0.0.0.0");
    assert_eq!(opened.text("package.name"), "pcscd");
    let flow = run.flow_from(client);
    flow.assert_owner("source", "opener", "exact", card_pid);
    flow.assert_owner("destination", "opener", "exact", pcscd.pid());
    assert_eq!(flow.number("process.pid"), u64::from(pcscd.pid()));
    assert_eq!(flow.text("process.name"), "pcscd");
    assert_eq!(flow.text("portwatch.flow.role"), "server");
    if is_whole(&run) {
        flow.assert_owner("destination", "user", "exact", pcscd.pid());
        flow.assert_owner("source", "user", "exact", card_pid);
    }
    run.assert_sound();
}

/// A host and a watch on it, where these programs are installed.
fn stage(programs: &[(&str, &str)]) -> Option<(Host, Portwatch)> {
    let host = Lab::loopback_only(ACTOR)?;
    if !are_installed(programs) {
        return None;
    }
    if !std::path::Path::new(PERL).exists() {
        skip("perl, which plays the clients, is not installed");
        return None;
    }
    let portwatch = host.portwatch(&["watch"]);
    Some((host, portwatch))
}

fn opened(portwatch: &Portwatch, host: &Host) -> Event {
    let netns = host.netns();
    portwatch.expect("the listener", |event| event.is_listener("listener-opened", PORT, netns))
}

/// The listener as a scan finds it.
fn found(host: &Host) -> Event {
    let scan = host.finish_portwatch(&["scan", "--format", "json"]);
    let mut events = scan.stdout.lines().map(Event::parse);
    let found = events.find(|it| it.is_listener("listener-found", PORT, host.netns()));
    found.unwrap_or_else(|| panic!("no listener: {}", scan.stderr))
}

/// A client that has said this and heard the last line of the answer, or the first where nothing ends it.
struct Client {
    perl: Actor,
    address: SocketAddr,
    answer: String,
}

impl Client {
    /// The connection stays until [`Self::leave`].
    fn ask(host: &Host, question: &str) -> Self {
        let mut perl =
            Actor::start(host.command(PERL).args(["-e", CLIENT, &PORT.to_string(), question]));
        let address = perl.answer().parse().expect("an address");
        let answer = perl.answer();
        Self { perl, address, answer }
    }

    /// Leaves once a scan has told who has the connection.
    fn leave(self, host: &Host) -> Event {
        let scan = host.finish_portwatch(&["scan", "--format", "json"]);
        let mut events = scan.stdout.lines().map(Event::parse);
        let connection =
            events.find(|it| it.is("flow-updated") && it.endpoint("source") == Some(self.address));
        self.perl.leave();
        connection.unwrap_or_else(|| panic!("no connection: {}", scan.stderr))
    }
}

const CLIENT: &str = r"
    use IO::Socket::INET;
    $| = 1;
    my ($port, $question) = @ARGV;
    my $s = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die $@;
    print '127.0.0.1:', $s->sockport, qq(\n);
    print $s $question;
    my @lines = $question =~ /^GET/ ? <$s> : scalar <$s>;
    print $lines[-1] =~ s/\s+$//r, qq(\n);
    <STDIN>;
";

/// A child of the service, of this name and package, serves the connection that a scan saw.
fn assert_child_serves(
    run: &Run,
    connection: &Event,
    service: &Service,
    name: &str,
    package: &str,
) {
    let holders = connection.owners();
    let holders = holders.iter().filter(|it| it.side == "destination");
    let holders: Vec<u32> = holders.map(|holder| holder.pid).collect();
    let [worker] = holders[..] else { panic!("one process has it: {holders:?}") };
    let owner = connection.owner("holder", worker);
    assert_eq!((&owner["name"], &owner["package"]), (&name.into(), &package.into()));
    assert_eq!(owner["ancestors"][0]["pid"], service.pid());
    let client = connection.endpoint("source").expect("the address of the client");
    let flow = run.flow_from(client);
    flow.assert_owner("destination", "opener", "exact", service.pid());
    if is_whole(run) {
        flow.assert_owner("destination", "user", "exact", worker);
        assert_eq!(flow.number("process.pid"), u64::from(worker));
        assert_eq!(flow.owner("user", worker)["name"], name);
    }
}

/// Does the kernel tell who reads and writes? Before Linux 6.3 it does not.
fn is_whole(run: &Run) -> bool {
    run.attached("pw_recv_length")
}

fn nginx(host: &Host, directory: &TempDir) -> Service {
    let path = directory.path().display();
    let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let places = places.map(|place| format!("{place}_temp_path {path}/{place};"));
    let config = format!(
        "daemon off; worker_processes 2; user root; pid {path}/pid; error_log {path}/log;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off; {} server {{ listen 127.0.0.1:{PORT}; default_type text/plain; \
         location / {{ return 200 \"$pid\"; }} }} }}\n",
        places.concat()
    );
    let file = directory.path().join("nginx.conf");
    fs::write(&file, config).expect("write a configuration");
    let file = file.display().to_string();
    Service::start(host, &[], NGINX.0, &["-e", "/dev/null", "-c", &file])
}

fn address_in(answer: &str) -> SocketAddr {
    let address = answer.rsplit(' ').next().and_then(|word| word.parse().ok());
    address.expect("an address in an answer")
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("make a directory")
}
