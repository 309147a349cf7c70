//! Real processes that do as they are told, one step after the other.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::lines::Lines;
use crate::process::wait;

/// A running actor; see `src/bin/actor.rs` for the steps it knows. Killed when dropped.
#[derive(Debug)]
pub struct Actor {
    child: Child,
    steps: Option<ChildStdin>,
    answers: Lines<String>,
    heard: usize,
}

/// An actor that has come to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Performed {
    /// Its pid.
    pub pid: u32,
    /// What it answered to each step.
    pub answers: Vec<String>,
}

impl Actor {
    /// Starts the actor of a complete command.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let started = command.spawn();
        let mut child = started.unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let steps = child.stdin.take();
        let answers = child.stdout.take().expect("take the answers of an actor");
        Self { child, steps, answers: Lines::of(answers, |line| Some(line.to_owned())), heard: 0 }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells an actor that stays to perform a step.
    pub fn tell(&mut self, step: &str) {
        let mut steps = self.steps.as_ref().expect("tell an actor a step");
        writeln!(steps, "{step}").expect("tell an actor a step");
    }

    /// What it says once the next step is done.
    pub fn answer(&mut self) -> String {
        let answer = self.answers.find(self.heard, |_line| true);
        let (position, line) = answer.expect("an actor does not answer");
        self.heard = position.saturating_add(1);
        line
    }

    /// Tells it a step and waits until that is done.
    pub fn ask(&mut self, step: &str) -> String {
        self.tell(step);
        self.answer()
    }

    /// Waits for so many answers and the actor's end.
    pub fn finish(mut self, answers: usize) -> Performed {
        let answers = (0..answers).map(|_| self.answer()).collect();
        self.steps = None;
        let status = wait(&mut self.child).expect("an actor does not end");
        assert!(status.success(), "an actor ended with {status}");
        Performed { pid: self.pid(), answers }
    }

    /// Tells an actor that stays to exit, and waits for that.
    pub fn leave(self) {
        self.finish(0);
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        // Of one that has ended already there is nothing to kill, which is no failure.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Performed {
    /// The address in the first answer that has one: where it connected or sent from.
    pub fn address(&self) -> SocketAddr {
        let addresses = self.answers.iter().filter_map(|answer| last_word(answer)?.parse().ok());
        addresses.into_iter().next().expect("find an address in the answers of an actor")
    }
}

fn last_word(answer: &str) -> Option<&str> {
    answer.split_whitespace().last()
}
