//! The kernel side as user space sees it: load, attach, read.
//!
//! Everything attached is held by descriptors: when the process ends, however it ends, the kernel
//! detaches it. The exceptions are the legacy clsact hook, where the next start cleans up what was
//! ours, and what the user asked to stay (`pin`).

/// An error in one line. Of what the verifier says, which is a line for each instruction it looked at,
/// that is the last line before its statistics: why it refuses.
pub fn in_one_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let (what, log) = text.split_once("Verifier output:").unwrap_or((&text, ""));
    let what = what.lines().next().unwrap_or_default().trim_end();
    let is_statistics =
        |line: &&str| ["verification time ", "processed "].iter().any(|it| line.starts_with(it));
    let reason = log.lines().map(str::trim).take_while(|line| !is_statistics(line));
    match reason.filter(|line| !line.is_empty()).last() {
        Some(reason) => format!("{what} {reason}"),
        None => what.to_owned(),
    }
}

pub mod preflight;
pub mod btf;
mod layout;
mod memlock;
mod probe;
pub mod pin;
pub mod flow_table;
mod flow_ring;
pub mod packet_rings;
pub mod tally;
mod source;
pub mod object;
pub mod cgroup;
pub mod tracepoint;
pub mod classifiers;
pub mod gate;
pub mod interface;
pub mod programs;
pub mod chain;
pub mod inventory;
pub mod holders;
pub mod views;
pub mod log;

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::in_one_line;

    #[test]
    fn a_refused_program_is_told_with_the_reason_and_not_with_what_it_consists_of() {
        let log = "0: (b7) r0 = 0\n; source line\n1: (85) call bpf_unknown#93\nunknown func \
                   bpf_unknown#93\nverification time 52 usec\nstack depth 0\nprocessed 2 insns";
        let error = anyhow!("the BPF_PROG_LOAD syscall returned EINVAL. Verifier output: {log}");

        assert_eq!(
            in_one_line(&error.context("loading pw_ingress")),
            "loading pw_ingress: the BPF_PROG_LOAD syscall returned EINVAL. unknown func bpf_unknown#93"
        );
    }

    #[test]
    fn an_error_without_a_reason_of_the_verifier_is_its_first_line() {
        let refused = anyhow!("it returned EPERM. Verifier output: \nprocessed 0 insns");

        assert_eq!(in_one_line(&refused), "it returned EPERM.");
        assert_eq!(in_one_line(&anyhow!("no such file\nand more")), "no such file");
    }
}
