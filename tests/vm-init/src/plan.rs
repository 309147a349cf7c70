//! `/vm/plan`: what to do, a word and its value on each line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// What a machine was started for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Plan {
    /// Modules in the order in which they depend on each other: `module PATH`.
    pub(crate) modules: Vec<PathBuf>,
    /// Variables for each program: `environment NAME=VALUE`.
    pub(crate) environment: Vec<(String, String)>,
    /// Arguments for each program: `argument TEXT`.
    pub(crate) arguments: Vec<String>,
    /// How long a program may take: `limit SECONDS`.
    pub(crate) limit: Duration,
    /// What to run, one after the other: `program PATH`.
    pub(crate) programs: Vec<PathBuf>,
    /// The service manager that takes our place after that: `manager PATH`.
    pub(crate) manager: Option<PathBuf>,
    /// What is run by a service of it: `managed PATH`.
    pub(crate) managed: Vec<PathBuf>,
}

impl Plan {
    /// Reads a plan.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut plan = Self::default();
        for line in text.lines() {
            let (word, value) = line.split_once(' ').with_context(|| format!("read {line:?}"))?;
            match word {
                "module" => plan.modules.push(value.into()),
                "environment" => {
                    let (name, value) = value.split_once('=').context("read a variable")?;
                    plan.environment.push((name.to_owned(), value.to_owned()));
                }
                "argument" => plan.arguments.push(value.to_owned()),
                "limit" => plan.limit = Duration::from_secs(value.parse()?),
                "program" => plan.programs.push(value.into()),
                "manager" => plan.manager = Some(value.into()),
                "managed" => plan.managed.push(value.into()),
                _ => bail!("read {line:?}"),
            }
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_to_load_and_to_run_in_which_order() {
        let text = "module /vm/modules/00-veth.ko\nenvironment A=b=c\nargument --test-threads=1\n\
                    argument two words\nlimit 90\nprogram /vm/tests/cli\nprogram /vm/tests/loss\n\
                    manager /usr/lib/systemd/systemd\nmanaged /vm/tests/units\n";

        let plan = Plan::parse(text).unwrap();

        let expected = Plan {
            modules: vec!["/vm/modules/00-veth.ko".into()],
            environment: vec![("A".to_owned(), "b=c".to_owned())],
            arguments: vec!["--test-threads=1".to_owned(), "two words".to_owned()],
            limit: Duration::from_secs(90),
            programs: vec!["/vm/tests/cli".into(), "/vm/tests/loss".into()],
            manager: Some("/usr/lib/systemd/systemd".into()),
            managed: vec!["/vm/tests/units".into()],
        };
        assert_eq!(plan, expected);
    }

    #[test]
    fn a_line_that_says_nothing_known_is_an_error() {
        for text in ["sing loud\n", "module\n", "limit soon\n", "environment A\n"] {
            assert!(Plan::parse(text).is_err(), "{text}");
        }
    }
}
