//! What goes on to disagree.

use std::collections::{HashMap, HashSet};

use crate::views::{Comparison, Disagreement, Subject};

/// As many looks in a row have to disagree. The tables of the kernel are walked while they change, and each
/// walk may miss what is there; three in a row do not.
const LOOKS: u32 = 3;
/// Disagreements followed at a time, and those remembered as told before all are forgotten.
const MAX_SUBJECTS: usize = 4_096;

/// Disagreements that have not lasted yet, and those that were told.
#[derive(Debug, Default)]
pub struct Suspicions {
    /// In how many looks in a row.
    looks: HashMap<Subject, u32>,
    /// And how many looks in a row have agreed since.
    told: HashMap<Subject, u32>,
}

impl Suspicions {
    /// Takes in what came of a look; gives what has disagreed for long enough and was not given before, and
    /// of what was given that which is over.
    pub fn take_in(&mut self, comparison: &Comparison) -> (Vec<Disagreement>, Vec<Subject>) {
        let disagreements = &comparison.disagreements;
        let still: HashSet<&Subject> = disagreements.iter().map(|it| &it.subject).collect();
        self.looks.retain(|subject, _| still.contains(subject) || !comparison.covers(subject));
        let agreed = |subject: &Subject, looks: &mut u32| {
            *looks = if still.contains(subject) { 0 } else { *looks + 1 };
            *looks >= LOOKS
        };
        let over = self
            .told
            .extract_if(|subject, looks| comparison.covers(subject) && agreed(subject, looks))
            .map(|(subject, _)| subject)
            .collect();
        let mut lasted = Vec::new();
        for disagreement in disagreements {
            let subject = &disagreement.subject;
            if self.told.contains_key(subject)
                || self.looks.len() >= MAX_SUBJECTS && !self.looks.contains_key(subject)
            {
                continue;
            }
            let looks = self.looks.entry(subject.clone()).or_default();
            *looks += 1;
            if *looks >= LOOKS {
                self.looks.remove(subject);
                if self.told.len() >= MAX_SUBJECTS {
                    self.told.clear();
                }
                self.told.insert(subject.clone(), 0);
                lasted.push(disagreement.clone());
            }
        }
        (lasted, over)
    }

    /// Something disagrees and has not lasted yet: worth another look soon.
    pub fn are_open(&self) -> bool {
        !self.looks.is_empty()
    }
}
