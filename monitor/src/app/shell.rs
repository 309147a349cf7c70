//! Somebody at a shell: prompts, what shells say when they start, and what `id` answers.
//!
//! Whoever opened the connection may be the one with the shell: it is looked for on both sides.

use super::classify::{Match, Talk};
use super::read::{has, lines};
use super::{Confidence, Protocol};

pub(super) fn matches(talk: &Talk<'_>) -> Option<Match> {
    let sides = [(talk.server.bytes, talk.client.bytes), (talk.client.bytes, talk.server.bytes)];
    let found = sides.into_iter().filter_map(|(shell, person)| shell_of(shell, person));
    let (confidence, what) = found.max_by_key(|(confidence, _)| *confidence)?;
    Some(Match::new(Protocol::Shell, confidence).detail(what))
}

/// What shells of Windows say first.
const OPENINGS: [(&str, &str); 2] =
    [("Microsoft Windows [Version ", "cmd.exe"), ("Windows PowerShell", "PowerShell")];

const SHELLS: [&str; 5] = ["bash: ", "sh: ", "/bin/bash: ", "/bin/sh: ", "-bash: "];

const COMPLAINTS: [&str; 3] = [
    "no job control in this shell",
    "cannot set terminal process group",
    "can't access tty; job control turned off",
];

/// How sure it is that this side is a shell, and what says so.
fn shell_of(shell: &[u8], person: &[u8]) -> Option<(Confidence, &'static str)> {
    let said = OPENINGS.iter().find(|(opening, _)| shell.starts_with(opening.as_bytes()));
    // A shell without a terminal complains of it in its first lines.
    let complains = |line: &[u8]| {
        SHELLS.iter().any(|shell| line.starts_with(shell.as_bytes()))
            && COMPLAINTS.iter().any(|complaint| has(line, complaint.as_bytes()))
    };
    let complaint = lines(shell).take(3).any(complains).then_some("without a terminal");
    if let Some(what) = said.map(|(_, what)| *what).or(complaint) {
        return Some((Confidence::Certain, what));
    }
    let commands = lines(person).any(is_command);
    if lines(shell).any(is_identity) {
        let confidence = if commands { Confidence::Certain } else { Confidence::Likely };
        return Some((confidence, "answers as id(1) does"));
    }
    let prompts = shell.rsplit(|byte| *byte == b'\n').next().is_some_and(is_prompt)
        || shell.split(|byte| *byte == b'\n').any(is_prompt);
    match (prompts, commands) {
        (true, true) => Some((Confidence::Certain, "a prompt and commands")),
        (true, false) => Some((Confidence::Likely, "a prompt")),
        _ => None,
    }
}

/// `uid=0(root) gid=0(root)`.
fn is_identity(line: &[u8]) -> bool {
    let digits = line.strip_prefix(b"uid=").unwrap_or_default();
    let behind = digits.trim_ascii_start().iter().position(|byte| !byte.is_ascii_digit());
    behind.is_some_and(|end| (1..=10).contains(&end) && digits.get(end) == Some(&b'('))
        && has(digits, b" gid=")
}

/// `root@host:~# `, `[user@host dir]$ `, `sh-5.2$ `, `bash-5.2# `, `C:\Users\eve>`; a command may follow.
fn is_prompt(line: &[u8]) -> bool {
    let line = without_colours(line);
    let line = line.as_slice();
    let end = line.windows(2).position(|pair| matches!(pair, [b'$' | b'#', b' ']));
    let before = end.and_then(|end| line.get(..end)).unwrap_or_default();
    let is_named = before.len() < 100
        && before.contains(&b'@')
        && (before.contains(&b':') || before.starts_with(b"["))
        && !before.contains(&b'<');
    let is_plain = ["sh-", "bash-"].iter().any(|shell| {
        before.strip_prefix(shell.as_bytes()).is_some_and(|version| {
            version.first().is_some_and(u8::is_ascii_digit) && version.len() < 8
        })
    });
    let is_bare = matches!(line, b"$ " | b"# ");
    let is_windows =
        line.len() < 200 && matches!(line, [b'A'..=b'Z', b':', b'\\', ..]) && line.contains(&b'>')
            || line.starts_with(b"PS ") && has(line, b":\\") && line.contains(&b'>');
    is_named || is_plain || is_bare || is_windows
}

/// Without what colours a prompt and names its window.
fn without_colours(line: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            // `ESC [ … letter` and `ESC ] … BEL`.
            0x1b => match bytes.next() {
                Some(b'[') => drop(bytes.find(u8::is_ascii_alphabetic)),
                Some(b']') => drop(bytes.find(|byte| *byte == 7)),
                _ => {}
            },
            b'\r' => {}
            other => plain.push(other),
        }
    }
    plain
}

/// What somebody types first.
fn is_command(line: &[u8]) -> bool {
    const FIRST: [&[u8]; 20] = [
        b"id",
        b"whoami",
        b"uname",
        b"ls",
        b"pwd",
        b"cat",
        b"cd",
        b"ps",
        b"hostname",
        b"ip",
        b"w",
        b"ifconfig",
        b"python",
        b"python3",
        b"echo",
        b"exit",
        b"export",
        b"dir",
        b"ipconfig",
        b"env",
    ];
    let word = line.split(|byte| *byte == b' ' || *byte == b';').next().unwrap_or_default();
    FIRST.contains(&word)
}
