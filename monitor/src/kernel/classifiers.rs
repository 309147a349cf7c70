//! The programs that attach to interfaces: those of the kernel object, for our own network namespace,
//! and those that packets of other namespaces go on to.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, ProgramArray};
use aya::programs::SchedClassifier;
use monitor_ebpf::wire::GATES;

use crate::kernel::gate::Ways;
use crate::kernel::object::Object;
use crate::kernel::source::Source;

/// Their names.
pub(super) const CLASSIFIERS: [&str; 4] =
    ["pw_ingress", "pw_egress", "pw_ingress_l3", "pw_egress_l3"];

/// Where the programs to attach come from.
pub trait Classifiers: Send {
    /// A program by its name, loaded.
    fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier>;

    /// Loads these side by side, as far as the kernel takes them.
    fn verify(&mut self, _names: &[&str]) {}

    /// They were loaded by a portwatch before this one.
    fn are_adopted(&self) -> bool {
        false
    }
}

impl Classifiers for Object {
    fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier> {
        let program: &mut SchedClassifier = self.program(name)?.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("loading {name}"))?;
        }
        Ok(program)
    }

    /// Each takes the kernel some tenths of a second. One that it refuses is refused again, with the
    /// reason, when an interface needs it.
    fn verify(&mut self, names: &[&str]) {
        std::thread::scope(|scope| {
            for (name, program) in self.source.programs_mut() {
                let Ok(program) = <&mut SchedClassifier>::try_from(program) else { continue };
                if names.contains(&name) && program.fd().is_err() {
                    scope.spawn(move || {
                        if let Err(error) = program.load() {
                            tracing::debug!("{name} is not verified: {error}");
                        }
                    });
                }
            }
        });
    }

    fn are_adopted(&self) -> bool {
        matches!(self.source, Source::Adopted { .. })
    }
}

impl Object {
    /// Verifies all classifiers, which takes rights that are given up afterwards.
    pub fn verify_classifiers(&mut self) {
        self.verify(&CLASSIFIERS);
    }

    /// Verifies what packets of other namespaces go on to, and opens the ways there.
    pub fn open_gates(&mut self) -> Result<Arc<Ways>> {
        self.verify(&GATES);
        for (index, name) in (0_u32..).zip(GATES) {
            let program = self.classifier(name)?.fd().context("a program that is loaded")?;
            let program = program.try_clone().with_context(|| format!("keeping {name}"))?;
            let map = self.source.map_mut("pw_gates").context("the kernel object has no gates")?;
            let mut gates = ProgramArray::try_from(map).context("opening pw_gates")?;
            gates.set(index, &program, 0).with_context(|| format!("leading to {name}"))?;
        }
        let Some(Map::ProgramArray(gates)) = self.source.map("pw_gates") else {
            anyhow::bail!("the kernel object has no gates");
        };
        let keep = |map: &MapData| map.fd().as_fd().try_clone_to_owned();
        Ok(Arc::new(Ways {
            here: keep(self.map("pw_here")?).context("keeping pw_here")?,
            gates: keep(gates).context("keeping pw_gates")?,
        }))
    }
}
