//! Running other programs: every command that changes or builds something is printed first, and an
//! error carries its command line.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};

/// Arguments of cargo that build all programs and all tests. Whoever asks cargo for less gets dependencies with fewer features,
/// which are built once more.
pub(crate) const EVERYTHING: [&str; 5] = ["build", "--locked", "--workspace", "--bins", "--tests"];

/// The root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// The directory of development builds: the one this program runs from.
pub(crate) fn development_directory() -> Result<PathBuf> {
    let program = env::current_exe().context("find the path of xtask")?;
    let directory = program.parent().context("find the directory of xtask")?;
    Ok(directory.to_path_buf())
}

/// The target directory that cargo builds this workspace into.
pub(crate) fn target_directory() -> Result<PathBuf> {
    let development = development_directory()?;
    let target = development.parent().context("find the target directory")?;
    Ok(target.to_path_buf())
}

/// The cargo that started this program, in the root of the workspace.
pub(crate) fn cargo<I>(arguments: I) -> Command
where
    I: IntoIterator<Item: AsRef<OsStr>>,
{
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.args(arguments).current_dir(workspace());
    command
}

/// Says what is being done.
pub(crate) fn say(text: &str) {
    eprintln!("{text}");
}

/// Prints `command`, runs it and fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    say(&format!("$ {}", line(command)));
    let status = command.status().with_context(|| format!("start `{}`", line(command)))?;
    ensure!(status.success(), "`{}`: {status}", line(command));
    Ok(())
}

/// Whether `command`, run out of sight, can be run and succeeds.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// What `command`, run out of sight, writes to stdout.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    String::from_utf8(output_bytes(command)?)
        .with_context(|| format!("read the output of `{}` as text", line(command)))
}

/// What `command`, run out of sight, writes to stdout, which need not be text.
pub(crate) fn output_bytes(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        // Else rustup adds a page of addresses to its reason.
        .env_remove("RUST_BACKTRACE")
        .output()
        .with_context(|| format!("start `{}`", line(command)))?;
    ensure!(
        output.status.success(),
        "`{}`: {}: {}",
        line(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim(),
    );
    Ok(output.stdout)
}

/// The programs called `name`, in the order of the `PATH`.
pub(crate) fn programs(name: &str) -> impl Iterator<Item = PathBuf> {
    let mut directories = program_directories(&env::var_os("PATH").unwrap_or_default());
    // What root's PATH has and a user's often lacks, and where Debian puts its own cargo.
    directories.extend(program_directories(OsStr::new("/usr/sbin:/usr/bin")));
    let mut seen = BTreeSet::new();
    directories
        .into_iter()
        .filter(move |directory| seen.insert(directory.clone()))
        .map(move |directory| directory.join(name))
        .filter(|candidate| is_program(candidate))
}

/// The first program called `name` on the `PATH`.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    programs(name).next()
}

/// Whether this process may do everything.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// The directories of a `PATH` that exist, `/bin` as the `/usr/bin` that it is on most systems.
fn program_directories(path: &OsStr) -> Vec<PathBuf> {
    env::split_paths(path).filter_map(|directory| directory.canonicalize().ok()).collect()
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// The command line as one would type it, with the variables set for it alone.
pub(crate) fn line(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quoted(value?))));
    let words = [command.get_program()].into_iter().chain(command.get_args()).map(quoted);
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_=./:,@+".contains(letter);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        let mut command = Command::new("cargo");
        command.args(["doc", "--features=a b", "it's", ""]).env("RUSTDOCFLAGS", "-D warnings");

        assert_eq!(
            line(&command),
            r"RUSTDOCFLAGS='-D warnings' cargo doc '--features=a b' 'it'\''s' ''"
        );
    }

    #[test]
    fn an_error_carries_the_command_line_and_what_the_program_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such thing >&2; exit 3"]);

        let error = output(&mut command).unwrap_err().to_string();

        assert_eq!(
            error,
            "`sh -c 'echo no such thing >&2; exit 3'`: exit status: 3: no such thing"
        );
    }

    #[test]
    fn a_program_that_does_not_exist_neither_succeeds_nor_is_found() {
        assert!(!succeeds(&mut Command::new("no-such-program")));
        assert_eq!(program("no-such-program"), None);
        assert!(program("sh").is_some());
    }
}
